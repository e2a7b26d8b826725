"""Shell ring: from a path, hub name or builtin configuration to a `VisionLanguageModel`.

Finds files through `checkpoint`; alters transformers' model so that its attention reads views: the text
rotary becomes the identity and the attention function ours; on CPUs large linear layers are packed. No model
code is rewritten.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import torch

from tandem.core.blocks import KVLayout
from tandem.core.errors import Incompatible, InvalidInput
from tandem.core.watching import MAX_NOTE_TOKENS, MAX_PROMPT_CHARS
from tandem.vlm.attention import ATTENTION_NAME, register
from tandem.vlm.backends.pick import pick_backend
from tandem.vlm.checkpoint import DTYPES, Checkpoint, find_checkpoint
from tandem.vlm.dummy import dummy_tokenizer
from tandem.vlm.families.qwen2_5_vl import DEFAULT_FPS
from tandem.vlm.fingerprint import fingerprint
from tandem.vlm.model import VisionLanguageModel
from tandem.vlm.packed import pack_linears
from tandem.vlm.positions import AdvanceRules
from tandem.vlm.preprocess import RESAMPLINGS, Preprocessor, Resampling, read_preprocessor
from tandem.vlm.prompt import DEFAULT_MAX_QUESTION_TOKENS, Layout, Template
from tandem.vlm.rope import Identity, Rope
from tandem.vlm.tokens import Tokens

MAX_FPS = 1000.0
_TEXTS = ("sink", "unit_prefix", "unit_suffix", "question")
_COUNTS = ("window_units", "max_question_tokens", "recent_tokens", "recalled_blocks")
NOTE_FIELDS = ("note_prompt", "note_tokens", "shelf_tokens", "note_alone", "note_stop")


def load_model(
    source: str,
    *,
    load_format: str = "auto",
    dtype: str | None = None,
    device: str = "cpu",
    revision: str | None = None,
    seed: int = 0,
    backend: str = "auto",
    max_pixels: int | None = None,
    fps: float | None = None,
    resampling: Resampling = "torchvision",
) -> VisionLanguageModel:
    """Load a model.

    `source`: a directory, a hub name, ``"default"`` (the embedded checkpoint), or with
    ``load_format="dummy"`` (implied by the prefix ``dummy:``) a config.json, a directory that has one, or a
    builtin ``dummy:tiny``, ``dummy:tiny-timestamped``, ``dummy:small``, ``dummy:medium``,
    ``dummy:qwen2.5-vl-3b``, ``dummy:qwen2.5-vl-7b``: random weights from `seed`. `dtype`: "float32",
    "bfloat16" or "float16"; None: float32 on CPUs, the checkpoint's own elsewhere. `backend`: attention
    backend ("auto", "reference", "plain", "cpu", "cuda").
    `max_pixels` lowers the checkpoint's pixel budget per frame, `fps` is the sampling rate that native
    positions assume (None: the checkpoint's). `resampling` of pictures: as torchvision does it, or as
    "pillow". All three are part of the fingerprint.

    Raises NotFound (no such directory or file), Incompatible (another architecture, weights not in
    safetensors, a rope or sliding window that cannot be represented), InvalidInput (bad arguments),
    Unavailable (hub not reached).
    """
    _check_arguments(dtype, device, resampling)
    checkpoint = find_checkpoint(source, load_format=load_format, revision=revision, seed=seed)
    _refuse_sliding_window(checkpoint.config)
    kind = DTYPES[dtype] if dtype is not None else checkpoint.default_dtype(device)
    attention = pick_backend(backend, torch.device(device).type)
    pictures = read_preprocessor(
        checkpoint.pictures,
        checkpoint.config.vision_config,
        max_pixels=max_pixels,
        resampling=resampling,
        frame_size=checkpoint.layout.get("frame_size"),
    )
    hf = checkpoint.build(dtype=kind, device=device)
    seconds = checkpoint.family.seconds_per_unit(checkpoint.config, fps or _fps(checkpoint))
    rules = checkpoint.family.advance_rules(hf, seconds)
    template, tokens = _template(checkpoint, seconds), _tokens(checkpoint)
    prompt = Layout(
        template,
        tokens,
        rules,
        frames_per_unit=pictures.frames_per_unit,
        eos_ids=_eos_ids(hf, tokens),
    )
    rope = adapt(checkpoint, hf, kind)
    pack_linears(hf)
    layout = _kv_layout(hf, kind)
    return VisionLanguageModel(
        hf=hf,
        family=checkpoint.family,
        prompt=prompt,
        pictures=pictures,
        rope=rope,
        layout=layout,
        fingerprint=fingerprint(
            {
                **_facts_of_files(checkpoint, template, tokens, pictures),
                **_facts_of_model(layout, rope, rules, prompt),
            }
        ),
        backend=attention,
        device=torch.device(device),
        dtype=kind,
    )


def adapt(checkpoint: Checkpoint, hf: Any, dtype: torch.dtype) -> Rope:
    """Put the identity for the text rotary and our attention for the model's; returns its angles."""
    register()
    text = checkpoint.family.text_model(hf)
    rope = Rope.read_off(text.rotary_emb)
    text.rotary_emb = Identity(text.rotary_emb, dtype)
    text.set_attn_implementation(ATTENTION_NAME)
    return rope


def _check_arguments(dtype: str | None, device: str, resampling: str) -> None:
    if dtype is not None and dtype not in DTYPES:
        raise InvalidInput(f"unknown dtype {dtype!r}; there are: {', '.join(DTYPES)}")
    if resampling not in RESAMPLINGS:
        raise InvalidInput(f"unknown resampling {resampling!r}; there are: {', '.join(RESAMPLINGS)}")
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise InvalidInput(f"unknown device {device!r}") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise InvalidInput(f"device {device!r} was asked for, but torch sees no CUDA device here")


def _refuse_sliding_window(config: Any) -> None:
    kinds = set(getattr(config.text_config, "layer_types", None) or ())
    if kinds - {"full_attention"}:
        raise Incompatible(
            f"the model was made with {', '.join(sorted(kinds - {'full_attention'}))} layers; "
            "views decide what is seen, so only full attention is supported"
        )


def _fps(checkpoint: Checkpoint) -> float:
    fps = checkpoint.layout.get("fps", DEFAULT_FPS)
    if type(fps) not in (int, float) or not 0 < fps <= MAX_FPS:
        raise Incompatible(f"fps of tandem_layout.json is {fps!r}; above 0 and at most {MAX_FPS} is possible")
    return float(fps)


def _tokens(checkpoint: Checkpoint) -> Tokens:
    folder = checkpoint.folder
    if checkpoint.dummy_seed is not None and (folder is None or not (folder / "tokenizer.json").is_file()):
        return Tokens(dummy_tokenizer(checkpoint.config))
    assert folder is not None
    return Tokens.load(folder)


def _template(checkpoint: Checkpoint, seconds: float) -> Template:
    fields = checkpoint.layout
    notes = _notes(fields)
    if fields.get("layout", "native") == "native":
        return replace(checkpoint.family.native_template(seconds), **notes)
    if fields["layout"] != "timestamped":
        raise Incompatible(f"tandem_layout.json names an unknown layout {fields['layout']!r}")
    try:
        texts = {name: fields[name] for name in _TEXTS}
    except KeyError as error:
        raise Incompatible(f"tandem_layout.json lacks {error}") from error
    counts = {name: fields[name] for name in _COUNTS if fields.get(name) is not None}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise Incompatible(f"{name} of tandem_layout.json is {text!r}, not a text")
    for name, count in counts.items():
        if type(count) is not int or not 0 <= count < 2**31:
            raise Incompatible(f"{name} of tandem_layout.json is {count!r}; a whole number is possible")
    return Template(
        name="timestamped",
        seconds_per_unit=seconds,
        **{
            "window_units": None,
            "max_question_tokens": DEFAULT_MAX_QUESTION_TOKENS,
            **texts,
            **counts,
            **notes,
        },
    )


def _notes(fields: dict[str, Any]) -> dict[str, Any]:
    """How the checkpoint was trained to take notes, whatever its layout."""
    found = {name: fields[name] for name in NOTE_FIELDS if fields.get(name) is not None}
    prompt, tokens, shelf, alone, stop = (
        found.get(name, least) for name, least in zip(NOTE_FIELDS, ("", 0, 0, False, ""), strict=True)
    )
    for name, text in (("note_prompt", prompt), ("note_stop", stop)):
        if not isinstance(text, str) or len(text) > MAX_PROMPT_CHARS:
            raise Incompatible(
                f"{name} of tandem_layout.json is no text of {MAX_PROMPT_CHARS} characters at most"
            )
    for name, value, most in (("note_tokens", tokens, MAX_NOTE_TOKENS), ("shelf_tokens", shelf, 2**31)):
        if not isinstance(value, int) or not 0 <= value <= most:
            raise Incompatible(f"{name} of tandem_layout.json is {value!r}; 0 to {most} is possible")
    if not isinstance(alone, bool):
        raise Incompatible(f"note_alone of tandem_layout.json is {alone!r}; true and false are possible")
    return found


def _eos_ids(hf: Any, tokens: Tokens) -> frozenset[int]:
    found: set[int] = set()
    for config in (getattr(hf, "generation_config", None), hf.config.text_config):
        ids = getattr(config, "eos_token_id", None)
        found.update(ids if isinstance(ids, list) else [ids] if ids is not None else [])
    end = tokens.id_of("<|im_end|>")
    return frozenset(found if end is None else found | {end})


def _kv_layout(hf: Any, dtype: torch.dtype) -> KVLayout:
    text = hf.config.text_config
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return KVLayout(
        layers=text.num_hidden_layers,
        kv_heads=text.num_key_value_heads,
        head_dim=head_dim,
        dtype=str(dtype).removeprefix("torch."),
    )


def _facts_of_files(
    checkpoint: Checkpoint, template: Template, tokens: Tokens, pictures: Preprocessor
) -> dict[str, Any]:
    return {
        "weights": checkpoint.weights_digest(),
        "revision": checkpoint.revision,
        "config": checkpoint.lasting_config(),
        "layout": _of_blocks(checkpoint.layout),
        "template": _of_blocks(asdict(template)),
        "tokenizer": tokens.digest,
        "pictures": asdict(pictures),
    }


def _of_blocks(fields: dict[str, Any]) -> dict[str, Any]:
    """Without what changes no block: how notes are taken."""
    return {name: value for name, value in fields.items() if name not in NOTE_FIELDS}


def _facts_of_model(layout: KVLayout, rope: Rope, rules: AdvanceRules, prompt: Layout) -> dict[str, Any]:
    """What no file says alone: it is also up to the arguments and the installed versions."""
    return {
        "kv": [layout.layers, layout.kv_heads, layout.head_dim, layout.dtype],
        # Rounded: the last digit of a power depends on the version of torch.
        "rope": [[[f"{x:.5e}" for x in row] for row in rope.inv_freq_AF.tolist()], rope.scaling],
        "positions": [rules.text_after_video, rules.generation, rules.units_interval],
        "block_text": [prompt.sink_tokens(), *prompt.unit_tokens(0)],
    }
