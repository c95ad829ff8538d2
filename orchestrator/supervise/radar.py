"""Tells agents' overlaps as they arise: by names in their worktrees at first, by their candidates after.

Invariant: it only tells, once for each pair and its files; nothing waits for it, and it reads names alone.
Its knowledge is this process's: after a start it is seen anew. Called by `judging` and `finish`; `Scout` is
started by `assembly`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

import trio

from orchestrator.core import events as e
from orchestrator.core.radar import MAX_FILES, Sighting, bounded
from orchestrator.errors import IllegalTransition, RepositoryError
from orchestrator.repo.footprint import footprint
from orchestrator.repo.landing import is_below
from orchestrator.repo.worktree import Worktree
from orchestrator.supervise.gear import Run
from orchestrator.supervise.live import Live

#: Between two looks at the worktrees of those who work.
EVERY_S = 10.0


async def scan(run: Run, worktree: Worktree, files: Iterable[str]) -> None:
    """Take note of the files that an agent has changed, and tell with whom it has some in common."""
    base, agent = worktree.base, run.agent
    field = run.tools.radar[base.url]
    mine = Sighting(agent.id, agent.task_id, run.spec.landing_branch, bounded(files))
    for overlap in field.see(mine):
        other = overlap.other
        if other.commit is not None and await _is_merged(worktree, other.commit):
            field.forget([other.agent_id])
            continue
        told = e.ConflictPredicted(
            **run.ids,
            other_agent_id=other.agent_id,
            other_task_id=other.task_id,
            branch=other.branch,
            landed=other.commit is not None,
            files=overlap.told,
            total=len(overlap.files),
        )
        await run.record(told)


def leave_radar(run: Run, *, commit: str | None) -> None:
    """Let an agent go whose run is over; what it has landed is an open branch from now on."""
    if (worktree := run.progress.worktree) is not None and worktree.base.url in run.tools.radar:
        run.tools.radar[worktree.base.url].leave(run.agent.id, commit=commit)


async def _is_merged(worktree: Worktree, commit: str) -> bool:
    try:
        return await is_below(worktree.base.mirror, commit, worktree.base.commit)
    except RepositoryError:  # the branch is told of all the same
        return False


class Scout:
    """Looks at the worktrees of all who work, again and again."""

    def __init__(self, lives: Callable[[], Iterable[Live]]) -> None:
        """Take the way to the agents that run."""
        self._lives = lives
        self._threads = trio.CapacityLimiter(1)

    async def run(self) -> None:
        """Look every ten seconds, until cancelled."""
        while True:
            await self.look()
            await trio.sleep(EVERY_S)

    async def look(self) -> None:
        """Look at everybody once."""
        seen: dict[str, list[Live]] = defaultdict(list)
        for live in self._lives():
            if (worktree := live.run.progress.worktree) is not None and not live.over:
                seen[worktree.base.url].append(live)
        for url, lives in seen.items():
            if len(lives) > 1 or lives[0].run.tools.radar[url].sightings:
                for live in lives:
                    await self._look_at(live)

    async def _look_at(self, live: Live) -> None:
        worktree = live.run.progress.worktree
        if worktree is None or _is_over(live):
            return
        names = await trio.to_thread.run_sync(
            footprint, worktree.workspace, MAX_FILES, limiter=self._threads, abandon_on_cancel=False
        )
        if names and not _is_over(live):
            try:
                await scan(live.run, worktree, names)
            except IllegalTransition:  # it has ended meanwhile
                return


def _is_over(live: Live) -> bool:
    return live.over or live.end is not None or live.failure is not None
