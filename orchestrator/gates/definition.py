"""How a project's tests are run, as a value: decided from the base commit alone.

The invariant: everything that says what the tests are and how they are run is a copy from the base; the
candidate brings the code under test and the tests themselves, nothing else. Callers: the modules of `gates`
that know a language make definitions; `gates.tests` carries one out.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

#: A reader of files of the base commit.
ReadBase = Callable[[str], Awaitable[bytes | None]]

#: A directory in the checkout for what the run makes; the candidate's of that name is removed.
OURS = ".orchestrator-gate"

#: Bounds on what is copied from the base: no definition is larger.
MAX_FILES = 64
MAX_FILE_BYTES = 1024 * 1024

# $@: names to remove, `--`, names that must not be there, `--`, the command. Input: the base's files.
_PRELUDE = """
complain() { echo "orchestrator: $1" >&2; exit 125; }
command -v tar >/dev/null || complain "tar is missing: install it under /usr or into the image"
while [ "$1" != -- ]; do rm -rf -- "./$1" || complain "cannot restore $1"; shift; done
shift
tar -xf - --no-same-owner || complain "cannot restore the files that define the tests"
while [ "$1" != -- ]; do
  [ ! -e "./$1" ] || complain "the candidate adds $1, which would take the place of the test runner"
  shift
done
shift
exec "$@" </dev/null
"""


class Unrunnable(Exception):
    """The base does not say how its tests are run, or says it in a way that cannot be followed."""


@dataclass(frozen=True, slots=True)
class Definition:
    """One way to run the tests."""

    #: What a person would have typed: the evidence.
    shown: tuple[str, ...]
    argv: tuple[str, ...]
    stdin: bytes = b""
    env: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float | None = None
    #: The launcher's secret where the count comes from its report, and not from the runner's own output.
    nonce: str | None = None
    #: Whether a run that tells no count is a rejection: the runner always tells one.
    counted: bool = False


def restoring(
    *,
    shown: tuple[str, ...],
    command: tuple[str, ...],
    files: Mapping[str, bytes],
    remove: Iterable[str] = (),
    forbidden: Iterable[str] = (),
    env: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
    counted: bool = False,
) -> Definition:
    """Return a definition that first puts the base's files in the place of the candidate's.

    `remove` names what would define the run too, had the candidate added it; `forbidden`, what the candidate
    may not have at all.
    """
    gone = dict.fromkeys((OURS, *remove, *files))
    argv = ("/bin/sh", "-c", _PRELUDE, "gate", *gone, "--", *forbidden, "--", *command)
    return Definition(
        shown=shown, argv=argv, stdin=_archive(files), env=env or {}, timeout_s=timeout_s, counted=counted
    )


def _archive(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = 0o755 if content.startswith(b"#!") else 0o644
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


# Repositories are hostile too: every repetition has a bound.
_NAME = r"[A-Za-z0-9_@%+.,][A-Za-z0-9_@%+.,/-]{0,200}"
#: Words of a command that are programs of the repository: by their suffix, their `./`, or their interpreter.
_SCRIPTS = (
    re.compile(rf"(?<![\w./-])((?:\./)?{_NAME}\.(?:sh|bash|zsh))(?![\w/-])"),
    re.compile(rf"(?<![\w./-])\./({_NAME})"),
    re.compile(
        r"(?<![\w./-])(?:sh|bash|dash|python[\d.]{0,6}|node|ruby|perl|php|bun|deno run)[ \t]{1,9}"
        rf"(?:-(?![mc]\b)[\w-]{{1,40}}[ \t]{{1,9}}){{0,8}}((?:\./)?{_NAME})"
    ),
)
#: Files that hold tests rather than run them: these are the candidate's to write.
_TEST_FILE = re.compile(r"^(test_.*|tests?\.(py|[cm]?[jt]s)|.*_tests?\.\w+|.*\.(test|spec)\.\w+)$")


def scripts_named(text: str) -> tuple[str, ...]:
    """Return the paths in a shell text that name programs of the repository itself, not its test files."""
    found: dict[str, None] = {}
    for pattern in _SCRIPTS:
        for match in pattern.finditer(text):
            if (path := plain_path(match[1])) and not _TEST_FILE.match(PurePosixPath(path).name):
                found[path] = None
    return tuple(found)[:MAX_FILES]


def plain_path(text: str) -> str | None:
    """Return the path relative to the repository, or None where it leads out of it."""
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or not path.parts or path.parts[0] == ".git":
        return None
    return path.as_posix()


async def read_all(read_base: ReadBase, paths: Iterable[str]) -> dict[str, bytes]:
    """Return those of the paths that are files in the base, with their content."""
    files: dict[str, bytes] = {}
    for path in dict.fromkeys(paths):
        content = await read_base(path)
        if content is None:
            continue
        if len(files) == MAX_FILES or len(content) > MAX_FILE_BYTES:
            raise Unrunnable(f"{path} in the base commit: the definition of the tests is too large")
        files[path] = content
    return files


#: What hides the test runner where it stands at the top of the checkout, by the word that names the runner.
_SHADOWS = {
    "pytest": ("pytest", "pytest.py", "_pytest", "_pytest.py", "pluggy", "pluggy.py"),
    "unittest": ("unittest", "unittest.py"),
    "nox": ("nox", "nox.py"),
    "tox": ("tox", "tox.py"),
}


def shadows(text: str, names: Iterable[str]) -> tuple[str, ...]:
    """Return the names that a candidate may not add, for a command that runs a Python runner in it."""
    present = set(names)
    return tuple(
        name
        for word, hiding in _SHADOWS.items()
        if re.search(rf"\b{word}\b", text)
        for name in hiding
        if name not in present
    )
