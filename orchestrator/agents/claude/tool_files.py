"""What a model's tools do with files: view, create, replace, insert, read, find, search.

It runs inside a sandbox, in `tool_server`: standard library of any Python 3.8. The invariant: an answer has
at most `CAP` characters and says what it left out, and none takes longer than it may, whatever lies there.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import stat
from collections.abc import Callable, Iterator

CAP = 30_000
MAX_FILE_BYTES = 10 * 1024 * 1024
MAX_LINE_BYTES = 4000
MAX_NAMES = 1000
LINES = 2000
#: Directories that hold no work.
SKIPPED = {".git", "node_modules", "__pycache__"}


class ToolError(Exception):
    """The tool could not do it; the text is for the model."""


def answer_in_time(tool: Callable[[dict[str, object]], str], given: dict[str, object], seconds: float) -> str:
    """Run a tool on files, and give it up after so many seconds."""

    def give_up(*_: object) -> None:
        raise ToolError(f"Error: this took longer than {seconds:g} seconds")

    signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return _clipped(tool(given))
    except FileNotFoundError as error:
        raise ToolError(f"Error: File not found: {error.filename}") from error
    except PermissionError as error:
        raise ToolError(f"Error: Permission denied: {error.filename}") from error
    except (OSError, MemoryError, ValueError) as error:
        raise ToolError(f"Error: {error}") from error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def text_editor(given: dict[str, object]) -> str:
    """View, create or edit a file."""
    command = _text(given, "command")
    if command not in EDITS:
        raise ToolError(f"Error: command is one of {', '.join(EDITS)}, not {command!r}")
    return EDITS[command](given)


def _view(given: dict[str, object]) -> str:
    path = _text(given, "path")
    if os.path.isdir(path):
        return _listing(path)
    wanted = given.get("view_range")
    if wanted is None:
        return _numbered(path, 1, LINES, "view_range")
    if not isinstance(wanted, list) or len(wanted) != 2 or not all(type(n) is int for n in wanted):
        raise ToolError("Error: view_range is a list of two line numbers; -1 is the end of the file")
    first, last = wanted
    if first < 1 or (last != -1 and last < first):
        raise ToolError(
            f"Error: Invalid view_range {wanted}: lines are counted from 1, the first comes first"
        )
    return _numbered(path, first, LINES if last == -1 else last - first + 1, "view_range")


def _create(given: dict[str, object]) -> str:
    path, text = _text(given, "path"), _text(given, "file_text")
    if os.path.isdir(path):
        raise ToolError(f"Error: {path} is a directory")
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    _write(path, text.encode("utf-8", "replace"))
    return f"File created successfully at: {path}"


def _str_replace(given: dict[str, object]) -> str:
    path, old = _text(given, "path"), _text(given, "old_str").encode("utf-8", "replace")
    new = (_text(given, "new_str") if given.get("new_str") is not None else "").encode("utf-8", "replace")
    if not old:
        raise ToolError("Error: old_str is empty; use insert to add text")
    whole = _whole(path)
    count = whole.count(old)
    if not count:
        raise ToolError("Error: No match found for replacement. Please check your text and try again.")
    if count > 1:
        raise ToolError(
            f"Error: Found {count} matches for replacement text. "
            "Please provide more context to make a unique match."
        )
    _write(path, whole.replace(old, new))
    return "Successfully replaced text at exactly one location."


def _insert(given: dict[str, object]) -> str:
    path, line = _text(given, "path"), given.get("insert_line")
    text = _text(given, "insert_text" if "insert_text" in given else "new_str").encode("utf-8", "replace")
    lines = _whole(path).splitlines(keepends=True)
    if type(line) is not int or not 0 <= line <= len(lines):
        raise ToolError(f"Error: Invalid insert_line {line!r}: it is a number from 0 to {len(lines)}")
    if line and not lines[line - 1].endswith((b"\n", b"\r")):
        lines[line - 1] += b"\n"
    if line < len(lines) and not text.endswith(b"\n"):
        text += b"\n"
    _write(path, b"".join([*lines[:line], text, *lines[line:]]))
    return f"Successfully inserted text after line {line}."


def read(given: dict[str, object]) -> str:
    """Read lines of a file."""
    path, first, count = _text(given, "path"), _number(given, "offset", 1), _number(given, "limit", LINES)
    return _numbered(path, first, count, "offset")


def glob(given: dict[str, object]) -> str:
    """Find files by a pattern."""
    top, wanted = _top(given), _pattern(_text(given, "pattern"))
    found = sorted(name for name in _files(top) if wanted.fullmatch(name))
    shown = "\n".join(os.path.normpath(os.path.join(top, name)) for name in found[:MAX_NAMES])
    more = f"\n[{len(found) - MAX_NAMES} more]" if len(found) > MAX_NAMES else ""
    return shown + more if found else "No files found."


def grep(given: dict[str, object]) -> str:
    """Search files for a regular expression, line by line."""
    top, most = _top(given), _number(given, "limit", 200)
    try:
        sought = re.compile(_text(given, "pattern"), re.IGNORECASE if given.get("ignore_case") else 0)
    except re.error as error:
        raise ToolError(f"Error: the pattern is no regular expression of Python: {error}") from error
    named = _pattern(_text(given, "glob")) if given.get("glob") else None
    found: list[str] = []
    names = [""] if os.path.isfile(top) else sorted(_files(top))
    for name in names:
        if named is not None and not named.fullmatch(name):
            continue
        path = os.path.normpath(os.path.join(top, name)) if name else top
        with contextlib.suppress(OSError):
            for number, line in _lines(path):
                if b"\0" in line:
                    break
                text = line.decode("utf-8", "replace").rstrip("\r\n")
                if sought.search(text):
                    found.append(f"{path}:{number}:{text[:500]}")
                    if len(found) >= most:
                        return "\n".join([*found, f"[no more than {most} matches are shown]"])
    return "\n".join(found) or "No matches found."


def _text(given: dict[str, object], name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str) or (name == "path" and (not value or "\0" in value)):
        raise ToolError(f"Error: {name}: a text is needed")
    return value


def _number(given: dict[str, object], name: str, default: int) -> int:
    value = given.get(name, default)
    if type(value) is not int or value < 1:
        raise ToolError(f"Error: {name}: a number from 1 is needed")
    return value


def _top(given: dict[str, object]) -> str:
    path = _text(given, "path") if given.get("path") else "."
    if not os.path.exists(path):
        raise ToolError(f"Error: File not found: {path}")
    return path


def _open(path: str):  # type: ignore[no-untyped-def]  # noqa: ANN202
    """Open a regular file, and never wait for what is none."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(f"{path} is no regular file")
    return os.fdopen(fd, "rb")


def _whole(path: str) -> bytes:
    with _open(path) as file:
        whole: bytes = file.read(MAX_FILE_BYTES + 1)
    if len(whole) > MAX_FILE_BYTES:
        raise ToolError(f"Error: {path} has more than {MAX_FILE_BYTES} bytes: edit it with bash")
    return whole


def _write(path: str, content: bytes) -> None:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ToolError(f"Error: {path} is no regular file")
    with open(path, "wb") as file:
        file.write(content)


def _lines(path: str) -> Iterator[tuple[int, bytes]]:
    """Yield the lines with their numbers, each at most `MAX_LINE_BYTES` long."""
    with _open(path) as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES):
            number += 1
            yield number, line
            while not line.endswith(b"\n") and len(line) == MAX_LINE_BYTES:
                line = file.readline(MAX_LINE_BYTES)  # the rest of a long one


def _numbered(path: str, first: int, count: int, by: str) -> str:
    if os.path.isdir(path):
        raise ToolError(f"Error: {path} is a directory")
    shown: list[str] = []
    number, room, last = 0, CAP - 200, first + count
    for number, line in _lines(path):
        if number < first:
            continue
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        long = len(line) == MAX_LINE_BYTES
        numbered = f"{number:6}\t{text}" + (" [the rest of this line was cut]" if long else "")
        room -= len(numbered) + 1
        if number >= last or room < 0:
            return "\n".join([*shown, f"[there is more from line {number} on: use {by}]"])
        shown.append(numbered)
    if not shown and first > 1:
        raise ToolError(f"Error: {path} has only {number} lines")
    return "\n".join(shown) or "[the file is empty]"


def _listing(top: str) -> str:
    names = [top]
    for folder, folders, files in os.walk(top):
        depth = os.path.relpath(folder, top).count(os.sep) + (folder != top)
        folders[:] = sorted(n for n in folders if n[0] != "." and n not in SKIPPED) if depth < 2 else []
        names += sorted(os.path.join(folder, n) for n in [*files, *folders] if n[0] != ".")
        if len(names) > MAX_NAMES:
            return "\n".join([*names[:MAX_NAMES], "[more files than are shown: view a deeper directory]"])
    return "\n".join(names)


def _files(top: str) -> Iterator[str]:
    """Yield the names of the files below, from there on; links to directories are not followed."""
    for folder, folders, files in os.walk(top):
        folders[:] = [name for name in folders if name not in SKIPPED]
        for name in files:
            yield os.path.relpath(os.path.join(folder, name), top)


_PARTS = re.compile(r"\*\*/|\*\*|\*|\?|\[!?[^\]/]+\]|\{[^{}]*\}|.", re.DOTALL)
_MEANING = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


def _pattern(pattern: str) -> re.Pattern[str]:
    """Return what a glob means; one without a slash is for the name in any directory."""
    pattern = re.sub(r"\A\./", "", pattern)
    return re.compile(("" if "/" in pattern else "(?:.*/)?") + _meaning(pattern), re.DOTALL)


def _meaning(pattern: str) -> str:
    meant = ""
    for part in _PARTS.findall(pattern):
        if part in _MEANING:
            meant += _MEANING[part]
        elif part[0] == "{" and len(part) > 1:
            meant += "(?:" + "|".join(map(_meaning, part[1:-1].split(","))) + ")"
        elif part[0] == "[" and len(part) > 1:
            meant += "[" + part[1:-1].replace("\\", r"\\").replace("!", "^", 1 if part[1] == "!" else 0) + "]"
        else:
            meant += re.escape(part)
    return meant


def _clipped(text: str) -> str:
    return text if len(text) <= CAP else f"{text[:CAP]}\n[{len(text) - CAP} characters were cut here]"


EDITS: dict[str, Callable[[dict[str, object]], str]] = {
    "view": _view,
    "create": _create,
    "str_replace": _str_replace,
    "insert": _insert,
}
FILE_TOOLS: dict[str, Callable[[dict[str, object]], str]] = {
    "str_replace_based_edit_tool": text_editor,
    "read": read,
    "glob": glob,
    "grep": grep,
}
