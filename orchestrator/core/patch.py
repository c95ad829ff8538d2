"""A patch of git's, file by file and line by line, as somebody is to read it and point at.

Pure. The invariant: a line of a file can pass for nothing else, neither for the head of a file nor for one of
a hunk, for hunks are read by their counts; what is no patch to its end is `PatchMalformed`; and what is shown
holds no character that hides or reorders what is read. Caller: `review`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from orchestrator.core.text import escaped

_HUNK = re.compile(rb"@@ -\d{1,9}(?:,(\d{1,9}))? \+(\d{1,9})(?:,(\d{1,9}))? @@")
_ESCAPE = re.compile(rb"\\([0-7]{3}|.)", re.DOTALL)
_PLAIN = {b"a": 7, b"b": 8, b"t": 9, b"n": 10, b"v": 11, b"f": 12, b"r": 13}
#: Letters, marks and spaces that show as nothing or as a blank: names and whole payloads are made of them.
_BLANK = re.compile(
    "[\u00a0\u034f\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f\u2000-\u200a\u202f\u205f\u2800\u3000\u3164"
    "\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
#: What says that a file came, went, or has another mode.
_TOLD = (b"new file mode ", b"deleted file mode ", b"old mode ", b"new mode ")


class PatchMalformed(ValueError):
    """What should be a patch is none."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a hunk: `+`, `-` or a blank, its number in the new file (None where it is gone), text."""

    mark: str
    number: int | None
    text: str


@dataclass(frozen=True)
class FileChange:
    """What a patch does to one file."""

    path: str
    #: What happened to the file as a whole: `new file mode 100755`, say.
    notes: tuple[str, ...]
    hunks: tuple[tuple[Row, ...], ...]
    #: Whether its content is not shown.
    binary: bool = False

    @property
    def removed(self) -> bool:
        """Whether the file is gone."""
        return any(note.startswith("deleted file") for note in self.notes)

    @property
    def added(self) -> bool:
        """Whether the file is new."""
        return any(note.startswith("new file") for note in self.notes)

    @cached_property
    def numbers(self) -> frozenset[int]:
        """The lines of the new file that the patch shows; 0 stands for a file of which it shows none."""
        found = {row.number for hunk in self.hunks for row in hunk if row.number is not None}
        return frozenset(found or {0})


def parse_patch(patch: bytes) -> tuple[FileChange, ...]:
    """Return what a whole patch of `git diff-tree -p` without renames changes; raises `PatchMalformed`."""
    lines = patch.split(b"\n")
    if lines[-1]:
        raise PatchMalformed("it does not end with a line end")
    rest = _Lines(lines[:-1])
    changes = []
    while (line := rest.peek()) is not None:
        if not line.startswith(b"diff --git "):
            raise PatchMalformed("it does not begin with the head of a file")
        changes.append(_file(rest))
    return tuple(changes)


class _Lines:
    """The lines that are still to be read."""

    def __init__(self, lines: list[bytes]) -> None:
        self._lines, self._at = lines, 0

    def peek(self) -> bytes | None:
        """Return the next line without taking it; None at the end."""
        return self._lines[self._at] if self._at < len(self._lines) else None

    def take(self) -> bytes:
        """Take the next line."""
        line = self.peek()
        if line is None:
            raise PatchMalformed("it ends in the middle of a file")
        self._at += 1
        return line


def _file(rest: _Lines) -> FileChange:
    path = _path(rest.take().removeprefix(b"diff --git "))
    notes, hunks, binary = [], [], False
    while (line := rest.peek()) is not None and not line.startswith(b"diff --git "):
        if line.startswith(b"@@ "):
            hunks.append(tuple(_hunk(rest)))
            continue
        rest.take()
        if line.startswith(_TOLD):
            notes.append(_shown(line))
        elif line.startswith((b"Binary files ", b"GIT binary patch")):
            binary = True
        elif not line.startswith((b"index ", b"--- ", b"+++ ")):
            raise PatchMalformed(f"a file's head has the line {line[:80]!r}")
    return FileChange(path, tuple(notes), tuple(hunks), binary)


def _hunk(rest: _Lines) -> Iterator[Row]:
    head = _HUNK.match(rest.take())
    if head is None:
        raise PatchMalformed("the head of a hunk cannot be read")
    old, number, new = int(head[1] or 1), int(head[2]), int(head[3] or 1)
    while old or new:
        line = rest.take()
        mark, text = line[:1], line[1:]
        if mark == b"\\":  # that the line before has no end
            continue
        if mark not in {b" ", b"+", b"-"} or (mark != b"+" and not old) or (mark != b"-" and not new):
            raise PatchMalformed("a hunk has other lines than its head says")
        gone = mark == b"-"
        yield Row(mark.decode(), None if gone else number, _shown(text))
        number += not gone
        old -= mark != b"+"
        new -= not gone
    if (line_ := rest.peek()) is not None and line_.startswith(b"\\"):
        rest.take()


def _path(names: bytes) -> str:
    """Return the one name that the head of a file has twice: `a/NAME b/NAME`, both quoted or neither."""
    half = len(names) // 2
    first, second = names[:half], names[half + 1 :]
    if len(names) % 2 == 0 or names[half : half + 1] != b" ":
        raise PatchMalformed("the head of a file has no two names of one length")
    first, second = _unquoted(first), _unquoted(second)
    if not first.startswith(b"a/") or not second.startswith(b"b/") or first[2:] != second[2:]:
        raise PatchMalformed("the head of a file has two names")
    return _shown(first[2:], keep="")


def _unquoted(name: bytes) -> bytes:
    if not name.startswith(b'"'):
        return name
    if len(name) < 2 or not name.endswith(b'"'):
        raise PatchMalformed("a name's quotes have no end")

    def plain(found: re.Match[bytes]) -> bytes:
        word = found[1]
        return bytes([int(word, 8) & 0xFF if len(word) == 3 else _PLAIN.get(word, word[0])])

    return _ESCAPE.sub(plain, name[1:-1])


def _shown(raw: bytes, keep: str = "\t") -> str:
    text = escaped(raw.decode("utf-8", "backslashreplace"), keep=keep)
    return text if text.isascii() else _BLANK.sub(_as_escape, text)


def _as_escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
