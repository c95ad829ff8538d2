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
from sandbox.ports import host_ports, own_ports
from tests.kit.processes import fresh_mark, marked
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


KNOCK = """
import socket, sys
for number in sys.argv[1:]:
    s = socket.create_connection(("127.0.0.1", int(number)))
    s.sendall(b"knock %s\\n" % number.encode())
    print(s.recv(99).decode().strip())
"""


async def test_ports_on_the_loopback_inside_lead_to_us(backend: Backend, workspace: Directory) -> None:
    with backend.reserve_ports(2) as ports:
        numbers = tuple(map(str, ports.numbers))
        spec = Spec("ports", ("python3", "-c", KNOCK, *numbers), workspace, listen=ports)
        async with backend.open(spec) as sandbox:
            heard = []
            for listener in sandbox.listeners:
                async with await listener.accept() as stream:
                    heard.append(bytes(await stream.receive_some()))
                    await stream.send_all(heard[-1])
            assert (await sandbox.wait()).ok
        assert heard == [f"knock {number}\n".encode() for number in numbers]
        assert len(sandbox.listeners) == 2
        with pytest.raises(trio.ClosedResourceError):
            await sandbox.listeners[0].accept()
        if backend.namespaced:
            assert ports.numbers == (8098, 8099)


PROBE = """
import socket, sys
here = "127.0.0.1"
for host, port in ((here, 8098), (here, 8099), (here, int(sys.argv[1])), ("1.1.1.1", 53)):
    try:
        socket.create_connection((host, port), 2).close()
    except OSError as error:
        print(error.errno and __import__("errno").errorcode[error.errno])
    else:
        print("reached")
"""


async def test_nothing_but_the_port_is_reached(isolated: Backend, workspace: Directory) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, isolated.reserve_ports(1) as ports:
        hosts = str(other.getsockname()[1])
        spec = Spec("only", ("python3", "-c", PROBE, hosts), workspace, listen=ports)
        outcome = await run_in(isolated, spec)
        apart = await run_in(isolated, dataclasses.replace(spec, listen=None))
    assert outcome.stdout.split() == ["reached", "ECONNREFUSED", "ECONNREFUSED", "ENETUNREACH"]
    assert apart.stdout.split() == ["ECONNREFUSED"] * 3 + ["ENETUNREACH"]


async def test_nobody_outside_reaches_the_port_of_a_sandbox(isolated: Backend, workspace: Directory) -> None:
    spec = Spec("mine", ("sh", "-c", "echo up; exec cat"), workspace)
    with isolated.reserve_ports(1) as ports:
        async with isolated.open(dataclasses.replace(spec, listen=ports)) as one:
            await read_until(one, b"up")
            with pytest.raises(OSError, match="refused"):
                socket.create_connection(("127.0.0.1", ports.numbers[0]))
            async with isolated.open(dataclasses.replace(spec, listen=ports)) as two:
                await read_until(two, b"up")
                assert one.listeners[0].socket.getsockname() == two.listeners[0].socket.getsockname()
            outcome = await run_in(isolated, Spec("not", ("python3", "-c", PROBE, "9"), workspace))
    assert outcome.stdout.split()[0] == "ECONNREFUSED", "another's port is not this one's"


async def test_agent_sees_nothing_of_who_listens_and_cannot_take_the_port(
    isolated: Backend, workspace: Directory
) -> None:
    script = """
import os, socket
print(sorted(os.listdir("/proc/self/fd")), sum(name.isdigit() for name in os.listdir("/proc")))
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
try: s.bind(("127.0.0.1", 8098)); s.listen()
except OSError as e: print(e.errno)
"""
    spec = Spec("taker", ("python3", "-c", script), workspace)
    without = (await run_in(isolated, spec)).stdout.splitlines()
    with isolated.reserve_ports(1) as ports:
        with_it = (await run_in(isolated, dataclasses.replace(spec, listen=ports))).stdout.splitlines()
    assert with_it == [without[0], "98"]


async def test_ports_of_the_wrong_kind_are_refused(backend: Backend, workspace: Directory) -> None:
    kinds = (own_ports, host_ports)
    with kinds[backend.namespaced](1) as ports, pytest.raises(SandboxError, match="reserved"):
        async with backend.open(Spec("wrong", ("true",), workspace, listen=ports)):
            pytest.fail("it opened")
    with backend.reserve_ports(17) as many, pytest.raises(SandboxError, match="17 ports"):
        async with backend.open(Spec("many", ("true",), workspace, listen=many)):
            pytest.fail("it opened")


async def test_reserved_port_serves_one_sandbox_after_the_other(
    backend: Backend, workspace: Directory
) -> None:
    with backend.reserve_ports(1) as ports:
        spec = Spec("turn", ("python3", "-c", KNOCK, str(ports.numbers[0])), workspace, listen=ports)
        for _ in range(2):
            async with backend.open(spec) as sandbox:
                async with await sandbox.listeners[0].accept() as stream:
                    await stream.send_all(await stream.receive_some())
                assert (await sandbox.wait()).ok


def open_descriptors() -> int:
    """Return how many descriptors this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.slow
async def test_kill_while_it_gets_port_and_terminal_leaves_nothing(
    backend: Backend, workspace: Directory
) -> None:
    class CancelAt(trio.abc.Instrument):
        def __init__(self, step: int, scope: trio.CancelScope) -> None:
            self.left, self.scope = step, scope

        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            self.left -= 1
            if self.left == 0:
                self.scope.cancel()

    with backend.reserve_ports(1) as ports:
        for step in range(1, 200):
            label = fresh_mark("listens")
            sleeper = Spec(label, ("sleep", "1000"), workspace, {"MARK": label})
            spec = dataclasses.replace(sleeper, listen=ports, terminal=(80, 24))
            before = open_descriptors()
            reached = False
            with trio.CancelScope() as scope:
                instrument = CancelAt(step, scope)
                trio.lowlevel.add_instrument(instrument)
                try:
                    async with backend.open(spec):
                        reached = True
                finally:
                    trio.lowlevel.remove_instrument(instrument)
            assert not marked(label), f"cancelled at step {step}"
            assert open_descriptors() == before, f"cancelled at step {step}"
            if reached and not scope.cancel_called:
                return
    pytest.fail("the sandbox never came to its end")
