"""Programs in a sandbox reach the supervisor by what it opened for them, and nobody else does."""

from __future__ import annotations

import dataclasses
import socket
import stat
from pathlib import Path

import pytest
import trio

from sandbox.base import Backend, Bind, Directory, SandboxError, Spec, User
from sandbox.inlet import open_socket
from tests.kit.sandboxes import read_until, run_in

CONNECT = """
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.sendall(b"knock\\n")
print(s.recv(99).decode())
"""
TARGET = "/tmp/inlet"


async def answer(listener: trio.SocketListener) -> None:
    """Answer each connection's first words by their reverse."""

    async def reverse(stream: trio.SocketStream) -> None:
        await stream.send_all(bytes(await stream.receive_some())[::-1])

    await trio.serve_listeners(reverse, [listener])


@pytest.fixture
def folder(reachable_path: Path) -> Path:
    """Return a directory of ours that others may pass through, and neither list nor write."""
    path = reachable_path / "inlet"
    path.mkdir()
    path.chmod(0o711)
    return path


async def test_unix_socket_of_ours_is_reached_from_inside_where_it_is_bound(
    backend: Backend, workspace: Directory, folder: Path
) -> None:
    path = folder / "socket"
    seen = backend.seen(path, TARGET)
    spec = Spec("inlet", ("python3", "-c", CONNECT, seen), workspace, binds=(Bind(path, TARGET),))
    with open_socket(path, backend.user) as listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer, listener)
            bound = await run_in(backend, spec)
            unbound = await run_in(backend, dataclasses.replace(spec, binds=()))
            nursery.cancel_scope.cancel()
    assert bound.stdout == "\nkconk\n", bound.stderr
    assert unbound.exit.ok != backend.namespaced, "where nothing is hidden, the file's owner may connect"
    assert not path.exists()


async def test_unix_socket_belongs_to_the_sandboxes_user_alone(folder: Path, ordinary_user: User) -> None:
    path = folder / "socket"
    with open_socket(path, ordinary_user):
        status = path.stat()
        assert stat.S_ISSOCK(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o600
        assert (status.st_uid, status.st_gid) == (ordinary_user.uid, ordinary_user.gid)


async def test_unix_socket_may_have_a_long_path(backend: Backend, workspace: Directory, folder: Path) -> None:
    deep = folder / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    path = deep / "socket"
    command = ("python3", "-c", CONNECT, TARGET)
    with open_socket(path, backend.user) as listener:
        if backend.namespaced:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(answer, listener)
                outcome = await run_in(backend, Spec("deep", command, workspace, binds=(Bind(path, TARGET),)))
                nursery.cancel_scope.cancel()
            assert outcome.stdout == "\nkconk\n", outcome.stderr
    assert not path.exists()


def test_unix_socket_that_a_crash_left_is_replaced_and_nothing_else_is(
    folder: Path, ordinary_user: User
) -> None:
    path = folder / "socket"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with open_socket(path, ordinary_user):
        assert path.is_socket()
    path.write_text("precious")
    with pytest.raises(SandboxError, match="socket"), open_socket(path, ordinary_user):
        pytest.fail("it opened")
    assert path.read_text() == "precious"
    with pytest.raises(SandboxError, match="nowhere"), open_socket(folder / "nowhere" / "s", ordinary_user):
        pytest.fail("it opened")


async def test_connection_ends_with_its_sandbox_and_its_listener_serves_the_next(
    backend: Backend, workspace: Directory, folder: Path
) -> None:
    path = folder / "socket"
    hold = CONNECT.replace("print", "sys.stdin.read(); print").replace(
        "s.sendall", "print('up', flush=True); s.sendall"
    )
    command = ("python3", "-c", hold, backend.seen(path, TARGET))
    spec = Spec("ends", command, workspace, binds=(Bind(path, TARGET),))
    with open_socket(path, backend.user) as listener:
        for _ in range(2):
            async with backend.open(spec) as sandbox:
                await read_until(sandbox, b"up")
                stream = await listener.accept()
                assert await stream.receive_some() == b"knock\n"
            async with stream:
                assert await stream.receive_some() == b""
