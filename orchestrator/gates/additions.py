"""What a candidate adds, line by line, and which of it would silence a gate for whole files.

The invariant: every line of the change is looked at, or the candidate is rejected: a change too large to be
read is no way around. Pure. Caller: `gates.mechanical`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch

from orchestrator.core.text import escaped
from orchestrator.gates.definition import Definition

#: Bytes of a change in the files that a gate looks through.
MAX_DIFF = 16 * 1024 * 1024
_MODE = re.compile(rb"(?:new file mode|new mode|index \S+) (\d{6})")
_HUNK = re.compile(rb"^@@ -\d+(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
_CUT = re.compile(rb"\n\[cut here: the diff is longer than \d+ bytes\]\n\Z")

#: What tools take for the end of a line, and git does not; what they read over, or git cannot write as text.
_ENDS = re.compile("[\r\f\v\x1c-\x1e\x85\u2028\u2029]")
_NOTHING = re.compile("[\0\ufeff\ufffd]")

#: The number of the line that says where a link leads.
LINK = 0

#: For each file the lines added, by their number.
Additions = Mapping[str, Mapping[int, str]]


class TooLarge(Exception):
    """The change is larger than is looked through."""


def read_additions(patch: bytes) -> dict[str, dict[int, str]]:
    """Return the lines that a patch of git adds; raises `TooLarge` where it was cut."""
    if _CUT.search(patch):
        raise TooLarge(f"the change is larger than the {MAX_DIFF >> 20} MiB that are looked through")
    added: dict[str, dict[int, str]] = {}
    lines = iter(patch.split(b"\n"))
    current: dict[int, str] = {}
    link = False
    for line in lines:
        if line.startswith(b"diff --git "):
            link = False
        elif found := _MODE.fullmatch(line):
            link = found[1] == b"120000"
        elif line.startswith(b"+++ "):
            current = added.setdefault(_path(line[4:]), {})
        elif found := _HUNK.match(line):
            rows = dict(_added(lines, *(int(text) if text is not None else 1 for text in found.groups())))
            current |= {LINK: "".join(rows.values())} if link else rows
    return {path: found for path, found in added.items() if found}


def _added(lines: Iterator[bytes], old: int, number: int, new: int) -> Iterator[tuple[int, str]]:
    """Yield the lines that a hunk of so many old and new lines adds, by their number."""
    while old > 0 or new > 0:
        content = next(lines, None)
        if content is None:
            return
        mark = content[:1]
        if mark == b"+":
            yield number, content[1:].decode(errors="replace")
        if mark in {b"+", b" "}:
            number, new = number + 1, new - 1
        if mark in {b"-", b" "}:
            old -= 1


def _path(told: bytes) -> str:
    """Return a path as git writes it in a patch: quoted where it has characters that would confuse."""
    if told.startswith(b'"'):
        told = (
            told.rstrip()[1:-1].decode("latin-1").encode("latin-1").decode("unicode_escape").encode("latin-1")
        )
    return told.rstrip(b"\t\r").removeprefix(b"b/").decode(errors="surrogateescape")


def silenced(gate: str, definition: Definition, added: Additions) -> str | None:
    """Return what is wrong with a candidate that silences a gate for whole files, or None."""
    looked_at = [*definition.amended_by, *(name for each in definition.silences for name in each.paths)]
    for path, lines in added.items():
        if LINK in lines and not any(fnmatch(lines[LINK], pattern) for pattern in looked_at):
            where = escaped(lines[LINK])[:300]
            return f"{escaped(path)[:300]} is a link to {where}, which is not looked through: add the file"
        told = definition.amend is not None and any(fnmatch(path, name) for name in definition.amended_by)
        if told and (split := [n for n, line in lines.items() if "\r" in line.rstrip("\r")]):
            return f"{escaped(path)[:300]}:{split[0]} has a carriage return in its midst: take it out"
        for silence in definition.silences:
            if not any(fnmatch(path, pattern) for pattern in silence.paths):
                continue
            for number, line in lines.items():
                if found := next(filter(None, map(silence.pattern.search, _as_tools_see(line))), None):
                    return (
                        f"{escaped(path)[:300]}:{number} adds `{escaped(found[0].strip())[:80]}`, which "
                        f"silences {gate} for the whole file: take it out"
                    )
    return None


def _as_tools_see(line: str) -> list[str]:
    """Return what a line of git's is to tools: UTF-16, marks of the byte order and NULs hide nothing."""
    return _ENDS.split(_NOTHING.sub("", line))


def commented(added: Additions) -> dict[str, list[int]]:
    """Return the numbers of the added lines that could hold a comment of Python, by file."""
    return {
        path: marks
        for path, lines in added.items()
        if (marks := [n for n, line in lines.items() if "#" in line and n != LINK])
    }
