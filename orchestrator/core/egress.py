"""What agents may reach: the operator's list, narrowed by a task, and what a host or an address is by them.

    SANDBOX_EGRESS=pypi,*.example.org,registry.corp:8081,127.0.0.1:8081

The invariant: a host is reached where an entry of the operator's names it, by its name and its port; at an
address that is not public only where the entry says so much that nothing else can be meant. Pure; called by
the settings and by `agents.egress`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase

from orchestrator.core.address import Address, as_address, inner_of, is_public, name_trouble

#: Characters of a host, as it is named: what is longer is none.
MAX_HOST = 255
#: The ports of an entry that names none.
USUAL_PORTS = frozenset({80, 443})
PRESETS: dict[str, tuple[str, ...]] = {
    "pypi": ("pypi.org", "files.pythonhosted.org"),
    "npm": ("registry.npmjs.org",),
    "crates": ("crates.io", "index.crates.io", "static.crates.io"),
    "go": ("proxy.golang.org", "sum.golang.org"),
    "debian": ("deb.debian.org", "security.debian.org"),
}
MB = 1 << 20
_ENTRY = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]+|[0-9a-f:.]+)(?::([0-9]{1,5}))?")
_AUTHORITY = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]@/?#\s]+):([0-9]{1,5})")
#: Where clouds tell a machine its secrets; no name leads there, whoever listed it.
_METADATA = frozenset(
    as_address(text)
    for text in (
        *("169.254.169.254", "100.100.100.200", "192.0.0.192", "168.63.129.16"),
        *("fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254"),
    )
)


class Beyond(Exception):
    """The host may not be reached; the message says why, after its name."""


@dataclass(frozen=True, slots=True)
class Place:
    """A host, in lower case, and a port of it."""

    host: str
    port: int

    def __str__(self) -> str:
        shown = f"[{self.host}]" if ":" in self.host else self.host
        return f"{shown}:{self.port}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One host, or a glob of hosts, at one port or at the usual ones."""

    host: str
    port: int | None = None

    def names(self, place: Place) -> bool:
        """Return whether the place is meant. A glob means names only, an address only itself."""
        if place.port != self.port and (self.port is not None or place.port not in USUAL_PORTS):
            return False
        literal, own = as_address(place.host), as_address(self.host)
        if literal is not None or own is not None:
            return literal == own
        return fnmatchcase(place.host, self.host)

    @property
    def exact(self) -> bool:
        """Whether it says so much that it may lead to an address that is not public."""
        return as_address(self.host) is not None or (self.port is not None and "*" not in self.host)


@dataclass(frozen=True, slots=True)
class Allowance:
    """MB (2**20 bytes) that one agent may send and receive in all, in one life."""

    up_mb: float = 64
    down_mb: float = 4096

    def beyond(self, up: int, down: int) -> str | None:
        """Return why not a byte more may go, after so many; None where it may."""
        for done, how, most, setting in (
            (up, "sent", self.up_mb, "SANDBOX_EGRESS_UP_MB"),
            (down, "received", self.down_mb, "SANDBOX_EGRESS_DOWN_MB"),
        ):
            if done >= most * MB:
                return f"is cut off: the agent has {how} all of its {most:g} MB ({setting})"
        return None


ALLOWANCE = Allowance()


@dataclass(frozen=True, slots=True)
class Rules:
    """What may be reached; nothing, without entries."""

    entries: tuple[Entry, ...] = ()
    #: The narrowing of a task: None narrows nothing.
    narrowed: tuple[Entry, ...] | None = None
    allowance: Allowance = ALLOWANCE

    @classmethod
    def of(cls, texts: Iterable[str], allowance: Allowance = ALLOWANCE) -> Rules:
        """Return the rules of an operator's list; raises `ValueError`."""
        entries = tuple(entry for text in texts for entry in read_entries(text.lower()))
        return cls(entries, allowance=allowance)

    @property
    def loopback(self) -> frozenset[str]:
        """The entries' hosts that stand for the loopback."""
        hosts = {entry.host for entry in self.entries}
        return frozenset(host for host in hosts if host == "localhost" or _is_loopback(as_address(host)))

    def narrow(self, allow: Iterable[str] | None) -> Rules:
        """Return the rules for a task that asks for these alone; None asks for all that there is."""
        if allow is None:
            return self
        wanted: list[Entry] = []
        for text in allow:
            with suppress(ValueError):  # of a task that was accepted by another version
                wanted += read_entries(text.lower(), loosely=True)
        return Rules(self.entries if wanted else (), tuple(wanted), self.allowance)

    def find(self, place: Place) -> Entry:
        """Return the entry by which the place may be reached, the most exact one; raises `Beyond`."""
        if as_address(place.host) is None and (trouble := name_trouble(place.host)):
            raise Beyond(trouble)
        if place.host.endswith("."):
            raise Beyond("ends with a dot")
        found = [entry for entry in self.entries if entry.names(place)]
        if not found:
            raise Beyond("is not in SANDBOX_EGRESS")
        if self.narrowed is not None and not any(entry.names(place) for entry in self.narrowed):
            raise Beyond("is not in the task's network.allow")
        return max(found, key=lambda entry: entry.exact)


def _is_loopback(address: Address | None) -> bool:
    return address is not None and address.is_loopback


def check_answers(entry: Entry, addresses: Iterable[Address]) -> None:
    """Raise `Beyond` unless the entry admits every address that its host was found at."""
    own = as_address(entry.host)
    for address in addresses:
        if address == own or is_public(address):
            continue
        inner = inner_of(address) or address
        never = inner.is_link_local or inner.is_multicast or inner.is_unspecified or inner in _METADATA
        if never or address in _METADATA or not entry.exact:
            raise Beyond(f"is at {address}, which is not public")


def read_entries(text: str, *, loosely: bool = False) -> tuple[Entry, ...]:
    """Return the entries of a text in lower case: a preset's, or itself; else raises `ValueError`.

    `loosely` takes any glob, where it can only narrow what others allow.
    """
    if text in PRESETS:
        return tuple(Entry(host) for host in PRESETS[text])
    parts = _ENTRY.fullmatch(text)
    host, port = (parts[1].strip("[]"), parts[2]) if parts else ("", None)
    if as_address(host) is None:
        plain = host.replace("*", "x") if loosely else re.sub(r"\A\*(?=\.|\Z)", "x", host)
        if name_trouble(plain) is not None or host.endswith("."):
            raise ValueError(
                "will not do: use pypi, npm, crates, go, debian, host names, globs like *.example.org, "
                "and host:port or an address where it is not public"
            )
    if port is not None and not 0 < int(port) < 1 << 16:
        raise ValueError("has a port that is none")
    return (Entry(host, None if port is None else int(port)),)


def read_place(authority: str) -> Place:
    """Return the place of `host:port`, as CONNECT names it; raises `Beyond`."""
    parts = _AUTHORITY.fullmatch(authority) if authority.isascii() else None
    if parts is None or len(parts[1]) > MAX_HOST or not 0 < int(parts[2]) < 1 << 16:
        raise Beyond("is no host:port")
    host = parts[1].lower()
    if host.startswith("["):
        literal = as_address(host.strip("[]"))
        if literal is None:
            raise Beyond("is no address")
        host = str(literal)
    return Place(host, int(parts[2]))
