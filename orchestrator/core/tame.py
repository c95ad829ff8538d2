"""Makes what an agent's program writes to its terminal fit for a person's own terminal.

Pure. The invariant: nothing comes through but text, and the sequences by which a screen is drawn; no
sequence makes the person's terminal answer, reach its clipboard, title, palette, files or windows, or
change how its keys are sent; and `farewell` takes back every mode that did come through. What is not known
to be harmless is dropped. Caller: `orchestrator attach`.
"""

from __future__ import annotations

import re
import unicodedata

from orchestrator.core.escapes import Kind, Token, Tokens

#: Final characters of the sequences that draw: move, erase, insert, delete, scroll, colour.
_DRAWING = frozenset("@ABCDEFGHIJKLMPSTXZ`abdefgmrsu")
#: Modes without and with `?` that a program may set: see `farewell`.
_ANSI_MODES = frozenset({4, 20})
_MODES = frozenset({1, 6, 7, 12, 25, 47, 1000, 1002, 1003, 1004, 1006, 1015, 1047, 1049, 2004, 2026})
_ALTERNATE = frozenset({47, 1047, 1049})
_CONTROLS = frozenset("\a\b\t\n\v\f\r\x0e\x0f")
#: Save and restore the cursor, scroll, set a tab stop, the keypad's modes, and the two character sets.
_SHORT = frozenset(["7", "8", "D", "E", "H", "M", "=", ">", "(0", "(B", ")0", ")B"])
_PERHAPS = re.compile(r"[^ -~]")
#: Format (bidirectional, zero width), surrogate, private use, line separators; a joiner belongs to a picture.
_UNSEEN = frozenset({"Cf", "Cs", "Co", "Cn", "Zl", "Zp"})

#: Everything that may have been set, back to what a shell expects; the cursor goes down to the last line.
_FAREWELL = (
    "\x1b[r\x1b[4l\x1b[20l\x1b[?1l\x1b[?6l\x1b[?7h\x1b[?12l\x1b[?25h\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1004l"
    "\x1b[?1006l\x1b[?1015l\x1b[?2004l\x1b[?2026l\x1b>\x1b(B\x1b)B\x0f\x1b[0m\x1b[0 q\x1b[9999;1H\r\n"
)


class Tamer:
    """Passes on what draws, of one stream of bytes."""

    def __init__(self) -> None:
        self._tokens = Tokens()
        self._alternate = False

    def feed(self, data: bytes) -> bytes:
        """Return what may be shown of the next bytes: whole sequences only."""
        shown = "".join(self._tame(token) for token in self._tokens.feed(data))
        return shown.encode("utf-8", "replace")

    def farewell(self) -> bytes:
        """Return what leaves the terminal as it was before: also after a stream that was cut anywhere."""
        return (("\x1b[?1049l" if self._alternate else "") + _FAREWELL).encode()

    def _tame(self, token: Token) -> str:
        match token.kind:
            case Kind.TEXT:
                return _PERHAPS.sub(lambda found: _visible(found[0]), token.text)
            case Kind.CONTROL:
                return token.text if token.text in _CONTROLS else ""
            case Kind.SHORT:
                if token.final == "c":  # a full reset would take the person's scrollback with it
                    return "\x1b[0m\x1b[r\x1b[2J\x1b[H"
                return f"\x1b{token.final}" if token.final in _SHORT else ""
            case Kind.CSI:
                return self._sequence(token)
        return ""

    def _sequence(self, token: Token) -> str:
        if token.final in {"h", "l"}:
            return self._modes(token)
        if token.final == " q" and token.prefix == "":
            return f"\x1b[{min([*token.numbers(), 0][0], 6)} q"
        if token.prefix or token.final not in _DRAWING:
            return ""
        if token.final == "J" and 3 in token.numbers():  # the person's scrollback again
            return ""
        if token.final == "T" and len(token.numbers()) > 1:  # tracks the mouse, and waits for an answer
            return ""
        return f"\x1b[{token.text}{token.final}"

    def _modes(self, token: Token) -> str:
        private = token.prefix == "?"
        if not private and token.prefix:
            return ""
        good = [mode for mode in token.numbers() if mode in (_MODES if private else _ANSI_MODES)]
        if private and _ALTERNATE.intersection(good):
            good = [mode for mode in good if mode not in _ALTERNATE]
            self._alternate = token.final == "h"
            rest = f"\x1b[?{';'.join(map(str, good))}{token.final}" if good else ""
            return f"{rest}\x1b[?1049{token.final}"
        return f"\x1b[{token.prefix}{';'.join(map(str, good))}{token.final}" if good else ""


def _visible(character: str) -> str:
    if character == "\N{ZERO WIDTH JOINER}":
        return character
    return "" if unicodedata.category(character) in _UNSEEN else character
