"""How a gate is run on a project, as a value: decided from the base commit alone.

The invariant: everything that says what is checked and how is a copy from the base; the candidate brings the
code and the tests themselves, nothing else. Callers: the modules of `gates` that know a language make
definitions, one for each pair of gate and language; `gates.mechanical` carries one out.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

#: A reader of files of the base commit; it answers None where there is no such file.
ReadBase = Callable[[str], Awaitable[bytes | None]]
#: A reader of the names in a directory of the base commit; none where there is no such directory.
ListBase = Callable[[str], Awaitable[tuple[str, ...]]]

#: A directory in the checkout for what the run makes; the candidate's of that name is removed.
OURS = ".orchestrator-gate"

#: Bounds on what is copied from the base: no definition is larger.
MAX_FILES = 64
MAX_FILE_BYTES = 1024 * 1024


class Unrunnable(Exception):
    """The base says how a gate is run in a way that cannot be followed."""


class Undefined(Unrunnable):
    """Nothing in the base says how the gate is run; the message says what to add."""


class Kind(StrEnum):
    """What a run must show beside its success."""

    #: Nothing: the tool's own exit status is its word.
    CHECK = "check"
    #: That tests ran, and how many.
    TESTS = "tests"
    #: The same, and how much of the code they reached.
    COVERAGE = "coverage"


#: The least of a project's code that its tests have to reach, in percent; its own higher bar counts.
MIN_COVERAGE = 85.0
#: The gates that show more than a success; what a repository names itself is a check.
KIND_OF = {"tests": Kind.TESTS, "integration": Kind.TESTS, "coverage": Kind.COVERAGE}


@dataclass(frozen=True, slots=True)
class Base:
    """The base commit, as far as definitions ask it."""

    #: At the top of its tree.
    names: tuple[str, ...]
    read: ReadBase
    names_in: ListBase


def remembered(base: Base) -> Base:
    """Return the base, whose files are each read once: many gates ask for the same, each by a process."""
    known: dict[str, bytes | None] = {}

    async def read(path: str) -> bytes | None:
        if path not in known:
            known[path] = await base.read(path)
        return known[path]

    return Base(base.names, read, base.names_in)


#: From the input of a command and the lines that the candidate adds, by file, to the input with them.
Amend = Callable[[bytes, Mapping[str, Mapping[int, str]]], bytes]


@dataclass(frozen=True, slots=True)
class Silence:
    """A line by which a file asks a tool not to look at it: a candidate may add none."""

    pattern: re.Pattern[str]
    #: Names of the files in which the tool obeys it, as `fnmatch` and git's pathspecs take them.
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Below:
    """What leads a gate's tools below the top of the repository (see `gates.nested`)."""

    #: Names of files, some with the folder that they have to lie in; patterns of further ones.
    names: frozenset[str]
    globs: tuple[str, ...] = ()
    #: Names among them of files that hold more than settings: those with the base's settings stay.
    shared: frozenset[str] = frozenset()
    #: Names among them that are the candidate's where the base has the file: no further one may be added.
    additions: frozenset[str] = frozenset()
    #: Folders whose programs would be taken for the project's tools.
    places: tuple[str, ...] = ()
    #: Returns the paths of the base that a folder's own files name as a part of what they say.
    follow: Callable[[Base, str], Awaitable[Iterable[str]]] | None = None

    def leads(self, path: str) -> bool:
        """Return whether a path is, by its name, one of these files."""
        name = path.rpartition("/")[2]
        return (
            bool({name, "/".join(path.split("/")[-2:])} & self.names)
            or name in self.shared | self.additions
            or any(fnmatchcase(name, pattern) for pattern in self.globs)
        )


@dataclass(frozen=True, slots=True)
class Definition:
    """One way to run one gate."""

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
    kind: Kind = Kind.TESTS
    #: Of a coverage: the least that is approved, in percent; None where the command itself decides.
    minimum: float | None = None
    #: Of a coverage: finds it, as one group of digits, in the output; None where the launcher reports it.
    percent: re.Pattern[bytes] | None = None
    #: Paths of the base that say what is run: a candidate's own are not looked at.
    sources: tuple[str, ...] = ()
    silences: tuple[Silence, ...] = ()
    #: Returns the files that the tool does not look at where there is one of that path.
    hides: Callable[[str], tuple[str, ...]] | None = None
    #: Makes what the command is told of the lines that the candidate adds to these files, if it is told.
    amend: Amend | None = None
    #: Names of these files, as of a silence.
    amended_by: tuple[str, ...] = ()
    #: Files that hold the settings of tools among other things, as the base has them, if it has them.
    shared: Mapping[str, bytes | None] = field(default_factory=dict)
    #: What is run where the candidate's settings in one of these are not the base's: the same, on the base's.
    settled: Definition | None = None
    #: What leads its tools below the top; only of a definition by `restoring`.
    below: Below | None = None


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
