r"""What a program writes to its terminal, cut into tokens: text, controls and whole escape sequences.

Pure. Keeps one invariant: whatever the bytes are and however they are cut, memory stays below
`MAX_STRING` characters, and each character is looked at a bounded number of times; a sequence that is too
long, cut off or malformed becomes no token. Callers: `agents` (what the program means, and its screen) and
`core.tame` (what may reach a person's terminal).
"""

from __future__ import annotations

import codecs
import re
from enum import StrEnum
from typing import NamedTuple

#: Characters of an operating system command (a title, say) that are kept; a longer one is no token.
MAX_STRING = 4096
#: Characters of a sequence that may still be completed by the next bytes.
_MAX_OPEN = 80


class Kind(StrEnum):
    """What a token is."""

    TEXT = "text"
    #: One C0 control character.
    CONTROL = "control"
    #: `ESC [ params final`.
    CSI = "csi"
    #: `ESC ] ... BEL` or `ESC ] ... ESC \`.
    OSC = "osc"
    #: `ESC` and one or two further characters.
    SHORT = "short"


class Token(NamedTuple):
    """One piece of a terminal's output."""

    kind: Kind
    #: The characters themselves; of a sequence what stands between its beginning and its end.
    text: str
    #: Of a CSI: `?`, `>`, `=`, `<` or nothing.
    prefix: str = ""
    #: Of a CSI the final character, after any intermediate ones; of a short sequence all but ESC.
    final: str = ""

    def numbers(self, most: int = 16) -> list[int]:
        """Return the parameters of a CSI, 0 where one is left out, each at most 9999."""
        parts = self.text.replace(":", ";").split(";")[:most] if self.text else []
        return [min(int(part or 0), 9999) for part in parts]


_TOKEN = re.compile(
    r"(?P<text>[^\x00-\x1f\x7f-\x9f]+)"
    r"|\x1b\[(?P<prefix>[<-?]?)(?P<params>[0-9:;]{0,64})(?P<final>[ -/]{0,2}[@-~])"
    r"|\x1b(?P<string>[\]PX^_])"
    r"|\x1b(?P<open>\[[ -?]*)"  # malformed, or too long
    r"|\x1b(?P<short>[ -/]{0,2}[0-~])"
    r"|(?P<control>[\x00-\x1f\x7f-\x9f])"
)
_PARTIAL = re.compile(rf"\x1b(?:\[[ -?]{{0,{_MAX_OPEN}}}|[ -/]{{0,2}})?")
_REST_OF_CSI = re.compile(r"[ -?]*[@-~]?")
_STRING_END = re.compile(r"[\x07\x18\x1a\x1b\x9c]")


class Tokens:
    """Cuts a stream of bytes, UTF-8 or not, into tokens."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._open = ""
        #: What a string sequence holds so far, None outside of one; and whether it is a command to be told.
        self._string: str | None = None
        self._told = False
        #: Whether a sequence that is too long goes on.
        self._skipping = False

    @property
    def open(self) -> bytes:
        """What has to come before the next bytes, so that a new reader takes them for what they are."""
        if self._string is not None:
            return b"\x1b]"
        return b"\x1b[" if self._skipping else self._open.encode("utf-8", "replace")

    def feed(self, data: bytes) -> list[Token]:
        """Return the tokens that are complete now; text is cut wherever the bytes were."""
        text = self._open + self._decoder.decode(data)
        self._open = ""
        tokens: list[Token] = []
        at = 0
        while at < len(text):
            if self._skipping:
                at = self._skip(text, at)
            elif self._string is not None:
                at = self._read_string(text, at, tokens)
            else:
                at = self._read(text, at, tokens)
        return tokens

    def _skip(self, text: str, at: int) -> int:
        found = _REST_OF_CSI.match(text, at)
        end = found.end() if found else at
        self._skipping = end == len(text) and not (end > at and "@" <= text[end - 1] <= "~")
        return end

    def _read(self, text: str, at: int, tokens: list[Token]) -> int:
        """Take tokens up to where something begins that is none; return the place after it."""
        while at < len(text):
            found = _TOKEN.match(text, at)
            assert found is not None  # noqa: S101 - every character is matched by some branch
            kind = found.lastgroup
            if kind == "text":
                tokens.append(Token(Kind.TEXT, found[0]))
            elif kind == "final":
                tokens.append(Token(Kind.CSI, found["params"], found["prefix"], found["final"]))
            elif kind == "short":
                tokens.append(Token(Kind.SHORT, "", "", found["short"]))
            elif kind == "string":
                self._string, self._told = "", found["string"] == "]"
                return found.end()
            elif kind == "open":
                if found.end() == len(text) and _PARTIAL.fullmatch(text, at):
                    self._open = text[at:]
                else:
                    self._skipping = True
                return found.end()
            elif found[0] == "\x1b" and _PARTIAL.fullmatch(text, at):
                self._open = text[at:]
                return len(text)
            elif found[0] < " ":
                tokens.append(Token(Kind.CONTROL, found[0]))
            at = found.end()
        return at

    def _read_string(self, text: str, at: int, tokens: list[Token]) -> int:
        found = _STRING_END.search(text, at)
        end = found.start() if found else len(text)
        held = self._string or ""
        if self._told:
            held += text[at : min(end, at + MAX_STRING + 1)]
            if len(held) > MAX_STRING:
                held, self._told = "", False
        self._string = held
        if found is None:
            return end
        if found[0] == "\x1b":
            if end + 1 == len(text):
                self._open = "\x1b"  # half of the end, perhaps
                return len(text)
            if text[end + 1] != "\\":  # another sequence begins, and ends this one
                self._string = None
                return end
        if self._told and found[0] not in "\x18\x1a":
            tokens.append(Token(Kind.OSC, held))
        self._string = None
        return end + (2 if found[0] == "\x1b" else 1)
