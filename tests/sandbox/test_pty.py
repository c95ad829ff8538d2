"""A command on a terminal of its own: it is resized, it is typed at, and it ends with the sandbox."""

from __future__ import annotations

import dataclasses
import os

import pytest
import trio

from sandbox.base import Backend, Directory, Exit, Sandbox, SandboxError, Spec
from sandbox.terminal import Terminal
from tests.kit.processes import fresh_mark, marked
from tests.kit.sandboxes import read_status
from tests.kit.until import seen
from tests.kit.zoo import ZOO


def on_terminal(script: str, workspace: Directory, **fields: object) -> Spec:
    """Return a shell script to be run on a terminal of 80 columns and 24 rows."""
    spec = Spec("terminal", ("sh", "-c", script), workspace, terminal=(80, 24))
    return dataclasses.replace(spec, **fields)  # type: ignore[arg-type]


def programmed(script: str, workspace: Directory) -> Spec:
    """Return a program of Python's to be run on such a terminal: an image may have no `stty` or `yes`."""
    return dataclasses.replace(on_terminal("", workspace), command=("python3", "-u", "-c", script))


def terminal_of(sandbox: Sandbox) -> Terminal:
    """Return the terminal that was asked for."""
    assert sandbox.terminal is not None
    return sandbox.terminal


async def shown_until(sandbox: Sandbox, word: bytes) -> bytes:
    """Read what the terminal shows until a word comes."""
    text = b""
    while word not in text:
        chunk = await terminal_of(sandbox).receive_some()
        assert chunk, f"the terminal hung up without {word!r}: {text!r}"
        text += chunk
    return text


async def shown(sandbox: Sandbox) -> str:
    """Read what the terminal shows until nobody holds it."""
    text = b""
    while chunk := await terminal_of(sandbox).receive_some():
        text += chunk
    return text.decode().replace("\r\n", "\n")


async def test_command_has_a_terminal_of_its_own_and_controls_it(
    backend: Backend, workspace: Directory
) -> None:
    script = """
import os
print(os.ttyname(0), os.ttyname(1), os.ttyname(2))
print(os.getsid(0) == os.getpid(), os.tcgetpgrp(0) == os.getpgrp())
with open("/dev/tty", "w") as own: own.write("by /dev/tty\\n")
with open(os.ttyname(0), "w") as named: named.write("by its name\\n")
print(*os.get_terminal_size())
"""
    spec = programmed(script, workspace)
    async with backend.open(spec) as sandbox:
        lines = (await shown(sandbox)).splitlines()
        assert (await sandbox.wait()).ok, lines
    name = lines[0].split()[0]
    assert lines == [f"{name} {name} {name}", "True True", "by /dev/tty", "by its name", "80 24"]
    if backend.namespaced:
        assert name == "/dev/pts/0"
    assert name not in {os.ttyname(fd) for fd in range(3) if os.isatty(fd)}


async def test_resize_is_seen_inside_and_told(backend: Backend, workspace: Directory) -> None:
    script = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH})
print(*os.get_terminal_size(), "up")
signal.sigwait({signal.SIGWINCH})
print("told", *os.get_terminal_size())
"""
    async with backend.open(programmed(script, workspace)) as sandbox:
        assert b"80 24" in await shown_until(sandbox, b"up")
        terminal_of(sandbox).resize_nowait((132, 43))
        await shown_until(sandbox, b"told 132 43")
    terminal_of(sandbox).resize_nowait((10, 10))


async def test_interrupt_reaches_the_foreground_processes(backend: Backend, workspace: Directory) -> None:
    script = "trap 'echo caught' INT; sh -c 'echo up; exec sleep 1000'; echo after $?"
    async with backend.open(on_terminal(script, workspace)) as sandbox:
        await shown_until(sandbox, b"up")
        await terminal_of(sandbox).send_all(b"\x03")
        text = await shown(sandbox)
        assert "after 130" in text
        assert "caught" in text
        assert (await sandbox.wait()).ok


async def test_end_of_input_and_end_of_output(backend: Backend, workspace: Directory) -> None:
    async with backend.open(on_terminal("cat; echo over; exit 3", workspace)) as sandbox:
        await terminal_of(sandbox).send_all(b"typed\n\x04")
        assert await shown(sandbox) == "typed\ntyped\nover\n"
        assert await sandbox.wait() == Exit(code=3)
        assert await terminal_of(sandbox).receive_some() == b""
    with pytest.raises(trio.ClosedResourceError):
        await terminal_of(sandbox).receive_some()


async def test_flood_is_held_up_and_can_be_killed(backend: Backend, workspace: Directory) -> None:
    mark = fresh_mark("flood")
    spec = dataclasses.replace(programmed("while True: print('y' * 99)", workspace), env={"MARK": mark})
    async with backend.open(spec) as sandbox:
        assert len(await terminal_of(sandbox).receive_some(100)) <= 100
        await seen(lambda: _waits_to_write(sandbox), "the flood is held up")
        sandbox.kill_nowait()
        proof = await sandbox.prove_gone(5)
        assert (proof.remaining, await sandbox.wait()) == (0, Exit(signal=9))
        rest = len((await shown(sandbox)).encode())
    assert rest < 1 << 20
    assert not marked(mark)


def _waits_to_write(sandbox: Sandbox) -> bool:
    return states(sandbox).get("python3", "").startswith("S")


def states(sandbox: Sandbox) -> dict[str, str]:
    """Return what runs inside, by its name, and its state."""
    found = [read_status(pid) for pid in sandbox.processes()]
    return {status["Name"]: status["State"] for status in found}


async def test_kill_of_a_crowd_on_a_terminal_leaves_nothing(backend: Backend, workspace: Directory) -> None:
    mark = fresh_mark("crowd")
    async with backend.open(on_terminal(ZOO, workspace, env={"MARK": mark})) as sandbox:
        await shown_until(sandbox, b"zoo-open")
        sandbox.freeze_nowait()
        sandbox.kill_nowait()
        assert (await sandbox.prove_gone(5)).remaining == 0
    assert not marked(mark)


async def test_frozen_terminal_shows_nothing_and_goes_on(backend: Backend, workspace: Directory) -> None:
    async with backend.open(on_terminal("echo up; read -r line; echo got $line", workspace)) as sandbox:
        await shown_until(sandbox, b"up\r\n")
        sandbox.freeze_nowait()
        await terminal_of(sandbox).send_all(b"typed\n")
        assert await shown_until(sandbox, b"typed\r\n") == b"typed\r\n", "the kernel's echo, and no more"
        sandbox.thaw_nowait()
        assert "got typed" in await shown(sandbox)


async def test_what_is_pushed_into_a_terminal_stays_inside(isolated: Backend, workspace: Directory) -> None:
    script = """
import fcntl, os, termios
try:
    for byte in b"own\\n": fcntl.ioctl(0, termios.TIOCSTI, bytes([byte]))
except OSError as error: print("refused")
else: print("read", input())
print(os.stat("/dev/tty").st_rdev == os.makedev(5, 0), sorted(os.listdir("/dev/pts")))
"""
    async with isolated.open(programmed(script, workspace)) as sandbox:
        text = await shown(sandbox)
    assert "refused" in text or "read own" in text, "into its own at most"
    assert "True ['0', 'ptmx']" in text, "no other terminal is to be seen"


async def test_session_of_a_login_shell_has_job_control(backend: Backend, workspace: Directory) -> None:
    spec = dataclasses.replace(
        on_terminal("", workspace), command=("bash", "--norc", "-i"), env={"PS1": "> "}
    )
    async with backend.open(spec) as sandbox:
        await terminal_of(sandbox).send_all(b"sleep 1000\n")
        await seen(lambda: "sleep" in states(sandbox), "it sleeps")
        await terminal_of(sandbox).send_all(b"\x1a")
        assert b"no job control" not in await shown_until(sandbox, b"Stopped")
        await terminal_of(sandbox).send_all(b"kill %1; fg; exit 5\n")
        await shown(sandbox)
        assert await sandbox.wait() == Exit(code=5)


@pytest.mark.parametrize("size", [(0, 24), (80, -1), (80, 65536)])
async def test_impossible_size_is_refused(
    backend: Backend, workspace: Directory, size: tuple[int, int]
) -> None:
    with pytest.raises(SandboxError, match="columns and rows"):
        async with backend.open(on_terminal("true", workspace, terminal=size)):
            pytest.fail("it opened")


async def test_port_and_terminal_go_together(backend: Backend, workspace: Directory) -> None:
    script = "import socket; print(socket.create_connection(('127.0.0.1', {})).recv(9).decode())"
    with backend.reserve_ports(1) as ports:
        spec = dataclasses.replace(programmed(script.format(ports.numbers[0]), workspace), listen=ports)
        async with backend.open(spec) as sandbox:
            async with await sandbox.listeners[0].accept() as stream:
                await stream.send_all(b"told")
            assert await shown(sandbox) == "told\n"
