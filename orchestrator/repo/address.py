"""Where a remote's host is: resolved once, every answer judged, and pinned for the one command that follows.

The invariant: git never resolves a name itself, so that what was judged is what is spoken to (no DNS
rebinding, no second answer that leads inside). Caller: `access`.
"""

from __future__ import annotations

from orchestrator.core.address import Address, as_address, inner_of, is_public
from orchestrator.errors import RepositoryUnreachable, UrlRefused
from orchestrator.names import MAX_ADDRESSES, NamesUnknown, look_up
from orchestrator.repo.url import Remote, UrlRules


def check_addresses(host: str, addresses: list[Address], rules: UrlRules) -> None:
    """Raise `UrlRefused` unless every address is one that the rules allow for that host."""
    if rules.lists(host):
        return
    for address in addresses:
        # A listed network also admits the disguises of its addresses: they lead to the same place.
        seen = (address, inner_of(address))
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
    try:
        found = await look_up(remote.host, remote.port)
    except NamesUnknown as error:
        raise RepositoryUnreachable(f"the host {remote.host} {error}") from error
    check_addresses(remote.host, found, rules)
    return found[:MAX_ADDRESSES]
