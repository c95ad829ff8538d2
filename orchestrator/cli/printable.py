"""Make text that others wrote safe to show on a terminal.

The invariant: what `printable` returns holds no character that a terminal would obey or that reorders what
a person reads (C0 and C1 controls, ESC, bidirectional and zero-width marks, lone surrogates). Whatever an
agent, a repository or a remote had a hand in goes through here before it is printed: an OSC 52 in a test's
output would otherwise write to the operator's clipboard.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

#: Control, format (bidi, zero width), surrogate and private-use characters, and what breaks lines.
_OBEYED = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
_PLAIN = re.compile(r"[ -~]*")


def printable(text: str, *, multiline: bool = False) -> str:
    r"""Return the text with each character that is not for reading written as an escape: `\x1b`, `\u202e`.

    Line feeds and tabs stay where `multiline` is set.
    """
    if _PLAIN.fullmatch(text):
        return text
    kept = "\n\t" if multiline else ""
    return "".join(character if character in kept else _shown(character) for character in text)


def one_line(text: str, width: int = 160) -> str:
    """Return the text on one line, its white space folded, cut to a width with an ellipsis."""
    folded = printable(" ".join(text.split()))
    return folded if len(folded) <= width else folded[: width - 1] + "…"


def to_json(value: Mapping[str, Any] | Sequence[Any]) -> str:
    """Return one line of JSON in plain ASCII, so that it is safe on a terminal too."""
    # DEL is the one control character that JSON leaves as it is; it can stand only inside a string.
    return json.dumps(value, ensure_ascii=True).replace("\x7f", "\\u007f")


def _shown(character: str) -> str:
    if unicodedata.category(character) not in _OBEYED:
        return character
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
