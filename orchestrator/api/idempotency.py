"""Idempotency keys (J10): a creating request that is repeated does nothing twice and gets the same answer.

The receipt is stored in the same transaction as what it stands for, so a crash cannot come between the
two; and it holds the whole answer, which is repeated byte for byte, whatever has happened since. Keys are
scoped by caller, and compared with the fingerprint of method, path and body. Called by the creating
endpoints.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from quart import Response

from orchestrator.api import problem
from orchestrator.api.route import Call, json_bytes
from orchestrator.api.strict_json import Json, canonical
from orchestrator.core.events import Recorded, TaskAssigned, TaskQueued
from orchestrator.errors import KeyInUse
from orchestrator.journal.store import Receipt, Store

HEADER = "idempotency-key"
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


@dataclass(frozen=True, slots=True)
class Key:
    """A key that a caller used for one request."""

    name: str
    fingerprint: str


class Keys:
    """The keys that are in use at this moment, and the places in the line that are promised with them."""

    def __init__(self) -> None:
        self._in_flight: set[str] = set()
        self._promised: dict[str, tuple[int, int]] = {}

    @contextlib.contextmanager
    def hold(self, call: Call, body: Json) -> Iterator[Key | None]:
        """Hold the request's key, if it has one; raise `KeyInFlight` where another request holds it."""
        value = call.headers.get(HEADER)
        if value is None:
            yield None
            return
        if not _KEY.fullmatch(value):
            message = "must be 1 to 255 visible ASCII characters"
            raise problem.Invalid([problem.FieldError("Idempotency-Key", message)])
        name = f"{call.principal.name}:{value}"
        if name in self._in_flight:
            raise problem.KeyInFlight
        self._in_flight.add(name)
        try:
            digest = hashlib.sha256(f"{call.method} {call.path}\n".encode() + canonical(body))
            yield Key(name, digest.hexdigest())
        except KeyInUse:
            raise problem.KeyInFlight from None
        finally:
            self._in_flight.discard(name)
            self._promised.pop(name, None)

    def promise(self, key: Key, store: Store, recorded: list[Recorded]) -> int | None:
        """Return the place in the line that these events, once committed, give their agent; None for a slot.

        The receipt is written with them, so it cannot wait for the place that the commit makes.
        """
        if any(isinstance(each.event, TaskAssigned) for each in recorded):
            return None
        for each in recorded:
            if isinstance(each.event, TaskQueued):
                place = (-each.event.priority, each.seq)
                coming = [other for other in self._promised.values() if other[1] > store.state.seq]
                self._promised[key.name] = place
                ahead = store.waiting.ahead(each.event.priority, each.seq)
                return 1 + ahead + sum(other < place for other in coming)
        return None

    async def replay(self, call: Call, key: Key | None) -> bytes | None:
        """Return what was answered under the key; raise `KeyReused` where it was for another request."""
        if key is None:
            return None
        receipt: Receipt | None = await call.services.store.receipt(key.name)
        if receipt is None:
            return None
        if receipt.fingerprint != key.fingerprint:
            raise problem.KeyReused
        return receipt.body.encode()


def replayed(body: bytes, status: int) -> Response:
    """Return the answer that was given under a key before, marked as what it is."""
    response = json_bytes(body, status)
    response.headers["Idempotency-Replayed"] = "true"
    return response
