"""Pure. The prompts of parallel workers: named templates with slots, from `templates.toml` or a file like it.

Knows the model's prompt layout only as something that turns text into tokens; text never becomes special
tokens.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from tandem.core.errors import BadQuestion, InvalidInput

if TYPE_CHECKING:
    from tandem.vlm.families.base import PromptLayout

BUILTIN = Path(__file__).with_name("templates.toml")
DEFAULT_TEMPLATE = "marks"
MAX_SLOT_CHARS = 8192
_QUESTION, _TURN = "{question}", "{turn}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """One set of prompts; `templates.toml` says what each slot is for."""

    names: tuple[str, ...] = ()
    rules: str = ""
    intro: str = ""
    step: str = ""
    check: str = ""
    others: str = ""
    own: str = ""
    answer: str = ""

    def name(self, worker: int) -> str:
        """What a worker is called; workers count from 0, their numbers from 1."""
        return self.names[worker] if worker < len(self.names) else str(worker + 1)

    def everybody(self, count: int) -> str:
        """All names."""
        return ", ".join(self.name(worker) for worker in range(count))

    def opening(self, worker: int, step: int, count: int, *, checks: bool = False) -> str:
        """The text that opens a worker's step; `checks`: with the self-check."""
        text = (self.intro if step == 1 else self.step) + (self.check if checks else "")
        others = ", ".join(self.name(other) for other in range(count) if other != worker)
        slots = {"{worker}": self.name(worker), "{step}": str(step), "{others}": others}
        for slot, value in slots.items():
            text = text.replace(slot, value)
        return text


@dataclass(frozen=True, slots=True)
class Prompts:
    """A question of several workers, in tokens."""

    prompt_ids: tuple[int, ...]
    """The question's prompt with the rules in it."""
    span: tuple[int, int]
    """The user's own words among them: half-open."""
    others_ids: tuple[int, ...]
    own_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    """What opens the answer; never empty."""


def make_prompts(
    template: Template, count: int, prompt: PromptLayout, prompt_ids: Sequence[int], max_tokens: int
) -> Prompts:
    """From the prompt of the bare question. Raises BadQuestion when rules and question are too long."""
    first, last = prompt.question_span(prompt_ids)
    words, turn = list(prompt_ids[first:last]), list(prompt_ids[last:])
    rules = prompt.encode_text(template.rules.replace("{workers}", template.everybody(count)))
    ids = (*prompt_ids[:first], *rules, *prompt_ids[first:])
    if len(ids) > max_tokens:
        raise BadQuestion(f"question and rules take {len(ids)} tokens; at most {max_tokens} are allowed")
    answer: list[int] = []
    for piece in _pieces(template.answer or _TURN):
        answer += {_QUESTION: words, _TURN: turn}.get(piece) or prompt.encode_text(piece)
    return Prompts(
        prompt_ids=ids,
        span=(first + len(rules), last + len(rules)),
        others_ids=tuple(prompt.encode_text(template.others)) if count > 1 else (),
        own_ids=tuple(prompt.encode_text(template.own)) if count > 1 else (),
        answer_ids=tuple(answer or turn or words),
    )


def load_templates(more: str = "") -> dict[str, Template]:
    """The builtin templates and those of another file, by name; a name in both is the file's.

    Raises InvalidInput that names the file and what is wrong in it.
    """
    found = _read(BUILTIN)
    if more:
        found |= _read(Path(more))
    return found


def _read(path: Path) -> dict[str, Template]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInput(f"the worker templates in {path} cannot be read: {error}") from error
    return {name: _template(table, f"template {name!r} in {path}") for name, table in tables.items()}


def _template(table: object, where: str) -> Template:
    if not isinstance(table, Mapping):
        raise InvalidInput(f"{where} is no table")
    known = {field.name for field in fields(Template)}
    if unknown := sorted(set(table) - known):
        raise InvalidInput(f"{where}: unknown {', '.join(unknown)} (known: {', '.join(sorted(known))})")
    names = table.get("names", [])
    texts = {key: value for key, value in table.items() if key != "names"}
    for text in [*texts.values(), *(names if isinstance(names, list) else [None])]:
        if not isinstance(text, str) or len(text) > MAX_SLOT_CHARS:
            raise InvalidInput(f"{where}: every slot is a text of at most {MAX_SLOT_CHARS} characters")
    template = Template(names=tuple(names), **texts)
    if (template.others or template.own) and not (template.intro and template.step):
        # A worker's first token is chosen behind its header and opening, not behind the prompt.
        raise InvalidInput(f"{where}: a template with headers needs intro and step")
    return template


def _pieces(text: str) -> list[str]:
    """The text cut at its slots, slots kept."""
    pieces = [text]
    for slot in (_QUESTION, _TURN):
        cut: list[str] = []
        for piece in pieces:
            for at, part in enumerate(piece.split(slot) if piece not in {_QUESTION, _TURN} else [piece]):
                cut += [slot, part] if at else [part]
        pieces = cut
    return [piece for piece in pieces if piece]
