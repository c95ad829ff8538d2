"""What a program tells its terminal about itself: whether it works or waits, its title, its modes.

Shells and agents' programs speak one of these protocols: OSC 133 (prompts and commands), OSC 9;4 (progress).
The invariant: only what was said whole counts, and memory is a few fields. Caller: `agents.live_terminal`.
"""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.core.escapes import Kind, Token

#: The private modes that a late viewer's terminal has to be given: how keys and the mouse are sent.
KNOWN_MODES = frozenset({1, 25, 1000, 1002, 1003, 1004, 1006, 2004})
_BRACKETED_PASTE = 2004
_AT_FIRST = frozenset({25})
_MAX_TITLE = 200
#: Of OSC 133: a prompt begins, it can be typed at; what was typed runs.
_WAITS, _WORKS = frozenset("AB"), "C"


class Signs:
    """What was said so far."""

    def __init__(self) -> None:
        self.title = ""
        self.modes = _AT_FIRST
        #: Whether the program said last that it works, or that it waits; None where it never said either.
        self.working: bool | None = None
        #: How often it said that it waits.
        self.waits = 0
        #: Open questions to the terminal: `c` (which kind), `5n` (how are you), `6n` (the cursor).
        self.asked: set[str] = set()

    @property
    def takes_pastes(self) -> bool:
        """Whether the program asked to be told what is pasted rather than typed."""
        return _BRACKETED_PASTE in self.modes

    def note(self, tokens: Iterable[Token]) -> None:
        """Take in the next tokens."""
        for token in tokens:
            if token.kind is Kind.OSC:
                self._command(token.text)
            elif token.kind is Kind.CSI:
                self._sequence(token)
            elif token.kind is Kind.SHORT and token.final == "c":
                self.modes = _AT_FIRST

    def _command(self, text: str) -> None:
        number, _, rest = text.partition(";")
        if number in {"0", "2"}:
            self.title = rest[:_MAX_TITLE]
        elif number == "133" and rest:
            if rest[0] in _WAITS:
                self._wait()
            elif rest[0] == _WORKS:
                self.working = True
        elif number == "9" and rest.startswith("4;"):
            if rest[2:3] == "0":
                self._wait()
            elif rest[2:3] in {"1", "3"}:  # 2 is an error, 4 a pause: neither says that it works
                self.working = True

    def _wait(self) -> None:
        self.working = False
        self.waits += 1

    def _sequence(self, token: Token) -> None:
        if token.prefix == "?" and token.final in {"h", "l"}:
            named = KNOWN_MODES.intersection(token.numbers())
            self.modes = self.modes | named if token.final == "h" else self.modes - named
        elif not token.prefix and token.final == "n" and token.text in {"5", "6"}:
            self.asked.add(f"{token.text}n")
        elif not token.prefix and token.final == "c" and token.text in {"", "0"}:
            self.asked.add("c")
