"""After the end: settle what is uncertain, keep what is worth keeping, remove the rest.

Nothing here may hang or raise: each step has a deadline, and what a step could not do is told in the agent's
`agent.cleanup` event, for the reaper and for people. Called by `finish`, outside the agent's cancelled
scope; a step that is cancelled may be begun again.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial

import trio

from orchestrator.agents.program import prompt_files
from orchestrator.core import events as e
from orchestrator.core.recovery import directory_of
from orchestrator.errors import JournalError, RepositoryError, RoomForsaken, RoomUnusable
from orchestrator.repo.removal import remove_tree
from orchestrator.repo.worktree import Worktree
from orchestrator.supervise.arrival import settle
from orchestrator.supervise.ending import failure_of
from orchestrator.supervise.gear import Run
from orchestrator.supervise.upkeep import find_damage, mend
from sandbox.base import SandboxError

log = logging.getLogger(__name__)

SALVAGE_S = 60.0
SETTLE_S = 10.0
REMOVE_S = 60.0


@dataclass(slots=True)
class Aftermath:
    """What became of an agent's belongings."""

    salvage: str | None = None
    #: What could not be done, step by step; empty where all is well.
    left_behind: list[str] = field(default_factory=list)
    #: Why work that should have been kept could not be, for now; then nothing of it is removed.
    unsalvaged: str | None = None

    def note(self, run: Run, trouble: str) -> None:
        """Take note of what could not be done."""
        log.warning("agent left something behind", extra={"agent_id": run.agent.id, "left": trouble})
        self.left_behind.append(trouble[:1000])

    def event(self, run: Run) -> e.AgentCleanup:
        """Return the fact to be journaled."""
        return e.AgentCleanup(**run.ids, salvage=self.salvage, left_behind=tuple(self.left_behind))


def needs_salvage(run: Run) -> bool:
    """Return whether the worktree may hold anything that has not landed."""
    worktree = run.progress.worktree
    if run.landed is not None:
        return False
    return holds_unopened(run) if worktree is None else worktree.touched()


def holds_unopened(run: Run) -> bool:
    """Return whether an earlier life left a worktree that this one has not come to."""
    agent = run.agent
    if run.progress.worktree is not None or not (agent.resumed or agent.status.ended):
        return False
    return directory_of(agent.id, agent.task_id) in run.tools.repositories.directories()


async def settle_push(run: Run, aftermath: Aftermath) -> None:
    """Ask the remote about a push whose outcome the end cut off, and journal what is true."""

    async def ask() -> None:
        await settle(run.tools.store, run.tools.repositories, run.agent.id)

    await _step("push", SETTLE_S, ask, run, aftermath)


async def salvage(run: Run, keep: AsyncExitStack, aftermath: Aftermath) -> None:
    """Keep unlanded work as a ref in the mirror, by sandboxes of our own: the agent's are over."""
    if not needs_salvage(run):
        return
    run.tree.reopen()

    async def keep_files() -> None:
        await mend(run)
        failure = await _keep_files(run, keep, aftermath)
        if failure is not None and await find_damage(run, thorough=True):
            await mend(run)
            failure = await _keep_files(run, keep, aftermath)
        if failure is not None:
            raise failure

    aftermath.unsalvaged = await _step("salvage", SALVAGE_S, keep_files, run, aftermath)


async def _keep_files(run: Run, keep: AsyncExitStack, aftermath: Aftermath) -> Exception | None:
    """Keep the work, if there is any; return what went wrong where that may pass."""
    try:
        worktree = run.progress.worktree or await _open_left(run, keep)
        if worktree.touched():
            limits = run.tools.default_limits
            aftermath.salvage = await worktree.salvage(limits=limits, deadline_s=SALVAGE_S)
    except RoomForsaken:  # what was worth keeping was kept
        return None
    except RoomUnusable as error:  # there is nothing that could be kept, now or later
        aftermath.note(run, f"salvage: {error.detail}")
    except (RepositoryError, SandboxError) as error:
        return error
    return None


async def _open_left(run: Run, keep: AsyncExitStack) -> Worktree:
    """Open what an earlier life left, if it is whole: what is not holds nothing to keep."""
    repositories, agent = run.tools.repositories, run.agent
    base = await repositories.find_kept(
        agent_id=agent.id, task_id=agent.task_id, backend=run.tree, shared=run.shared
    )
    opened = repositories.open_worktree(
        base, agent_id=agent.id, task_id=agent.task_id, backend=run.tree, kept=True, shared=run.shared
    )
    run.progress.worktree = worktree = await keep.enter_async_context(opened)
    return worktree


async def remove(run: Run, keep: AsyncExitStack, aftermath: Aftermath) -> None:
    """Close what `keep` owns, and remove it: the worktree and all that came with it."""
    if run.progress.worktree is not None:
        run.progress.worktree.kept = False

    async def clear() -> None:
        await _clear(run, keep)
        if holds_unopened(run):
            await run.tools.repositories.reap(directory_of(run.agent.id, run.agent.task_id))

    await _step("worktree", REMOVE_S, clear, run, aftermath)


async def leave(run: Run, keep: AsyncExitStack, aftermath: Aftermath) -> None:
    """Close what `keep` owns; the worktree stays where it is, for the agent's next life."""
    await _step("worktree", REMOVE_S, partial(_clear, run, keep), run, aftermath)


async def _clear(run: Run, keep: AsyncExitStack) -> None:
    """Close what `keep` owns, and remove what only the run that is over has read."""
    await run.tree.wait_unmounted()
    await keep.aclose()
    for path in prompt_files(run.tools.scratch, run.agent.id):
        await remove_tree(path)


async def _step(
    name: str, deadline_s: float, step: Callable[[], Awaitable[None]], run: Run, aftermath: Aftermath
) -> str | None:
    """Take one step within its deadline; return what went wrong, which ends nothing but the step."""
    trouble = f"{name}: not done within {deadline_s:g} s"
    with trio.move_on_after(deadline_s):
        try:
            await step()
        except JournalError:  # the process has to end
            raise
        except Exception as error:
            trouble = f"{name}: {failure_of(error).error}"
        else:
            return None
    aftermath.note(run, trouble)
    return trouble
