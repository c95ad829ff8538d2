"""Where a remote's host is: resolved once, every answer judged, and pinned for the one command that follows.

The invariant: git never resolves a name itself, so that what was judged is what is spoken to (no DNS
rebinding, no second answer that leads inside). Caller: `access`.
"""

from __future__ import annotations

import ipaddress
import socket

import trio

from orchestrator.errors import RepositoryUnreachable, UrlRefused
from orchestrator.repo.url import Address, Remote, UrlRules, as_address

RESOLVE_S = 10.0
MAX_ADDRESSES = 8
#: IPv6 in which an IPv4 address hides, by the prefix and the bits to shift it down by.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_SIX_TO_FOUR = ipaddress.IPv6Network("2002::/16")
_NEVER = tuple(
    ipaddress.ip_network(text)
    for text in (
        "64:ff9b:1::/48",
        "2001::/32",
        "fec0::/10",
        "100.64.0.0/10",
        "192.88.99.0/24",
        "198.18.0.0/15",
    )
)


def is_public(address: Address) -> bool:
    """Return whether the whole internet means the same host by it, also where it hides in another."""
    inner = _inner(address)
    if inner is not None:
        return is_public(inner)
    if any(address in network for network in _NEVER if network.version == address.version):
        return False
    refused = address.is_multicast or address.is_reserved or address.is_unspecified or address.is_link_local
    return address.is_global and not refused


def _inner(address: Address) -> Address | None:
    if not isinstance(address, ipaddress.IPv6Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64 or (int(address) >> 32 == 0 and int(address) > 1):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address in _SIX_TO_FOUR:
        return ipaddress.IPv4Address(int(address) >> 80 & 0xFFFFFFFF)
    return None


def check_addresses(host: str, addresses: list[Address], rules: UrlRules) -> None:
    """Raise `UrlRefused` unless every address is one that the rules allow for that host."""
    if rules.lists(host):
        return
    for address in addresses:
        # A listed network also admits the disguises of its addresses: they lead to the same place.
        seen = (address, _inner(address))
        if any(each in network for each in seen if each is not None for network in rules.networks):
            continue
        if not is_public(address):
            raise UrlRefused(
                f"the host {host} is at {address}, which is not public and not in REPOSITORY_HOSTS"
            )
        if not rules.public:
            raise UrlRefused(f"the host {host} is at {address}, which is not in REPOSITORY_HOSTS")


async def resolve_host(remote: Remote, rules: UrlRules) -> list[Address]:
    """Return the addresses to speak to, IPv4 first; raises `UrlRefused` or `RepositoryUnreachable`."""
    literal = as_address(remote.host)
    if literal is not None:
        check_addresses(remote.host, [literal], rules)
        return [literal]
    found: list[Address] = []
    with trio.move_on_after(RESOLVE_S) as scope:
        try:
            answers = await trio.socket.getaddrinfo(remote.host, remote.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise RepositoryUnreachable(f"the host {remote.host} cannot be resolved: {error}") from error
        # An interface after % would be a link-local address, which is judged without it.
        found = [ipaddress.ip_address(str(answer[4][0]).partition("%")[0]) for answer in answers]
    if scope.cancelled_caught:
        raise RepositoryUnreachable(f"the host {remote.host} was not resolved within {RESOLVE_S:g} s")
    if not found:
        raise RepositoryUnreachable(f"the host {remote.host} has no address")
    check_addresses(remote.host, found, rules)
    return sorted(dict.fromkeys(found), key=lambda address: address.version)[:MAX_ADDRESSES]
