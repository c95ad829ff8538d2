"""Collects garbage when somebody asks: tells what would go, how large it is and why, before anything goes.

Invariant: it is told as it is. What is removed is what was found, each thing only if it is still nobody's;
what could not be removed is told with its error. Called by `reaper`, which keeps its own passes out
meanwhile, and by the command `gc` where nothing runs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from orchestrator.core.model import AgentId, AgentStatus, State
from orchestrator.core.recovery import directory_of, may_hold
from orchestrator.core.reports import Garbage, GarbageReport
from orchestrator.errors import RepositoryError
from orchestrator.repo.waste import Waste, measure
from orchestrator.supervise.ending import failure_of
from orchestrator.supervise.gear import Tools

#: Names the agents that run at the moment of the call.
Running = Callable[[], Collection[AgentId]]


async def collect_garbage(tools: Tools, running: Running, *, dry_run: bool) -> GarbageReport:
    """Find what nobody needs and, unless it is a dry run, remove it."""
    found = [*_find(tools), *_scratch(tools, running)]
    items = [Garbage(each.kind, each.name, await measure(each.paths), each.why) for each in found]
    if not dry_run:
        items = [await _remove(tools, running, each, item) for each, item in zip(found, items, strict=True)]
    return GarbageReport(dry_run, (*items, *await _unsalvaged(tools, running)))


async def _unsalvaged(tools: Tools, running: Running) -> list[Garbage]:
    """Return the work of ended agents that could not be salvaged yet: told, and never removed here."""
    there, busy = tools.repositories.directories(), running()
    found = []
    for agent in tools.store.state.agents.values():
        name = directory_of(agent.id, agent.task_id)
        if agent.live or agent.status is AgentStatus.COMPLETED or agent.id in busy or name not in there:
            continue
        waiting = tools.backlog.find(agent.id)
        why = f"work of an ended agent, kept until it is salvaged{f': {waiting.why}' if waiting else ''}"
        size = await tools.repositories.measure(agent.id, agent.task_id)
        found.append(Garbage("unsalvaged", f"quarantine/{name}", size, why))
    return found


def _find(tools: Tools) -> list[Waste]:
    state: State = tools.store.state
    holders = [agent for agent in state.agents.values() if may_hold(agent)]
    return tools.repositories.find_waste(
        owned={directory_of(agent.id, agent.task_id) for agent in holders},
        commits={agent.base for agent in holders if agent.base},
    )


def _scratch(tools: Tools, running: Running) -> list[Waste]:
    """Return the files for agents that do not run."""
    if not tools.scratch.is_dir():
        return []
    return [
        Waste("scratch", f"scratch/{path.name}", "no agent that runs reads it", (path,))
        for path in sorted(tools.scratch.iterdir())
        if path.is_file() and not is_read(path, running())
    ]


def is_read(path: Path, running: Collection[AgentId]) -> bool:
    """Return whether a file in the scratch directory is for one of the agents that run."""
    return any(agent_id in path.name for agent_id in running)


async def _remove(tools: Tools, running: Running, waste: Waste, item: Garbage) -> Garbage:
    try:
        if waste.kind == "scratch":
            gone = _unlink(waste.paths[0], running)
        else:
            gone = await tools.repositories.discard(waste)
    except (OSError, RepositoryError) as error:
        return replace(item, error=failure_of(error).error[:500])
    if gone:
        return replace(item, removed=True)
    return replace(item, error="somebody has come to need it meanwhile")


def _unlink(path: Path, running: Running) -> bool:
    """Remove a file if its agent has not begun to run since, in one step; return whether it went."""
    if is_read(path, running()):
        return False
    path.unlink(missing_ok=True)
    return True
