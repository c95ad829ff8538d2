"""Text that agents and their programs wrote, made fit to be stored, shown and quoted.

Pure. Keeps one invariant: what `escaped` and `cleaned` return holds no character that a terminal obeys or
that reorders what a person or a model reads (C0 and C1 controls, ESC, DEL, bidirectional and zero-width
marks, line and paragraph separators, lone surrogates). Callers: `agents` (the text of a turn), `gates` (the
evidence of a verdict), `repo` (messages and names), the process's log and the command line: an OSC 52 in a
test's output would otherwise write to the operator's clipboard.
"""

from __future__ import annotations

import re
import unicodedata

#: What terminals obey and programs write for colour: CSI, OSC and the two-character escapes.
ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b\n]*(?:\x07|\x1b\\)?|[@-Z\\^_])")
_PERHAPS = re.compile(r"[^ -~]")
#: Control, format (bidirectional, zero width), surrogate, private-use characters; the two odd line breaks.
_OBEYED = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})


def escaped(text: str, *, keep: str = "") -> str:
    r"""Return the text with each character that is not for reading written as an escape: `\x1b`, `\u202e`.

    The characters of `keep` stay as they are: `"\n\t"` where a text may have lines.
    """
    return _PERHAPS.sub(lambda found: found[0] if found[0] in keep else _shown(found[0]), text)


def cleaned(text: str) -> str:
    """Return the text without terminal sequences; its lines stay, what else is not for reading is escaped."""
    return escaped(ANSI.sub("", text).replace("\r\n", "\n"), keep="\n\t")


def tail_of(raw: bytes, limit: int) -> str:
    """Return the last `limit` characters of a program's output, cleaned, from the start of a line."""
    text = cleaned(raw.decode(errors="replace"))
    if len(text) <= limit:
        return text
    kept = text[-limit:]
    _, newline, rest = kept.partition("\n")
    return rest if newline and rest.strip() else kept


def _shown(character: str) -> str:
    if unicodedata.category(character) not in _OBEYED:
        return character
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
