"""The way of an agent's program to its model: a door on the loopback of its sandbox, and no key.

The invariant: what the agent asks of a model goes through its meter, and it has no other way. What it asks
by itself costs nothing here: then the answer to a prompt is one turn. Caller: `runtime`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from orchestrator.agents.base import Session
from orchestrator.agents.counted import CountedMeter
from orchestrator.agents.proxy import Door, open_door
from orchestrator.agents.upstream import Upstream
from sandbox.ports import Ports

#: Where neither the task nor the settings name a model, the agent has its choice of these.
ANY_MODEL = "claude-sonnet-*"
#: For programs that are Claude Code underneath: the door tries again, and may park for hours.
_PATIENT = {
    "API_TIMEOUT_MS": str(2**31 - 1),
    "API_FORCE_IDLE_TIMEOUT": "0",
    "CLAUDE_ENABLE_BYTE_WATCHDOG": "0",
    "CLAUDE_ENABLE_STREAM_WATCHDOG": "0",
    "CLAUDE_CODE_MAX_RETRIES": "0",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_ERROR_REPORTING": "1",
    "DISABLE_TELEMETRY": "1",
    "IS_SANDBOX": "1",
}
#: All of its models are the agent's one, for which the door is open.
_MODELS = (
    "ANTHROPIC_MODEL",
    "ANTHROPIC_DEFAULT_HAIKU_MODEL",
    "ANTHROPIC_DEFAULT_OPUS_MODEL",
    "ANTHROPIC_DEFAULT_SONNET_MODEL",
    "ANTHROPIC_SMALL_FAST_MODEL",
    "CLAUDE_CODE_SUBAGENT_MODEL",
)


@dataclass(frozen=True, slots=True)
class ModelAccess:
    """Where the model is, and which an agent may ask: `model` is the one where its task names none."""

    upstream: Upstream
    model: str | None = None
    models: tuple[str, ...] = ()


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
        return {
            **_PATIENT,
            **(dict.fromkeys(_MODELS, self.model) if self.model else {}),
            "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{self.ports.numbers[0]}",
            "ANTHROPIC_API_KEY": "none",
        }


@asynccontextmanager
async def open_way(session: Session, access: ModelAccess | None) -> AsyncIterator[Way]:
    """Open the door, where there is a key to put on outside; raises what the door raises."""
    tally = CountedMeter(session.meter)
    if access is None or access.upstream.key is None:
        yield Way(tally)
        return
    model = session.spec.options.model or access.model
    models = [model or ANY_MODEL, *access.models]
    with session.backend.reserve_ports(1) as ports:
        async with open_door(replace(session, meter=tally), access.upstream, models) as door:
            yield Way(tally, door, ports, model)
