"""Answer an agent's `fs/*` requests inside its sandbox, within the worktree alone.

`inside` gives this text to `python3 -I -S -c`, so it stands on the standard library of any Python 3.8. The
invariant: no path leads out of the worktree, by `..` or by a link, and nothing but a regular file is opened,
so that no request hangs. The agent itself sees what its sandbox shows; this binds what is done in its name.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat

MAX_FILE_BYTES = 10 * 1024 * 1024
KEPT_BYTES = 65536
INVALID, MISSING, FAILED = -32602, -32002, -32603


class Refused(Exception):
    """A request that is answered by an error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def text_of(params: dict[str, object], name: str) -> str:
    """Return a parameter that has to be a text."""
    value = params.get(name)
    if not isinstance(value, str):
        raise Refused(INVALID, name + ": a text is needed")
    return value


def confined(root: str, path: str) -> str:
    """Return where a path leads; raises `Refused` where that is outside of the worktree."""
    if "\0" in path or not os.path.isabs(path):
        raise Refused(INVALID, "path: an absolute path is needed")
    try:
        real = os.path.realpath(path)
    except (OSError, ValueError) as error:
        raise Refused(INVALID, f"path: {error}") from None
    if real != root and not real.startswith(root.rstrip("/") + "/"):
        raise Refused(INVALID, f"path: {path[:200]!r} is outside of the worktree")
    return real


def read_text(root: str, params: dict[str, object]) -> dict[str, object]:
    """Answer `fs/read_text_file`."""
    real = confined(root, text_of(params, "path"))
    with _opened(real, os.O_RDONLY) as fd:
        if os.fstat(fd).st_size > MAX_FILE_BYTES:
            raise Refused(FAILED, f"the file has more than {MAX_FILE_BYTES} bytes")
        with os.fdopen(os.dup(fd), "rb") as file:
            text = file.read(MAX_FILE_BYTES + 1)[:MAX_FILE_BYTES].decode("utf-8", "replace")
    line, limit = params.get("line"), params.get("limit")
    if isinstance(line, int) or isinstance(limit, int):
        first = max(line - 1, 0) if isinstance(line, int) else 0
        last = first + max(limit, 0) if isinstance(limit, int) else None
        text = "".join(text.splitlines(keepends=True)[first:last])
    return {"content": text}


def write_text(root: str, params: dict[str, object]) -> dict[str, object]:
    """Answer `fs/write_text_file`; directories that are missing are made."""
    content = text_of(params, "content").encode("utf-8", "replace")
    real = confined(root, text_of(params, "path"))
    if len(content) > MAX_FILE_BYTES:
        raise Refused(INVALID, f"content: at most {MAX_FILE_BYTES} bytes can be written at once")
    try:
        os.makedirs(os.path.dirname(real), exist_ok=True)
    except OSError as error:
        raise Refused(FAILED, str(error)) from None
    with _opened(real, os.O_WRONLY | os.O_CREAT) as fd:
        try:
            os.ftruncate(fd, 0)
            while content:
                content = content[os.write(fd, content) :]
        except OSError as error:
            raise Refused(FAILED, str(error)) from None
    return {}


def recall() -> object:
    """Return what was kept in an earlier life."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        fd = os.open(_kept(), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            if stat.S_ISREG(os.fstat(fd).st_mode):
                return json.loads(file.read(KEPT_BYTES))
    return None


def keep(what: object) -> None:
    """Keep a few words for the next life, in the home that stays with the worktree."""
    with contextlib.suppress(OSError):
        with open(_kept() + ".new", "w", encoding="utf-8") as file:
            json.dump(what, file)
        os.replace(_kept() + ".new", _kept())


def _kept() -> str:
    return os.path.join(os.environ.get("HOME", "/nowhere"), ".orchestrator-session.json")


@contextlib.contextmanager
def _opened(real: str, flags: int):  # type: ignore[no-untyped-def]  # noqa: ANN202 - a generator of int, for Python 3.8
    """Give a descriptor of a regular file; the last part of the path may have become a link meanwhile."""
    try:
        fd = os.open(real, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except FileNotFoundError:
        raise Refused(MISSING, "there is no such file") from None
    except (OSError, ValueError) as error:
        raise Refused(FAILED, str(error)) from None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise Refused(FAILED, "it is no regular file")
        yield fd
    finally:
        os.close(fd)
