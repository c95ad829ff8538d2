"""What the gate tests share: toolchains that a sandbox may see, and a judgement of a project's change."""

from __future__ import annotations

import difflib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

import pytest

from orchestrator.core.model import Verdict
from orchestrator.core.spec import TaskSpec
from orchestrator.errors import RepositoryError
from orchestrator.gates.definition import Base
from orchestrator.gates.exhibit import Exhibit
from orchestrator.gates.mechanical import MechanicalGate
from sandbox.base import Backend, Bind, Directory, Layers, Limits, SandboxError, User
from sandbox.bubblewrap import BubblewrapBackend
from sandbox.trusted import ProcessBackend

#: A project's files by path; None takes a file of the base away.
Files = Mapping[str, str]
Changes = Mapping[str, str | None]
Judge = Callable[..., Awaitable[Verdict]]

PYTEST = ("pytest", "pluggy", "iniconfig", "packaging", "pygments")
CHECKERS = ("coverage", "mypy")

SYSTEM_PYTHON = Path("/usr/bin/python3")
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True, slots=True)
class Toolchain:
    """Host directories to show in the sandbox, and the PATH inside."""

    read_only: tuple[Path, ...] = ()
    path: str = SYSTEM_PATH


def bubblewrap_with(toolchain: Toolchain, user: User) -> Backend:
    """Return the backend that shows the toolchain, or skip with its reason."""
    try:
        return BubblewrapBackend(user, read_only=toolchain.read_only, path=toolchain.path)
    except SandboxError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def shared_path(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Return a directory for the whole run that every user may enter."""
    path = Path(tempfile.mkdtemp(prefix="toolchains-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def with_pytest(shared_path: Path) -> Toolchain:
    """Return the system's Python with our own pytest beside it: pytest is pure Python and can be copied."""
    if not SYSTEM_PYTHON.exists():
        pytest.skip(f"{SYSTEM_PYTHON} is missing")
    return python_with(shared_path / "python", PYTEST)


@pytest.fixture(scope="session")
def with_python_tools(shared_path: Path) -> Toolchain:
    """Return the same with the tools that check Python."""
    if not SYSTEM_PYTHON.exists():
        pytest.skip(f"{SYSTEM_PYTHON} is missing")
    return python_with(shared_path / "python-tools", (*PYTEST, *CHECKERS), ("ruff",))


def python_with(root: Path, packages: Sequence[str], programs: Sequence[str] = ()) -> Toolchain:
    """Return an environment of the system's Python that holds our own packages and programs."""
    subprocess.run([SYSTEM_PYTHON, "-m", "venv", "--without-pip", root], check=True, capture_output=True)
    (target,) = root.glob("lib/python*/site-packages")
    for name in with_needs(packages):
        for file in importlib.metadata.files(name) or ():
            if ".." not in file.parts and "__pycache__" not in file.parts:
                (target / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file.locate(), target / file)
    for name in programs:
        shutil.copy(Path(sysconfig.get_path("scripts")) / name, root / "bin" / name)
    return Toolchain((root,), f"{root}/bin:{SYSTEM_PATH}")


def with_needs(packages: Sequence[str]) -> list[str]:
    """Return the packages with those installed that they need."""
    found = list(packages)
    for name in found:
        try:
            needs = importlib.metadata.requires(name) or ()
        except importlib.metadata.PackageNotFoundError:
            continue
        names = (re.match(r"[\w.-]+", need) for need in needs if "extra ==" not in need)
        found += [word[0] for word in names if word and word[0] not in found]
    return [name for name in found if is_installed(name)]


def is_installed(package: str) -> bool:
    """Return whether we have a package."""
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


@pytest.fixture(scope="session")
def with_cargo(shared_path: Path) -> Toolchain:
    """Return Cargo: the system's, or a rustup toolchain linked to where every user may go."""
    if Path("/usr/bin/cargo").exists():
        return Toolchain()
    rustc = shutil.which("rustc")
    if rustc is None or shutil.which("cargo") is None:
        pytest.skip("cargo is missing")
    asked = subprocess.run([rustc, "--print", "sysroot"], check=True, capture_output=True, text=True)
    root = shared_path / "rust"
    subprocess.run(["cp", "-rl", asked.stdout.strip(), root], check=True)
    return Toolchain((root,), f"{root}/bin:{SYSTEM_PATH}")


@pytest.fixture(scope="session")
def with_node_tools(shared_path: Path) -> tuple[Toolchain, Files]:
    """Return a toolchain with TypeScript's tools, and the `node_modules` that a set-up would make."""
    installed = Path(__file__).parents[2] / ".venv/node-tools/node_modules"
    if shutil.which("node", path=SYSTEM_PATH) is None or not (installed / ".bin/vitest").exists():
        pytest.skip("TypeScript's tools are not installed: .ci/node-tools needs npm")
    root = installed
    if not all(folder.stat().st_mode & 0o001 for folder in installed.parents):
        root = shared_path / "node-tools/node_modules"  # a package finds another by this name
        root.parent.mkdir()
        subprocess.run(["cp", "-a", installed, root], check=True)
    names = (".bin", "typescript", "eslint", "typescript-eslint", "vitest", "@vitest", "mocha", "c8")
    made = {f"node_modules/{name}": f"->{root}/{name}" for name in names}
    return Toolchain((root,)), {**made, ".git/info/made": "node_modules\n"}


@pytest.fixture(scope="session")
def with_maven() -> Toolchain:
    """Return Maven with Debian's repository of plugins, and what Debian keeps of both in /etc."""
    plugins = Path("/usr/share/maven-repo/org/apache/maven/plugins/maven-surefire-plugin")
    if shutil.which("mvn", path=SYSTEM_PATH) is None or not plugins.exists():
        pytest.skip("maven with its plugins is not installed: .ci/packages needs apt")
    return Toolchain((Path("/etc/maven"), *Path("/etc").glob("java-*-openjdk")))


@pytest.fixture
def judge(reachable_path: Path, ordinary_user: User) -> Judge:
    """Return a function that judges changes to a base by a gate, `tests` by default, in a real sandbox."""

    async def judge_change(
        base: Files,
        changes: Changes | None = None,
        *,
        toolchain: Toolchain | None = None,
        backend: Backend | None = None,
        deadline_s: float = 50.0,
        limits: Limits | None = None,
        layered: bool = False,
        gate: str = "tests",
        compared: bool = False,
    ) -> Verdict:
        chosen = backend or bubblewrap_with(toolchain or Toolchain(), ordinary_user)
        candidate = {path: text for path, text in {**base, **(changes or {})}.items() if text is not None}
        checkout = reachable_path / "checkout"
        exhibit = exhibit_of(
            base, candidate, checkout, chosen, limits or Limits(), layered=layered, compared=compared
        )
        return await MechanicalGate(gate).judge(exhibit, deadline_s=deadline_s)

    return judge_change


def names_in(base: Files, prefix: str) -> tuple[str, ...]:
    """Return the names in a directory of a project."""
    start = f"{prefix}/" if prefix else ""
    inside = (path.removeprefix(start) for path in base if path.startswith(start))
    return tuple(dict.fromkeys(path.partition("/")[0] for path in inside))


def base_with(files: Files) -> Base:
    """Return a base commit that holds the files."""

    async def read(path: str) -> bytes | None:
        return files[path].encode() if path in files else None

    async def list_folder(prefix: str) -> tuple[str, ...]:
        return names_in(files, prefix)

    return Base(names_in(files, ""), read, list_folder)


@dataclass(frozen=True, slots=True)
class FreshCheckout:
    """See `gates.exhibit.Checkout`."""

    workspace: Directory | Layers
    binds: tuple[Bind, ...] = ()


def exhibit_of(
    base: Files,
    candidate: Files,
    place: Path,
    backend: Backend,
    limits: Limits,
    *,
    layered: bool = False,
    compared: bool = False,
) -> Exhibit:
    """Return the exhibit of a candidate whose checkout is made at `place`, for one gate at a time."""
    known = base_with(base)

    @asynccontextmanager
    async def open_checkout(files: Files = candidate) -> AsyncIterator[FreshCheckout]:
        layers = write_layers(place, files, backend.user)
        try:
            yield FreshCheckout(layers if layered else Directory(layers.lower))
        finally:
            # An overlay leaves a directory in its work directory that not even its owner may enter.
            for inner in layers.work.iterdir():
                inner.chmod(0o700)
            shutil.rmtree(place)

    async def output(stream: str, line: str) -> None:
        pass

    async def read_candidate(path: str) -> bytes | None:
        if candidate.get(path, "").startswith("->"):
            raise RepositoryError("it is a link")
        return await base_with(candidate).read(path)

    async def read_diff(max_bytes: int, *paths: str, text: bool = False) -> bytes:
        return patch_of(base, candidate, paths)

    return Exhibit(
        agent_id="agent-that-is-judged",
        spec=TaskSpec.model_validate({"taskId": "T", "context": {"repository": "https://example.org/r"}}),
        commit="c" * 40,
        base="b" * 40,
        read_base=known.read,
        read_candidate=read_candidate,
        names_candidate=base_with(candidate).names_in,
        names_base=known.names_in,
        read_diff=read_diff,
        open_checkout=open_checkout,
        backend=backend,
        limits=limits,
        output=output,
        round=1,
        changed=tuple(path for path in {**base, **candidate} if base.get(path) != candidate.get(path)),
        open_base=partial(open_checkout, base) if compared else None,
    )


def patch_of(base: Files, candidate: Files, patterns: Sequence[str]) -> bytes:
    """Return the change as git would write it, of the paths that fit a pattern, or of all."""
    parts = []
    for path in sorted({*base, *candidate}):
        old, new = base.get(path), candidate.get(path)
        if old != new and (not patterns or any(fnmatch(path, pattern) for pattern in patterns)):
            lines = (text.removesuffix("\n").split("\n") if text else [] for text in (old, new))
            sides = [[f"{line}\n" for line in side] for side in lines]
            names = ("/dev/null" if old is None else f"a/{path}", "/dev/null" if new is None else f"b/{path}")
            mode = "new" if old is None else "deleted" if new is None else None
            head = [f"diff --git a/{path} b/{path}\n", *([f"{mode} file mode 100644\n"] if mode else [])]
            parts += [*head, *difflib.unified_diff(*sides, *names)]
    return "".join(parts).encode()


def write_layers(place: Path, files: Files, owner: User) -> Layers:
    """Write the files as the lower of fresh layers that belong to the owner."""
    place.mkdir()
    lower, *others = (place / name for name in ("lower", "upper", "work", "merged"))
    write_files(lower, files, owner)
    for path in others:
        path.mkdir()
        os.chown(path, owner.uid, owner.gid)
    return Layers(lower, *others)


def write_files(place: Path, files: Files, owner: User) -> None:
    """Write the files as the owner's; what begins with `#!` may be run, what begins with `->` is a link."""
    place.mkdir()
    for name, text in files.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text.startswith("->"):
            path.symlink_to(text[2:])
            continue
        path.write_text(text)
        path.chmod(0o755 if text.startswith("#!") else 0o644)
    for path in (place, *place.rglob("*")):
        os.chown(path, owner.uid, owner.gid, follow_symlinks=False)


@pytest.fixture
def process_backend(ordinary_user: User) -> Backend:
    """Return the backend without isolation."""
    return ProcessBackend(ordinary_user)
