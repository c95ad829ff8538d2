"""Text that agents and their programs wrote, made fit to be stored, shown and quoted.

Pure. Keeps one invariant: what `cleaned` returns holds no character that a terminal obeys or that reorders
what a person or a model reads. Callers: `agents` (the text of a turn) and `gates` (the evidence of a
verdict).
"""

from __future__ import annotations

import re
import unicodedata

#: What terminals obey and programs write for colour: CSI, OSC and the two-character escapes.
ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b\n]*(?:\x07|\x1b\\)?|[@-Z\\^_])")
_PLAIN = re.compile(r"[ -~\n\t]*")
#: Control, format (bidirectional, zero width), surrogate, private-use characters; the two odd line breaks.
_OBEYED = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})


def cleaned(text: str) -> str:
    """Return the text without terminal sequences; what else is not for reading is written as an escape."""
    if _PLAIN.fullmatch(text):
        return text
    text = ANSI.sub("", text).replace("\r\n", "\n")
    return "".join(map(_shown, text))


def tail_of(raw: bytes, limit: int) -> str:
    """Return the last `limit` characters of a program's output, cleaned, from the start of a line."""
    text = cleaned(raw.decode(errors="replace"))
    if len(text) <= limit:
        return text
    kept = text[-limit:]
    _, newline, rest = kept.partition("\n")
    return rest if newline and rest.strip() else kept


def _shown(character: str) -> str:
    if character in "\n\t" or unicodedata.category(character) not in _OBEYED:
        return character
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
