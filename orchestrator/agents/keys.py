"""Words on their way to and from a terminal: what is typed for a prompt, what is logged of a screen.

The invariant: a prompt presses no key but its letters and Enter, whatever is written in it, so that it can
neither end its own paste nor interrupt the program; a line of the log holds no escape sequence. Caller:
`agents.terminal`.
"""

from __future__ import annotations

from orchestrator.core.escapes import Kind, Token, Tokens
from orchestrator.core.text import cleaned, escaped

_PASTE, _PASTED = b"\x1b[200~", b"\x1b[201~"
#: Sequences that go to another place of the screen: what comes next is another line for a reader.
_MOVES = frozenset("ABEFHJLMSTdf")


def pasted(prompt: str) -> bytes:
    """Return a prompt as a terminal hands over what is pasted."""
    return _PASTE + _keys(prompt) + _PASTED


def typed(prompt: str) -> bytes:
    """Return a prompt as it is typed: each line end is the key Enter, and a tab some spaces."""
    return _keys(prompt.expandtabs(4))


def _keys(prompt: str) -> bytes:
    return cleaned(prompt).rstrip("\n").replace("\n", "\r").encode("utf-8", "replace")


def shown_lines(line: str) -> list[str]:
    """Return a line of a terminal's output as the lines that a person would have read."""
    if "\x1b" not in line:
        return [_plain(line)]
    lines = [""]
    for token in Tokens().feed(line.encode("utf-8", "replace")):
        if token.kind is Kind.TEXT or token.text == "\t":
            lines[-1] += token.text
        elif _moves(token) and lines[-1]:
            lines.append("")
    return [_plain(part) for part in lines if part.strip()] or [""]


def _moves(token: Token) -> bool:
    return token.kind is Kind.CSI and token.final in _MOVES and not token.prefix


def _plain(line: str) -> str:
    return escaped(line, keep="\t").rstrip()
