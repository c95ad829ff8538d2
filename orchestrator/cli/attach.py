"""The command `attach`: an agent's terminal on this one, until a key leaves it.

The invariant: however it ends (the key, the agent's end, a signal, an error), this terminal is as it was; and
what the agent's program shows passes `core.tame` first, because its author is not to be trusted with a
person's clipboard, title or keyboard. Caller: `orchestrator.__main__`, by its table.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import signal
import sys
import termios
import tty
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import click
import trio

from orchestrator.cli.failure import USAGE, Failed
from orchestrator.cli.output import Output
from orchestrator.cli.session import Session, supervised
from orchestrator.core.tame import Tamer

if TYPE_CHECKING:
    from orchestrator.client import Client, TerminalSocket

_KEY = re.compile(r"(?:ctrl-|\^)([a-z@\[\]\\^_])", re.IGNORECASE)
_CHUNK_BYTES = 4096


def read_key(_context: click.Context, _option: click.Parameter, value: str) -> bytes:
    """Return the byte of a key that is named `ctrl-x`, `^x` or by itself."""
    if found := _KEY.fullmatch(value):
        return bytes([ord(found[1].upper()) & 0x1F])
    if len(value) == 1 and value.isascii():
        return value.encode()
    raise click.BadParameter("must be one key: ctrl-], ^A, or a character")


@click.command()
@click.argument("agent_id", metavar="AGENT")
@click.option("--watch", is_flag=True, help="Look on only: nothing that you type arrives.")
@click.option(
    "--detach-key", default="ctrl-]", show_default=True, callback=read_key, metavar="KEY",
    help="The key that leaves.",
)  # fmt: skip
@supervised
def attach(session: Session, agent_id: str, *, watch: bool, detach_key: bytes) -> None:
    """Sit down at an agent's terminal; the agent goes on when you leave.

    With --json nothing is typed and nothing interpreted: each line has what was shown, in base64.
    """
    if session.output.as_json:
        session.run(lambda client: _print(client, agent_id, session.output))
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise Failed("attach needs a terminal: standard input and output have to be one", exit_status=USAGE)
    ended = session.run(lambda client: _Seat(detach_key, watch=watch).take(client, agent_id))
    session.output.line((f"{agent_id}: {ended}" if ended else f"left {agent_id}; it goes on", "dim"))


async def _print(client: Client, agent_id: str, output: Output) -> None:
    async with client.open_terminal(agent_id, watch=True) as terminal:
        while piece := await terminal.receive_some():
            output.json({"shown": base64.b64encode(piece).decode()})
        output.json({"ended": terminal.reason})


class _Seat:
    """A person's place at an agent's terminal."""

    def __init__(self, detach_key: bytes, *, watch: bool) -> None:
        self._key = detach_key
        self._watch = watch
        self._tamer = Tamer()
        self._ended = ""
        self._failure: Exception | None = None

    async def take(self, client: Client, agent_id: str) -> str:
        """Sit until the key is pressed or the program ends; return why it ended, or nothing."""
        async with client.open_terminal(agent_id, watch=self._watch) as terminal:
            with _raw() as fd:
                # Whatever follows, cancelled or not: what a program set is taken back.
                try:
                    await self._sit(terminal, trio.lowlevel.FdStream(os.dup(fd)))
                finally:
                    _write_now(fd, self._tamer.farewell())
        return self._ended

    async def _sit(self, terminal: TerminalSocket, screen: trio.lowlevel.FdStream) -> None:
        with trio.open_signal_receiver(signal.SIGWINCH) as resized:
            async with screen, trio.open_nursery() as nursery:

                async def until_one_ends(part: Callable[[], Awaitable[None]]) -> None:
                    try:
                        await part()
                    except Exception as error:  # raised below, bare
                        self._failure = error
                    nursery.cancel_scope.cancel()

                for part in (
                    partial(self._follow_size, terminal, screen, resized),
                    partial(self._show, terminal, screen),
                    partial(self._type, terminal, screen),
                ):
                    nursery.start_soon(until_one_ends, part)
        if self._failure is not None:
            raise self._failure

    async def _follow_size(
        self, terminal: TerminalSocket, screen: trio.lowlevel.FdStream, resized: AsyncIterator[int]
    ) -> None:
        await self._tell_size(terminal, screen)
        async for _ in resized:
            await self._tell_size(terminal, screen)

    async def _tell_size(self, terminal: TerminalSocket, screen: trio.lowlevel.FdStream) -> None:
        size = os.get_terminal_size(screen.fileno())
        if not self._watch and size.columns and size.lines:
            await terminal.resize(size.columns, size.lines)

    async def _show(self, terminal: TerminalSocket, screen: trio.lowlevel.FdStream) -> None:
        while piece := await terminal.receive_some():
            await screen.send_all(self._tamer.feed(piece))
        self._ended = terminal.reason or "the program ended"

    async def _type(self, terminal: TerminalSocket, screen: trio.lowlevel.FdStream) -> None:
        while keys := await screen.receive_some(_CHUNK_BYTES):
            typed, pressed, _ = bytes(keys).partition(self._key)
            if typed and not self._watch:
                await terminal.type(typed)
            if pressed or (self._watch and b"\x03" in typed):
                return


@contextlib.contextmanager
def _raw() -> Iterator[int]:
    """Hand the terminal over as it is, every key a byte; afterwards it is as it was."""
    # A description of its own: what is set on it, such as not to block, is not set on the shell's.
    fd = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        before = termios.tcgetattr(fd)
        try:
            tty.setraw(fd)
            yield fd
        finally:
            termios.tcsetattr(fd, termios.TCSANOW, before)
    finally:
        os.close(fd)


def _write_now(fd: int, data: bytes) -> None:
    """Write, and leave it where the terminal is gone or takes nothing."""
    os.set_blocking(fd, False)
    with contextlib.suppress(OSError):
        os.write(fd, data)
