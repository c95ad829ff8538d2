"""Make an agent image of this host's own programs, without a registry, podman or root.

    python -m sandbox.image.from_host agent.tar [PROGRAM ...]
    SANDBOX_IMAGE=docker-archive:/path/to/agent.tar orchestrator serve

The invariant: nothing gets in but programs of the system's directories, the libraries that the loader names
for them, git's own commands and Python's standard library. It is for tests and for trying things out: one to
work with is made by the `Containerfile` beside this. Callers: people, and the tests.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import sys
import tarfile
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import trio

from sandbox.base import MIB
from sandbox.process import run_child

PROGRAMS = (
    *(
        "sh",
        "bash",
        "env",
        "ls",
        "cat",
        "cp",
        "mv",
        "rm",
        "ln",
        "mkdir",
        "rmdir",
        "chmod",
        "touch",
        "stat",
        "id",
    ),
    *(
        "head",
        "tail",
        "seq",
        "tr",
        "sort",
        "wc",
        "grep",
        "sed",
        "find",
        "sleep",
        "true",
        "false",
        "kill",
        "setsid",
    ),
    *("readlink", "mktemp", "dirname", "basename", "uname", "unshare", "mount", "tar", "git", "python3"),
)
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_DIRECTORIES = ("dev", "etc", "home/agent", "proc", "run", "sys", "tmp", "workspace")
#: Parts of the C library that programs shown from the host may ask for by name, Claude Code for one.
_C_LIBRARY = ("libdl.so.2", "libm.so.6", "libpthread.so.0", "libresolv.so.2", "librt.so.1", "libutil.so.1")
_MERGED = ("bin", "lib", "lib32", "lib64", "sbin")
_SKIPPED = (
    "__pycache__",
    "test",
    "tests",
    "idlelib",
    "ensurepip",
    "lib2to3",
    "dist-packages",
    "turtledemo",
    "config-",
)


def main() -> None:
    """See the module."""
    if len(sys.argv) < 2:
        sys.exit("usage: python -m sandbox.image.from_host ARCHIVE.tar [PROGRAM ...]")
    write_image(Path(sys.argv[1]), tuple(sys.argv[2:]) or PROGRAMS)


def write_image(archive: Path, programs: tuple[str, ...] = PROGRAMS) -> None:
    """Write what `podman pull docker-archive:...` understands; a program that is not here is left out."""
    layer = _layer(programs)
    diff = f"sha256:{hashlib.sha256(layer).hexdigest()}"
    config = json.dumps(
        {
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(
                os.uname().machine, os.uname().machine
            ),
            "os": "linux",
            "config": {
                "WorkingDir": "/workspace",
                "User": "1000:1000",
                "Healthcheck": {"Test": ["CMD", "git", "--version"]},
            },
            "rootfs": {"type": "layers", "diff_ids": [diff]},
        }
    ).encode()
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": ["localhost/agent:host"], "Layers": ["layer.tar"]}]
    with tarfile.open(archive, "w") as tar:
        for member, content in (
            (name, config),
            ("layer.tar", layer),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            entry = tarfile.TarInfo(member)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


def _layer(programs: tuple[str, ...]) -> bytes:
    """Return the root file system, packed; every file is root's and of no date, so that equal is equal."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for directory in _DIRECTORIES:
            for path in reversed((Path(directory), *Path(directory).parents[:-1])):
                _add_directory(tar, path)
        for name in _MERGED:
            if Path("/", name).is_symlink():
                _add_link(tar, name, f"usr/{name}")
        files = {file for program in programs for file in _files(program)}
        for path in sorted(files | _libraries(files)):
            _add_file(tar, path)
        for program in programs:
            if (found := _find(program)) is not None and str(found) != f"/usr/bin/{program}":
                _add_link(tar, f"usr/bin/{program}", str(found))
    return packed.getvalue()


def _find(program: str) -> Path | None:
    found = shutil.which(program, path=PATH)
    return _usr(Path(os.path.realpath(found))) if found else None


def _usr(path: Path) -> Path:
    """Return the path below /usr where the directory is a link to there."""
    return Path(os.path.realpath(path.parent)) / path.name


def _files(program: str) -> Iterator[Path]:
    """Yield what a program consists of."""
    found = _find(program)
    if found is None:
        return
    yield found
    if program == "git":
        core = Path("/usr/lib/git-core")
        for name in ("git", "git-remote-fd", "git-sh-setup"):
            if (core / name).is_file():
                yield core / name
    if program == "python3":
        # Loaded by name, by a thread that ends itself.
        yield from (_usr(path) for path in Path("/usr").glob("lib*/*-linux-*/libgcc_s.so.1"))
        yield from _standard_library(found.name)


def _standard_library(version: str) -> Iterator[Path]:
    for folder, below, names in os.walk(Path("/usr/lib") / version):
        below[:] = [name for name in below if not name.startswith(_SKIPPED)]
        for name in names:
            yield Path(folder, name)


def _libraries(files: Iterable[Path]) -> set[Path]:
    """Return the libraries and the loader that the loader names for programs and modules, and all of libc."""
    linked = [str(path) for path in files if path.suffix == ".so" or os.access(path, os.X_OK)]
    run = partial(run_child, ("ldd", *linked), env={"PATH": PATH, "LC_ALL": "C"}, max_output_bytes=64 * MIB)
    named = trio.run(run).stdout.decode(errors="replace")
    found = {_usr(Path(library)) for library in re.findall(r"(/\S+) \(0x", named)}
    beside = {path.parent / name for path in found if path.name == "libc.so.6" for name in _C_LIBRARY}
    return found | {path for path in beside if path.is_file()}


def _add_directory(tar: tarfile.TarFile, path: Path) -> None:
    entry = tarfile.TarInfo(str(path))
    entry.type, entry.mode = tarfile.DIRTYPE, 0o755
    tar.addfile(entry)


def _add_link(tar: tarfile.TarFile, name: str, target: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    tar.addfile(entry)


def _add_file(tar: tarfile.TarFile, path: Path) -> None:
    with path.open("rb") as content:
        entry = tar.gettarinfo(fileobj=content, arcname=str(path).lstrip("/"))
        entry.mode, entry.mtime = (0o755 if entry.mode & 0o100 else 0o644), 0
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        entry.type, entry.size = tarfile.REGTYPE, path.stat().st_size
        tar.addfile(entry, content)


if __name__ == "__main__":
    main()
