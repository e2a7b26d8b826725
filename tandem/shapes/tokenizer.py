"""Build the default model's word-level tokenizer."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tandem.shapes.words import COLOUR_NAMES, NUMBERS, SHAPES, SPECIAL_TOKENS, plural

UNKNOWN = "<unk>"
PUNCTUATION = (":", ".", ",", "?", "!", "-", "'")
# Every word of every question, answer and template; tests check that no question holds an unknown word.
_WORDS = """
    system user assistant watch nothing none a an the what which was is were did do there it that
    has been have colour color shape shown show appear appeared appears see seen saw on screen at
    time after before came come right just next previous following preceding how many times count
    total in all shapes things objects different when first last now currently visible being moment
    latest recent most thing object yes no i you we tell me had to be any ever of and then happened
    happens this video so far until list describe name by number colours colors please can could
    directly immediately follows followed precedes preceded for
    [ ] back again more than once or note again
"""


def vocabulary() -> dict[str, int]:
    """Every token and its number."""
    words = [*SPECIAL_TOKENS, UNKNOWN, *NUMBERS, *PUNCTUATION, *COLOUR_NAMES]
    for shape in SHAPES:
        words += [shape, plural(shape)]
    words += _WORDS.split()
    return {word: index for index, word in enumerate(dict.fromkeys(words))}


def build() -> PreTrainedTokenizerFast:
    """The tokenizer: lower case, split at spaces and around punctuation, one token per known word."""
    core = Tokenizer(models.WordLevel(vocabulary(), unk_token=UNKNOWN))
    core.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"\d{1,2}|[^\w\s]"), "isolated")]
    )
    core.decoder = decoders.Sequence(
        [decoders.WordPiece(prefix="##", cleanup=True), decoders.Fuse(), decoders.Replace(" : ", ":")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token=UNKNOWN,
        pad_token="<|endoftext|>",  # noqa: S106
        eos_token="<|im_end|>",  # noqa: S106
        additional_special_tokens=list(SPECIAL_TOKENS),
        clean_up_tokenization_spaces=False,
        model_max_length=32768,
    )


def save(folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json."""
    build().save_pretrained(folder)
