"""What a cut agent goes on with: the worktree that its earlier life left, and the turn that it had come to.

Invariant: a turn that was finished is never taken again on the same worktree, and one that was cut is taken
again with the same prompt and number. All that is known comes from the journal; the worktree is the agent's,
whole, and on a commit that was journaled for it, or it is not used. Called by `run`.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

from orchestrator.agents.prompt import feedback_prompt
from orchestrator.core import events as e
from orchestrator.core.conflict import PREFIX
from orchestrator.core.model import Agent, Phase
from orchestrator.core.policy import MAX_ROUNDS
from orchestrator.errors import RepositoryError, RoomUnusable
from orchestrator.repo.renewal import BaseGone
from orchestrator.repo.setups import SetupLayer
from orchestrator.repo.worktree import Worktree
from orchestrator.supervise.ending import RunPostponed, failure_of, patient
from orchestrator.supervise.gear import Run
from orchestrator.supervise.preparing import prepare
from orchestrator.supervise.upkeep import mend
from sandbox.base import SandboxError

log = logging.getLogger(__name__)

#: Events that are read at once while looking for the last rejection.
_PAGE = 500


@dataclass(frozen=True, slots=True)
class Place:
    """Which prompt an agent is at; without its words it was answered, and the answer waits to be judged."""

    number: int
    prompt: str | None


async def mend_first(run: Run) -> None:
    """Make our copy of the repository anew where it is damaged; an agent that has work waits for that."""
    if run.agent.resumed:
        with patient():
            await mend(run)
    else:
        await mend(run)


async def open_kept(
    run: Run, keep: AsyncExitStack
) -> tuple[tuple[Worktree | None, SetupLayer | None], str | None]:
    """Open the worktree of an earlier life, and the set-up it stands on; else None, and why it is not used.

    Raises `RunPostponed` for whatever may pass: then the worktree stays.
    """
    if not run.agent.resumed:
        return (None, None), None
    repositories, agent = run.tools.repositories, run.agent
    try:
        base = await repositories.find_kept(
            agent_id=agent.id, task_id=agent.task_id, backend=run.tree, shared=run.shared
        )
        if base.commit != agent.base and base.commit not in await _stood_on(run):
            raise RoomUnusable("it does not stand on a journaled commit")
        layer = await prepare(run, base, keep)
        await run.record(
            e.AgentPhase(
                **run.ids,
                phase=Phase.STARTING,
                base=base.commit,
                branch=run.spec.landing_branch,
                sandbox=run.tree.name,
                worktree="kept",
            )
        )
        worktree = await keep.enter_async_context(
            repositories.open_worktree(
                base,
                agent_id=agent.id,
                task_id=agent.task_id,
                backend=run.tree,
                kept=True,
                shared=run.shared,
                layer=layer,
            )
        )
    except RoomUnusable as error:
        return (None, None), await _give_up(run, str(error))
    except BaseGone as error:  # which hardly passes; yet nothing is given up in haste
        raise RunPostponed(error.detail, failure_of(error)) from error
    except (RepositoryError, SandboxError, OSError) as error:
        why = str(error)
    else:
        return (worktree, layer), None
    # It may be usable another time, and nothing but this has the work.
    log.warning("waits for its worktree", extra={"agent_id": agent.id, "why": why})
    await run.output("system", f"the earlier worktree cannot be opened now, so it waits: {why}")
    raise RunPostponed(why)


async def _give_up(run: Run, why: str) -> str | None:
    """Remove what cannot be used, and say so where people look; None where there had been no work."""
    agent = run.agent
    await run.tools.repositories.clear(agent.id, agent.task_id)
    if agent.base is None:
        return None
    log.warning("work begins anew", extra={"agent_id": agent.id, "why": why})
    await run.output("system", f"the earlier worktree cannot be worked on, so the work begins anew: {why}")
    return f"the earlier worktree cannot be worked on: {why}"


async def find_place(run: Run, task: str) -> Place:
    """Return what the agent is to do next on its worktree, where `task` was or is its first prompt."""
    agent = run.tools.store.state.agents[run.agent.id]
    # Also where it was cut between the word that its work is brought on and the bringing.
    if agent.answered > agent.rejected or (agent.answered and agent.base != run.agent.base):
        return Place(agent.answered, None)
    if agent.rejected == 0:
        return Place(1, task)
    complaints = await _complaints(run, agent)
    return Place(agent.rejected + 1, prompt_after(run, task, agent.rejected, complaints))


def prompt_after(run: Run, task: str, rejected: int, complaints: tuple[str, ...]) -> str:
    """Return the prompt after the rejection of a turn."""
    agent = run.tools.store.state.agents[run.agent.id]
    return feedback_prompt(
        agent.id,
        agent.task_id,
        complaints,
        task=task,
        round=rejected,
        rounds_left=MAX_ROUNDS - (rejected - agent.conflicts),
        moved=any(complaint.startswith(PREFIX) for complaint in complaints),
    )


async def recall(run: Run) -> list[str]:
    """Return what was said to and by the agent's model on its present worktree, oldest first."""
    began = 0
    async for recorded in _phases(run):
        if isinstance(recorded.event, e.AgentPhase) and recorded.event.worktree == "new":
            began = recorded.seq
    told: list[str] = []
    while page := await run.tools.store.messages(run.agent.id, after=began):
        began = page[-1].seq
        told += [message.content for message in page]
    return told


async def _stood_on(run: Run) -> set[str | None]:
    """Return the commits that the agent's present worktree may stand on.

    Its work is journaled over another before its files are there; where it fits, they never are.
    """
    bases: set[str | None] = set()
    async for recorded in _phases(run):
        if isinstance(recorded.event, e.AgentPhase):
            bases = (set() if recorded.event.worktree == "new" else bases) | {recorded.event.base}
    return bases


async def _phases(run: Run) -> AsyncIterator[e.Recorded]:
    """Go through the events of the agent's phases, oldest first."""
    seq, agent = 0, run.agent
    while page := await run.tools.store.events_after(
        seq, types=[e.AgentPhase.name], agent_id=agent.id, task_id=agent.task_id, limit=_PAGE
    ):
        seq = page[-1].seq
        for recorded in page:
            yield recorded


async def _complaints(run: Run, agent: Agent) -> tuple[str, ...]:
    """Return why the last rejected candidate was rejected."""
    found: tuple[str, ...] = ()
    async for recorded in _phases(run):
        event = recorded.event
        if isinstance(event, e.AgentPhase) and event.rejected == agent.rejected:
            found = event.complaints or ()
    return found
