"""How long a client inside may take what it is answered."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
import trio

from orchestrator.agents.inbound import SEND_S, SLOWEST_BYTES_A_S, ClientLeft, Inbound

PART = b"x" * 100


class HandClock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.at = 0.0

    def now(self) -> float:
        return self.at

    def move_on_after(self, seconds: float) -> trio.CancelScope:
        return trio.CancelScope(deadline=trio.current_time() if seconds <= 0 else float("inf"))


class SlowStream:
    """A client's connection, each part of which takes so long; `full` where it is not read from."""

    def __init__(self, ours: socket.socket, clock: HandClock, seconds: float) -> None:
        self.socket = trio.socket.from_stdlib_socket(ours)
        self.clock, self.seconds = clock, seconds
        self.asked = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"

    async def receive_some(self, _most: int) -> bytes:
        await trio.lowlevel.checkpoint()
        return self.asked

    async def send_all(self, content: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.clock.at += self.seconds


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


def fill(ours: socket.socket) -> None:
    try:
        while True:
            ours.send(b"x" * 65536)
    except BlockingIOError:
        return


async def send_parts(stream: SlowStream, count: int) -> int:
    """Send so many parts; return how many went."""
    inbound = Inbound(stream, stream.clock)  # type: ignore[arg-type]
    await inbound.ask()
    await inbound.head(200, {})
    for number in range(count):
        try:
            await inbound.part(PART)
        except ClientLeft:
            return number
    return count


async def test_client_that_takes_a_little_now_and_then_is_given_up(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    fill(ends[0])
    parts = await send_parts(SlowStream(ends[0], HandClock(), SEND_S / 10), 1000)
    assert 8 <= parts <= 11


async def test_client_that_takes_its_answer_fast_enough_may_take_as_long_as_that_needs(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    fill(ends[0])
    fast = len(PART) / SLOWEST_BYTES_A_S
    assert await send_parts(SlowStream(ends[0], HandClock(), fast), 100_000) == 100_000


async def test_client_that_waits_for_us_is_not_held_to_our_own_slowness(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    assert await send_parts(SlowStream(ends[0], HandClock(), SEND_S / 10), 1000) == 1000
