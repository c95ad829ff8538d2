"""Where a host is, by name: asked once, for whoever judges every answer and speaks to none but these.

Callers: `repo`, for git, and `agents`, for what an agent may reach.
"""

from __future__ import annotations

import ipaddress
import socket

import trio

from orchestrator.core.address import Address

RESOLVE_S = 10.0
#: As many are tried, at most, once all were judged.
MAX_ADDRESSES = 8


class NamesUnknown(Exception):
    """The name has no address that we could find; the message follows the name."""


async def look_up(host: str, port: int) -> list[Address]:
    """Return all addresses of a name, IPv4 first, each once; raises `NamesUnknown`."""
    found: list[Address] = []
    with trio.move_on_after(RESOLVE_S) as scope:
        try:
            answers = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise NamesUnknown(f"cannot be resolved: {error}") from error
        # An interface after % would be a link-local address, which is judged without it.
        found = [ipaddress.ip_address(str(answer[4][0]).partition("%")[0]) for answer in answers]
    if scope.cancelled_caught:
        raise NamesUnknown(f"was not resolved within {RESOLVE_S:g} s")
    if not found:
        raise NamesUnknown("has no address")
    return sorted(dict.fromkeys(found), key=lambda address: address.version)


def is_own(address: Address) -> bool:
    """Return whether it is an address of this host; nothing is sent to find that out."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(address), 9))
        except OSError:
            return False
        return ipaddress.ip_address(str(probe.getsockname()[0]).partition("%")[0]) == address
