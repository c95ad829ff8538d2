"""What is written or shown holds none of the values that we hold: each is replaced by a mark.

One Aho-Corasick pass over a whole batch says whether any form of any value stands in it; only then is the
batch taken apart. The invariant: what comes out is as well formed as what came in. Callers: the process's
log, the agents' logs, the journal and problem documents, which are all given it by `assembly`.

What a task gives its agent as secret is taken out of what is written about that task, and only where others'
words stand: whoever chooses such a value chooses it against nobody, and against no id, ref or reason.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from datetime import date, datetime
from enum import Enum
from functools import cache, lru_cache
from typing import Any, get_args

from ahocorasick_rs import MATCHKIND_LEFTMOST_LONGEST, BytesAhoCorasick, Implementation

from orchestrator.core.events import Event, SayingEvent, TaskSubmitted
from orchestrator.core.model import TaskId
from orchestrator.core.turns import said as words_of
from orchestrator.journal.encoding import dump, encode_payload
from orchestrator.journal.store import Store
from orchestrator.logline import redact_log
from orchestrator.secrets.held import HeldValue, values_of_task

MARK = "[redacted]"
#: Fields of events, as written, in which an agent, its gates or a reviewer are quoted, or files named.
_QUOTES = frozenset(
    {"message", "error", "detail", "text", "complaints", "result", "outputTail", "review", "places"}
    | {"path", "files", "protected"}
)
_NO_WORDS = frozenset({int, float, bool, datetime, date, type(None)})


class Redactor:
    """Takes the values out of texts; one that knows none returns them as they are."""

    def __init__(self, held: Collection[HeldValue] = (), *, quotes_only: bool = False) -> None:
        self._quotes_only = quotes_only
        # What is made for each task is to be made quickly: the other kind takes 8 ms and 12 MB for one value.
        kind = Implementation.ContiguousNFA if quotes_only else None
        forms = _escaped({form for each in held for form in each.forms})
        self._forms = BytesAhoCorasick(sorted(forms), MATCHKIND_LEFTMOST_LONGEST, kind) if forms else None
        # As they stand in a JSON string, in which a quote or a backslash of a form is escaped once more.
        written = sorted(_escaped(forms))
        self._written = BytesAhoCorasick(written, implementation=kind) if forms else None

    def guard(self, store: Store) -> None:
        """Stand before all that is written for long: the journal, the agents' logs, the process's own log."""
        store.logs.redacted = self.rows
        redact_log(self.text)

        def redacted(event: Event, payload: bytes) -> tuple[Event, bytes]:
            return _of_task(store, event).event(*self.event(event, payload))

        store.redacted = redacted

    def text(self, text: str) -> str:
        """Return the text with each value, in whatever form, replaced."""
        if self._forms is None:
            return text
        data = text.encode(errors="surrogatepass")
        found = self._forms.find_matches_as_indexes(data)
        if not found:
            return text
        parts: list[bytes] = []
        at = 0
        for _, start, end in found:
            parts += (data[at:start], MARK.encode())
            at = end
        return b"".join([*parts, data[at:]]).decode(errors="replace")

    def rows(self, rows: str) -> str:
        """Return a JSON document with each value in its strings and names replaced."""
        return dump(self._throughout(json.loads(rows))) if self._holds(rows) else rows

    def event(self, event: Event, payload: bytes) -> tuple[Event, bytes]:
        """Return an event and its payload with each value in their strings replaced, of a task nothing."""
        if self._written is None or not _has_words(type(event)):
            return event, payload
        # Asked of the kind: of a missing field, pydantic makes ten times the cost of all this.
        said = (event.content or "") if _says(type(event)) else ""  # type: ignore[attr-defined]
        if not self._written.find_matches_as_indexes(payload) and not (said and self._holds(said)):
            return event, payload
        inside = self._quoted if self._quotes_only else self._inside
        # Not strict, as JSON has no tuples, times or kinds: where a value stands must not matter.
        clean = type(event).model_validate(inside(event.model_dump(mode="json")), strict=False)
        if said:
            clean = clean.model_copy(update=words_of(self._words(said)))
        return clean, encode_payload(clean)

    def _words(self, said: str) -> str:
        try:
            return self.rows(said)
        except (ValueError, RecursionError):  # no JSON, or nested too deeply to be taken apart
            return self.text(said)

    def _holds(self, text: str) -> bool:
        """Return whether any form may stand in the text, which is JSON."""
        if self._written is None:
            return False
        return bool(self._written.find_matches_as_indexes(text.encode(errors="surrogatepass")))

    def _inside(self, value: Any) -> Any:  # noqa: ANN401 - any JSON
        match value:
            case str():
                return self.text(value)
            case list():
                return [self._inside(each) for each in value]
            case dict():
                return {name: self._inside(each) for name, each in value.items()}
        return value

    def _throughout(self, value: Any) -> Any:  # noqa: ANN401 - any JSON
        """Return the same with the names clean, too: in what others wrote, these are theirs."""
        match value:
            case list():
                return [self._throughout(each) for each in value]
            case dict():
                return {self.text(name): self._throughout(each) for name, each in value.items()}
        return self._inside(value)

    def _quoted(self, value: Any) -> Any:  # noqa: ANN401 - any JSON
        match value:
            case list():
                return [self._quoted(each) for each in value]
            case dict():
                return {
                    name: self._inside(each) if name in _QUOTES else self._quoted(each)
                    for name, each in value.items()
                }
        return value


def redactor_of(env: Mapping[str, str]) -> Redactor:
    """Return what takes a task's own secrets out of what is written about it; `env` are its variables."""
    return _redactor_of(tuple(env.items()))


@lru_cache(maxsize=32)
def _redactor_of(env: tuple[tuple[str, str], ...]) -> Redactor:
    return Redactor(values_of_task(dict(env)), quotes_only=True)


def _of_task(store: Store, event: Event) -> Redactor:
    task = store.state.tasks.get(getattr(event, "task_id", TaskId("")))
    return redactor_of({} if task is None else task.spec.options.env)


@cache
def _has_words(kind: type[Event]) -> bool:
    """Return whether an event of the kind may say what others wrote; most kinds only name and count."""
    fields = {name: field.annotation for name, field in kind.model_fields.items()}
    return kind is not TaskSubmitted and any(
        _is_words(annotation) for name, annotation in fields.items() if name not in {"task_id", "agent_id"}
    )


@cache
def _says(kind: type[Event]) -> bool:
    """Return whether an event of the kind carries words beside its payload."""
    return issubclass(kind, SayingEvent)


def _is_words(annotation: object) -> bool:
    if inside := get_args(annotation):
        return any(_is_words(each) for each in inside)
    if isinstance(annotation, type):
        return annotation not in _NO_WORDS and not issubclass(annotation, Enum)
    return not isinstance(annotation, str | int)  # of a Literal


def _escaped(forms: set[bytes]) -> set[bytes]:
    """Return the forms, also as they stand in a JSON string."""
    return forms | {json.dumps(form.decode("latin-1"))[1:-1].encode() for form in forms}
