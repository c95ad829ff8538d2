"""What can be asked about agents and done to them; taking work in is `intake`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from quart import Response

from orchestrator.api import view
from orchestrator.api.problem import NoDiff
from orchestrator.api.route import Call, Query, Switch, answer
from orchestrator.core.answer import AgentPage, Killed, KilledAll, ResourceUse, Verdicts
from orchestrator.core.model import Agent, AgentId, AgentStatus
from orchestrator.core.spec import Role
from orchestrator.errors import AgentUnknown

MAX_PAGE = 1000
Limit = Annotated[int, Field(ge=1, le=MAX_PAGE)]
Cursor = Annotated[str, Field(pattern=r"^[0-9]{1,18}$")]


class AgentFilter(Query):
    """Which agents to list."""

    status: AgentStatus | None = None
    task_id: Annotated[str, Field(max_length=128)] | None = None
    role: Role | None = None
    limit: Limit = 100
    after: Cursor | None = None


class KillAllQuery(Query):
    """Whether to freeze as well, so that nothing follows."""

    freeze: Switch = False


async def find(call: Call) -> Agent:
    """Return the agent that the path names, or raise `AgentUnknown`."""
    agent_id = call.variables["agentId"]
    agent = await call.services.store.find_agent(agent_id)
    if agent is None:
        raise AgentUnknown(f"there is no agent {agent_id[:128]}")
    return agent


async def list_agents(call: Call) -> Response:
    """List agents, newest first."""
    asked = call.query(AgentFilter)
    agents, following = await call.services.store.list_agents(
        status=asked.status, task_id=asked.task_id, role=asked.role, limit=asked.limit, after=asked.after
    )
    agents = await call.services.store.followed(agents)
    return answer(AgentPage(agents=tuple(map(view.agent_summary, agents)), next=following))


async def status(call: Call) -> Response:
    """Tell everything about an agent."""
    call.query(Query)
    agent = await find(call)
    services = call.services
    live = services.resources(agent.id) if agent.active else {}
    resources = ResourceUse.model_validate(
        {"enforced": services.enforced, "watched": services.watched, **live}
    )
    [agent] = await services.store.followed([agent])
    position = services.store.queue_position(agent.id)
    unmet = services.store.waiting.blocked.unmet(agent.id)
    return answer(view.agent_detail(agent, queue_position=position, resources=resources, waits_for=unmet))


async def kill(call: Call) -> Response:
    """End an agent and answer with the proof; no limit and no body stands in its way."""
    call.query(Query)
    report = await call.services.kill_switch.kill(
        AgentId(call.variables["agentId"]), actor=call.principal.name
    )
    return answer(Killed(**view.proof(report, call.services.tier)))


async def kill_all(call: Call) -> Response:
    """End every live agent and answer with the proof."""
    freeze = call.query(KillAllQuery).freeze
    report = await call.services.kill_switch.kill_all(actor=call.principal.name, freeze=freeze)
    return answer(
        KilledAll(
            message=f"Kill all completed: {report.killed} killed, {report.failed} failed",
            total=report.total,
            killed=report.killed,
            failed=report.failed,
            errors=report.errors,
            remaining=report.remaining,
            elapsed_ms=report.elapsed_ms,
            tier=call.services.tier,
        )
    )


async def gates(call: Call) -> Response:
    """Tell what the gates said, with the evidence."""
    call.query(Query)
    agent = await find(call)
    return answer(Verdicts(agent_id=agent.id, gates=agent.verdicts, ai_share=agent.ai_share))


async def diff(call: Call) -> Response:
    """Show the candidate's diff."""
    call.query(Query)
    agent = await find(call)
    text = await call.services.diff(agent)
    if text is None:
        raise NoDiff(f"agent {agent.id} has no candidate, or it is gone")
    # As text and never as HTML: an agent wrote it.
    return Response(text, content_type="text/plain; charset=utf-8")
