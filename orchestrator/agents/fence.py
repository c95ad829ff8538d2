"""How a prompt holds what others wrote: fenced, labelled and harmless, or not at all.

The invariant: `Untrusted` text gets into a prompt only through `fenced` and `code`. Neither can be left from
inside: a fence is longer than any in its text, and both its label and the mark of its end bear a hash that
covers the text, so that no text can hold its own; and nothing in it is hidden, reorders what is read, or is
longer than its ceiling. No chance is in it: the same agent gets the same bytes after a restart. Caller:
`agents.prompt`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256

from jinja2 import pass_context
from jinja2.runtime import Context

from orchestrator.core.text import cleaned, escaped

#: Characters of a span in a line.
MAX_CODE = 300
#: Room for the mark of what was cut.
_MARK = 64
_BACKTICKS = re.compile("`+")


@dataclass(frozen=True, slots=True)
class Untrusted:
    """Words that somebody else wrote."""

    text: str

    def __str__(self) -> str:
        raise TypeError("what others wrote gets into a prompt by `fenced` or `code` only")


@pass_context
def fenced(context: Context, untrusted: Untrusted, name: str, limit: int) -> str:
    """Return the text in a fence that it cannot close, labelled `name` and with a hash of its own."""
    text = clip(untrusted.text.strip("\n"), limit)
    fence = "`" * max(3, _longest(text) + 1)
    words = (context["agent_id"], context["task_id"], name, text)
    nonce = sha256("\0".join(words).encode()).hexdigest()[:16]
    return f"{fence}{name} {nonce}\n{text}\n{fence}\n(end of {name} {nonce})"


def code(untrusted: Untrusted | str) -> str:
    """Return one line as a code span that it cannot close."""
    text = untrusted.text if isinstance(untrusted, Untrusted) else untrusted
    text = escaped(text)
    if len(text) > MAX_CODE:
        text = text[: MAX_CODE - 1] + "…"
    around = "`" * (_longest(text) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{around}{pad}{text}{pad}{around}"


def clip(text: str, limit: int) -> str:
    """Return the text made harmless, its middle cut where it has more than `limit` characters.

    Doing it again changes nothing.
    """
    text = cleaned(text)
    if len(text) <= limit:
        return text
    half = (limit - _MARK) // 2
    return f"{text[:half]}\n[{len(text) - 2 * half} characters cut]\n{text[-half:]}"


def _longest(text: str) -> int:
    return max(map(len, _BACKTICKS.findall(text)), default=0)
