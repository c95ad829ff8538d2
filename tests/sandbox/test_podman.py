"""What podman alone promises: the image, the names of its settings, and that nothing of it is left."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import secrets
import socket
import tarfile
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import trio

from sandbox.base import (
    MIB,
    Backend,
    Bind,
    Directory,
    SandboxError,
    SandboxLaunchFailed,
    SandboxUnavailable,
    Spec,
    User,
)
from sandbox.podman import PodmanBackend
from sandbox.trusted import ProcessBackend
from tests.kit.sandboxes import read_until, run_in
from tests.sandbox.test_escape import ATTEMPTS, PRELUDE, targets

__all__ = ["targets"]

#: Opened for reading they show nothing: podman puts /dev/null over them.
MASKED = {"S12-kcore"}
#: System calls that the profile refuses, by their numbers on x86-64 and where these differ on arm64.
CALLS = {"io_uring_setup": (425, 425), "bpf": (321, 280), "userfaultfd": (323, 282), "keyctl": (250, 219)}
CALLS |= {"perf_event_open": (298, 241), "add_key": (248, 217), "unshare": (272, 97), "setns": (308, 268)}


def attempts(names: Iterable[str]) -> str:
    """Return a program that tries them all, each in a process of its own, and names what escaped."""
    parts = [PRELUDE]
    for name in sorted(names):
        body = textwrap.indent(textwrap.dedent(ATTEMPTS[name]).strip(), "        ")
        parts.append(
            f"if not os.fork():\n    try:\n{body}\n    except OSError: os._exit(0)\n"
            f"    except BaseException as e: print({name!r}, e, flush=True)\n"
            f"    else: print({name!r}, flush=True)\n    os._exit(1)\nos.wait()\n"
        )
    return "\n".join(parts)


async def test_every_attempt_is_refused_inside(
    podman: PodmanBackend, ordinary_user: User, workspace: Directory, targets: tuple[str, ...]
) -> None:
    def trying(names: Iterable[str]) -> Spec:
        return Spec("escape", ("python3", "-c", attempts(names), *targets), workspace)

    inside = await run_in(podman, trying(ATTEMPTS.keys() - MASKED))
    assert (inside.stdout, inside.stderr, inside.exit.code) == ("", "", 0)
    outside = await run_in(ProcessBackend(ordinary_user), trying({"network-loopback", "S10-abstract-socket"}))
    assert outside.stdout.split() == ["S10-abstract-socket", "network-loopback"]


async def test_s12_calls_that_need_much_kernel_are_refused(
    podman: PodmanBackend, ordinary_user: User, workspace: Directory
) -> None:
    column = 1 if os.uname().machine == "aarch64" else 0
    numbers = {name: both[column] for name, both in CALLS.items()}
    script = f"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
for name, number in {numbers}.items():
    libc.syscall(number, -1, 0, -1, -1, -1)
    print(name, ctypes.get_errno())
"""
    spec = Spec("calls", ("python3", "-c", script), workspace)

    async def errors(backend: Backend) -> dict[str, str]:
        return dict(line.split() for line in (await run_in(backend, spec)).stdout.splitlines())

    refusals = {str(errno.EPERM), str(errno.ENOSYS)}
    assert set((await errors(podman)).values()) <= refusals
    outside = await errors(ProcessBackend(ordinary_user))
    assert not {outside[name] for name in ("keyctl", "add_key", "setns", "unshare")} & refusals


async def test_s6_no_value_of_a_variable_is_an_argument_anywhere(
    podman: PodmanBackend, workspace: Directory
) -> None:
    canary = secrets.token_hex(8)
    spec = Spec("quiet", ("sh", "-c", "echo up; exec cat"), workspace, {"SECRET": canary})
    async with podman.open(spec) as sandbox:
        await read_until(sandbox, b"up")
        said = command_lines()
    assert b"podman" in said
    assert canary.encode() not in said


def command_lines() -> bytes:
    """Return the arguments of every process of the host."""
    said = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            said.append(path.read_bytes())
    return b"".join(said)


async def test_variables_that_steer_podman_reach_only_the_command(
    podman: PodmanBackend, workspace: Directory
) -> None:
    odd = {"CONTAINERS_CONF": "/nowhere", "XDG_RUNTIME_DIR": "/nowhere", "LD_PRELOAD": "", "HOME": "/tmp"}
    odd |= {"_CONTAINERS_USERNS_CONFIGURED": "", "HOSTNAME": "mine", "SANDBOX_VALUE_0": "own"}
    outcome = await run_in(podman, Spec("steer", ("env",), workspace, env=odd))
    assert outcome.exit.ok, outcome.stderr
    assert {f"{name}={value}" for name, value in odd.items()} <= set(outcome.stdout.splitlines())


async def test_descriptors_keep_their_numbers_whatever_these_are(
    podman: PodmanBackend, workspace: Directory
) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, contextlib.ExitStack() as closing:
        numbers = [fcntl.fcntl(theirs.fileno(), fcntl.F_DUPFD_CLOEXEC, least) for least in (60, 40, 50)]
        for number in numbers:
            closing.callback(os.close, number)
        said = (
            f"import os; [os.write(fd, b'%d ' % fd) for fd in {numbers}]; print(*os.listdir('/proc/self/fd'))"
        )
        command = ("python3", "-c", said)
        outcome = await run_in(podman, Spec("many", command, workspace, pass_fds=tuple(numbers)))
        assert outcome.exit.ok, outcome.stderr
        assert ours.recv(99).split() == [b"%d" % number for number in numbers]
    assert len(outcome.stdout.split()) == len(numbers) + 4, "the fourth is the listing's own"


async def test_podman_keeps_no_record_of_what_ran(podman: PodmanBackend, workspace: Directory) -> None:
    before = entries(podman.root)
    for ending in ("exit 3", "kill -KILL $$"):
        await run_in(podman, Spec("gone", ("sh", "-c", ending), workspace))
    with trio.move_on_after(0.2):
        async with podman.open(Spec("gone", ("sleep", "1000"), workspace)):
            await trio.sleep_forever()
    assert entries(podman.root) == before


def entries(root: Path) -> set[tuple[str, int]]:
    """Return every name below a directory that can be seen, with its size, and what is mounted there."""
    assert str(root) not in Path("/proc/self/mounts").read_text()
    return {(str(path), path.lstat().st_size) for path in root.rglob("*")}


async def test_many_start_at_once(podman: PodmanBackend, workspace: Directory) -> None:
    codes: list[int | None] = []

    async def one(number: int) -> None:
        outcome = await run_in(podman, Spec("crowd", ("sh", "-c", f"exit {number}"), workspace))
        codes.append(outcome.exit.code)

    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(one, number)
    assert sorted(code or 0 for code in codes) == list(range(6))


async def test_bind_that_podman_would_misread_is_refused(
    podman: PodmanBackend, workspace: Directory, reachable_path: Path
) -> None:
    for name in ("a:b", "a,b", 'a"b'):
        (reachable_path / name).mkdir()
        with pytest.raises(SandboxError, match="podman cannot bind"):
            await run_in(
                podman, Spec("odd", ("true",), workspace, binds=(Bind(reachable_path / name, "/odd"),))
            )


async def test_failed_launch_says_what_podman_said(podman: PodmanBackend, reachable_path: Path) -> None:
    with pytest.raises(SandboxLaunchFailed, match=r"Error: statfs .*nowhere: no such file") as caught:
        async with podman.open(Spec("lost", ("true",), Directory(reachable_path / "nowhere"))):
            pytest.fail("it started")
    assert caught.value.retryable


async def test_image_that_cannot_be_had_says_why(
    podman: PodmanBackend, ordinary_user: User, reachable_path: Path
) -> None:
    lost = PodmanBackend(
        ordinary_user, f"docker-archive:{reachable_path}/none.tar", reachable_path / "podman"
    )
    with pytest.raises(
        SandboxUnavailable, match=r"cannot get the image docker-archive:.*none\.tar: .*no such file"
    ):
        await lost.fetch_image()
    await lost.discard_images()


def swell(archive: Path, into: Path, size: int) -> None:
    """Copy an archive, with one more layer: a file of that size."""
    content = bytes(size)
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as packed:
        entry = tarfile.TarInfo("large")
        entry.size = size
        packed.addfile(entry, io.BytesIO(content))
    with tarfile.open(archive) as old:
        files = {name: unpacked.read() for name in old.getnames() if (unpacked := old.extractfile(name))}
    (manifest,) = json.loads(files["manifest.json"])
    config = json.loads(files[manifest["Config"]])
    config["rootfs"]["diff_ids"].append(f"sha256:{hashlib.sha256(layer.getvalue()).hexdigest()}")
    files |= {manifest["Config"]: json.dumps(config).encode(), "large.tar": layer.getvalue()}
    files["manifest.json"] = json.dumps([{**manifest, "Layers": [*manifest["Layers"], "large.tar"]}]).encode()
    with tarfile.open(into, "w") as new:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            new.addfile(entry, io.BytesIO(text))


@pytest.fixture
def large(podman: PodmanBackend, ordinary_user: User, reachable_path: Path) -> Iterator[Path]:
    """Return a large archive, with an empty store beside it for `at`; that is emptied again."""
    archive = reachable_path / "large.tar"
    swell(podman.root / "agent.tar", archive, 80 * MIB)
    yield archive
    trio.run(at(archive, ordinary_user).discard_images)


def at(archive: Path, user: User) -> PodmanBackend:
    """Return podman as a start finds it."""
    return PodmanBackend(user, f"docker-archive:{archive}", archive.parent / "podman")


def spoil(archive: Path) -> None:
    """Replace what is in it, in a way that cannot be told from outside."""
    status = archive.stat()
    archive.write_bytes(bytes(status.st_size))
    os.utime(archive, ns=(status.st_atime_ns, status.st_mtime_ns))


async def test_large_archive_is_unpacked_once_and_again_only_where_it_has_changed(
    large: Path, ordinary_user: User, workspace: Directory
) -> None:
    first, again, changed = (at(large, ordinary_user) for _ in range(3))
    await first.fetch_image()
    sized = await run_in(first, Spec("large", ("stat", "-c", "%s", "/large"), workspace))
    assert sized.stdout == f"{80 * MIB}\n"
    spoil(large)
    await again.fetch_image()
    assert again.image == first.image, "it looked the same, and was not read"
    os.utime(large)
    with pytest.raises(SandboxUnavailable, match="cannot get the image"):
        await changed.fetch_image()
    assert not (first.root / "store" / "unpacking").exists()


@pytest.mark.parametrize("image", ["", "-v/:/host", "a b", "--privileged", "a;b", "oci-archive:relative"])
def test_image_that_is_no_name_is_refused(podman: PodmanBackend, ordinary_user: User, image: str) -> None:
    with pytest.raises(SandboxUnavailable, match="SANDBOX_IMAGE"):
        PodmanBackend(ordinary_user, image, podman.root)


def test_user_without_subordinate_ids_is_told_what_to_do(podman: PodmanBackend) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with pytest.raises(SandboxUnavailable, match=r"user nobody-2 has no .*usermod --add-subuids .* nobody-2"):
        PodmanBackend(User(65000, 65000, "nobody-2"), "image", podman.root)
