"""Who is calling: tokens, scopes, and the unix socket's peer.

A token is kept as its SHA-256 alone, and all are compared in constant time (reliability S20). Deny by
default: the door lets through only who is known here, and each route names the scope that it needs.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.api.problem import TokenNeeded

Header = tuple[bytes, bytes]


class Scope(StrEnum):
    """What a token may do; each of the first three includes those before it."""

    READ = "read"
    OPERATE = "operate"
    ADMIN = "admin"
    #: Acts for a peer: covers nothing else, and nothing else covers it.
    FEDERATION = "federation"


_COVERED = {
    Scope.READ: frozenset({Scope.READ}),
    Scope.OPERATE: frozenset({Scope.READ, Scope.OPERATE}),
    Scope.ADMIN: frozenset(Scope),
    Scope.FEDERATION: frozenset({Scope.FEDERATION}),
}


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller that proved who it is; `name` stands in the audit trail."""

    name: str
    scope: Scope

    def may(self, needed: Scope) -> bool:
        """Return whether the caller's scope covers the needed one."""
        return needed in _COVERED[self.scope]


#: Who connected to the unix socket as the user that the orchestrator runs as.
OWNER = Principal("owner", Scope.ADMIN)


def digest(token: bytes) -> bytes:
    """Return what is kept of a token."""
    return hashlib.sha256(token).digest()


class Tokens:
    """The tokens that open the door."""

    def __init__(self, tokens: Iterable[tuple[bytes, Principal]]) -> None:
        #: By digest.
        self._tokens = tuple(tokens)

    @classmethod
    def of_admin(cls, token: str) -> Tokens:
        """Return the one token of a new installation; an empty one opens nothing."""
        return cls([(digest(token.encode()), Principal("admin", Scope.ADMIN))] if token else [])

    def find(self, token: bytes) -> Principal | None:
        """Return whose token it is; every one is compared, so the time tells nothing."""
        offered, found = digest(token), None
        for kept, principal in self._tokens:
            if hmac.compare_digest(kept, offered):
                found = principal
        return found


def authenticate(tokens: Tokens, headers: Iterable[Header], peer_uid: int | None) -> Principal:
    """Return who is calling, or raise `TokenNeeded`; a token that is sent must be right."""
    offered = [token for name, value in headers if (token := _token(name, value)) is not None]
    if not offered:
        if peer_uid is not None and peer_uid == os.geteuid():
            return OWNER
        raise TokenNeeded
    found = [tokens.find(token) for token in offered]
    if len(found) == 1 and found[0] is not None:
        return found[0]
    if found[0] is not None and all(other == found[0] for other in found):
        return found[0]
    raise TokenNeeded("the token is not known here")


def _token(name: bytes, value: bytes) -> bytes | None:
    if name == b"x-api-key":
        return value.strip()
    if name == b"authorization":
        kind, _, token = value.partition(b" ")
        return token.strip() if kind.lower() == b"bearer" else b""
    return None
