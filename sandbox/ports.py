"""Numbers for the ports by which a program in a sandbox reaches us, known before it is launched.

The invariant: from its reservation to its end, nobody else can come to listen under such a number where the
program would connect. Callers: the backends.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

LOOPBACK = "127.0.0.1"
#: The first number in a network that is a sandbox's own, where all are free.
FIRST_PORT = 8098
#: Connections that wait to be accepted; the kernel holds up or refuses what goes beyond.
BACKLOG = 64


@dataclass(frozen=True, slots=True)
class Ports:
    """Reserved ports on 127.0.0.1, for `Spec.listen`; made by `Backend.reserve_ports`."""

    numbers: tuple[int, ...]
    #: The sockets that hold them where the network is the host's own; none where each sandbox has its own.
    held: tuple[socket.socket, ...] = ()


@contextmanager
def own_ports(count: int) -> Iterator[Ports]:
    """Give numbers for a network of the sandbox's own; there is nothing to hold."""
    yield Ports(tuple(range(FIRST_PORT, FIRST_PORT + count)))


@contextmanager
def host_ports(count: int) -> Iterator[Ports]:
    """Give numbers that this process listens under already, on the host's own loopback."""
    with contextlib.ExitStack() as ours:
        held = []
        for _ in range(count):
            made = ours.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            made.bind((LOOPBACK, 0))
            made.listen(BACKLOG)
            held.append(made)
        yield Ports(tuple(made.getsockname()[1] for made in held), tuple(held))
