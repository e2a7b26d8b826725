"""Shell ring: text to tokens and back. Knows no prompts; `prompt` composes them.

Template text may name special tokens, user text never produces one: it goes through a tokenizer that has
none.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tandem.core.errors import Incompatible
from tandem.vlm.fingerprint import digest_tokenizer

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
MAX_WAITING = 16
"""Tokens of punctuation or symbols after which text is handed out all the same."""


class Tokens:
    """One checkpoint's tokenizer, split into a trusting and a distrustful half. Thread-safe."""

    def __init__(self, specification: str) -> None:
        """`specification`: the text of a tokenizer.json."""
        self._trusted = Tokenizer.from_str(specification)
        fields: dict[str, Any] = json.loads(specification)
        self.digest = digest_tokenizer(fields)
        self.special_ids = frozenset(int(token["id"]) for token in fields.get("added_tokens", ()))
        fields["added_tokens"], fields["post_processor"] = [], None
        self._distrustful = Tokenizer.from_str(json.dumps(fields))

    @staticmethod
    def load(folder: Path) -> Tokens:
        """From a checkpoint's folder. Raises Incompatible when it has no tokenizer.json."""
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise Incompatible(
                f"{folder} has no tokenizer.json; save the tokenizer once with transformers to make one"
            )
        return Tokens(path.read_text(encoding="utf-8"))

    def template(self, text: str) -> list[int]:
        """Tokens of our own text, special tokens understood."""
        return list(self._trusted.encode(text, add_special_tokens=False).ids)

    def user(self, text: str) -> list[int]:
        """Tokens of anybody's text; what would be a special token is left out."""
        ids = self._distrustful.encode(text, add_special_tokens=False).ids
        return [token for token in ids if token not in self.special_ids]

    def id_of(self, token: str) -> int | None:
        """Id of a token by its exact text."""
        found: int | None = self._trusted.token_to_id(token)
        return found

    def decode(self, token_ids: Iterable[int]) -> str:
        """Text of tokens, special ones left out."""
        text: str = self._trusted.decode(list(token_ids), skip_special_tokens=True)
        return text


class Detokenizer:
    """Turns one answer's tokens into text as they come; what was handed out never changes.

    Text up to the last letter or digit is settled. What follows waits for the next token: half a character,
    and punctuation, whose spaces decoders tidy with the word after it. Decoding starts at a settled token,
    because decoders join tokens with those before them.
    """

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._pending: list[int] = []
        """Tokens from the last settled one on."""
        self._emitted = ""
        """Text of the pending tokens that was handed out."""

    def push(self, token_id: int) -> str:
        """Text that became certain with this token."""
        if token_id in self._tokens.special_ids:
            return ""
        self._pending.append(token_id)
        text = self._tokens.decode(self._pending)
        end = _settled(text)
        if len(self._pending) > MAX_WAITING and not text.endswith(REPLACEMENT):
            end = len(text)
        fresh = text[len(self._emitted) : end]
        self._emitted += fresh
        if end == len(text):
            self._pending = self._pending[-1:]
            self._emitted = self._tokens.decode(self._pending)
        return fresh

    def finish(self) -> str:
        """What is left; a broken character comes out as U+FFFD."""
        return self._tokens.decode(self._pending)[len(self._emitted) :]


def _settled(text: str) -> int:
    end = len(text)
    while end and not text[end - 1].isalnum():
        end -= 1
    return end


def byte_tokenizer(special: Sequence[tuple[str, int]]) -> str:
    """A tokenizer.json for random weights: bytes are tokens 0 to 255, specials where they are asked for."""
    from tokenizers import AddedToken, decoders, models, pre_tokenizers

    alphabet = {symbol: at for at, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet | dict(special), merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text, _ in special])
    text: str = tokenizer.to_str()
    return text
