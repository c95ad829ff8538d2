"""Addresses and host names, judged by their look: what the whole internet means the same host by.

The invariant: a name that passes is no address in disguise, and no disguise makes an address public. Pure;
called by `repo`, whose git speaks to remotes, and by `egress`, for what agents may reach.
"""

from __future__ import annotations

import ipaddress
import re

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
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
        "168.63.129.16/32",  # a cloud's own host, which tells each machine its secrets by a public address
        "192.0.0.0/24",  # not all Pythons know it whole; a cloud has its metadata there
    )
)


def as_network(entry: str) -> Network | None:
    """Return a listed network or address as a network; None for a name."""
    try:
        return ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        return None


def as_address(host: str) -> Address | None:
    """Return a host that is written as an address; None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_public(address: Address) -> bool:
    """Return whether the whole internet means the same host by it, also where it hides in another."""
    inner = inner_of(address)
    if inner is not None:
        return is_public(inner)
    if any(address in network for network in _NEVER if network.version == address.version):
        return False
    refused = address.is_multicast or address.is_reserved or address.is_unspecified or address.is_link_local
    return address.is_global and not refused


def inner_of(address: Address) -> Address | None:
    """Return the IPv4 address that an IPv6 address stands for, if it does."""
    if not isinstance(address, ipaddress.IPv6Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64 or (int(address) >> 32 == 0 and int(address) > 1):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address in _SIX_TO_FOUR:
        return ipaddress.IPv4Address(int(address) >> 80 & 0xFFFFFFFF)
    return None


def name_trouble(host: str) -> str | None:
    """Return what is wrong with a host name in lower case, or None where it is one."""
    labels = host.removesuffix(".").split(".")
    if not host or len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        return "names no host, or one that is no host name"
    # 127.1, 0x7f000001 and 2130706433 are addresses to a resolver, in a disguise that nobody needs.
    if re.fullmatch(r"[0-9]+|0x[0-9a-f]*", labels[-1]):
        return "is an address in an unusual form"
    return None
