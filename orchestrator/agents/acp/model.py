"""The way of an agent's program to its model: a door on the loopback of its sandbox, and no key.

The invariant: what the agent asks of a model goes through its meter, and it has no other way. What it asks
by itself costs nothing here: then the answer to a prompt is one turn. Caller: `runtime`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from orchestrator.agents.base import Session
from orchestrator.agents.claude_settings import claude_settings
from orchestrator.agents.counted import CountedMeter
from orchestrator.agents.models import ModelAccess
from orchestrator.agents.proxy import Door, open_door
from sandbox.ports import Ports

#: Where neither the task nor the settings name a model, the agent has its choice of these.
ANY_MODEL = "claude-sonnet-*"


@dataclass(frozen=True, slots=True)
class Way:
    """An open door, and how a program finds it; without one, it has no model."""

    tally: CountedMeter
    door: Door | None = None
    ports: Ports | None = None
    model: str | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which the program finds its model."""
        if self.ports is None:
            return {}
        there = f"http://127.0.0.1:{self.ports.numbers[0]}"
        return {**claude_settings(self.model), "ANTHROPIC_BASE_URL": there}


@asynccontextmanager
async def open_way(session: Session, access: ModelAccess | None) -> AsyncIterator[Way]:
    """Open the door, where there is a key to put on outside; raises what the door raises."""
    tally = CountedMeter(session.meter)
    if access is None or not access.has_key:
        yield Way(tally)
        return
    model = access.named(session.spec)
    models = [model or ANY_MODEL, *access.models]
    with session.backend.reserve_ports(1) as ports:
        async with open_door(replace(session, meter=tally), access.upstream, models) as door:
            yield Way(tally, door, ports, model)
