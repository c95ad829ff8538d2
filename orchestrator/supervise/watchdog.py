"""Compares what agents use with what they may, where the kernel does not see to it, and ends who is beyond.

Every round looks at each sandbox's memory and processes, and goes on with one survey of written files for a
bounded time, in a worker thread; a large tree takes more rounds. A sandbox beyond its ceiling is killed as
the kernel would have: what waited for it learns why (`guarded`), so that a turn ends its agent as `oom`
(memory) or `budget_exceeded` (disk, processes), and a gate is a rejection. Where the host's memory is all
but gone, the largest agent fails as `oom`, for another attempt later.

Invariants: nothing here writes, waits for an agent, or walks a tree on Trio's thread; what the kernel keeps
is not looked at. Started by `assembly`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import trio

from orchestrator.core.ceilings import (
    MAX_DEPTH,
    Excess,
    describe_pressure,
    file_ceiling,
    find_excess,
    find_victim,
)
from orchestrator.core.model import Reason
from orchestrator.supervise.ending import Failed
from orchestrator.supervise.guarded import Guarded
from orchestrator.supervise.live import Live
from sandbox.base import MIB, Limits
from sandbox.watch import Survey, proportional_bytes

log = logging.getLogger(__name__)

#: Seconds between two rounds, and those of a round in which files may be counted.
LOOK_EVERY_S = 1.0
SURVEY_S = 0.05
#: Names seen before it is another survey's turn, surveys under way, whose directories are open, and seconds
#: before the same files are counted again.
_SLICE = 500
_AT_ONCE = 2
_AGAIN_S = 5.0


class Watchdog:
    """Watches the agents that run; one for the supervisor."""

    def __init__(self, lives: Callable[[], Iterable[Live]], look: Callable[[], Mapping[str, float]]) -> None:
        """Take the way to the agents that run, and to what is left of the host (MB of `memory`)."""
        self._lives = lives
        self._look = look
        self._threads = trio.CapacityLimiter(1)
        #: The surveys under way, the next first, and when each sandbox's last one was done.
        self._surveys: dict[Guarded, Survey] = {}
        self._surveyed: dict[Guarded, float] = {}

    async def run(self) -> None:
        """Watch, again and again."""
        try:
            while True:
                await self.round()
                await trio.sleep(LOOK_EVERY_S)
        finally:
            self._drop(list(self._surveys))

    async def round(self) -> None:
        """Look once at all that runs, and end what is beyond its ceiling."""
        self._relieve_host()
        for live in self._lives():
            watched = live.run.tree.watched
            for sandbox in live.run.tree.sandboxes():
                if excess := await self._judge_usage(sandbox, watched):
                    _end(live, sandbox, excess)
                await trio.lowlevel.checkpoint()
        await self._judge_files()

    def _relieve_host(self) -> None:
        left_mb = self._look().get("memory", math.inf)
        running = [live for live in self._lives() if not live.over and live.failure is None]
        by_id = {str(live.run.agent.id): live for live in running}
        if find_victim(left_mb, dict.fromkeys(by_id, math.inf)) is None:
            return  # enough is left: nobody need be measured
        used = {agent: live.run.tree.usage().memory_bytes / MIB for agent, live in by_id.items()}
        if (agent := find_victim(left_mb, used)) is not None:
            why = describe_pressure(left_mb, used[agent])
            log.warning("agent ended for the host's sake", extra={"agent_id": agent, "why": why})
            by_id[agent].fail(Failed(Reason.OOM, why, retryable=True))

    async def _judge_usage(self, sandbox: Guarded, watched: frozenset[str]) -> Excess | None:
        ceilings = _ceilings(sandbox.limits)
        asked = [limit for limit in ("memory_mb", "pids") if limit in watched and ceilings[limit] is not None]
        if sandbox.excess is not None or not asked:
            return None
        usage = sandbox.usage()
        used = {"memory_mb": usage.memory_bytes / MIB, "pids": usage.processes}
        excess = find_excess(used, ceilings, watched)
        if excess is not None and excess.of_memory:  # perhaps of pages that are shared
            pids = sandbox.processes()
            measure = partial(proportional_bytes, pids, usage.in_files_bytes)
            exact = await trio.to_thread.run_sync(measure, limiter=self._threads)
            used["memory_mb"] = exact / MIB
            excess = find_excess(used, ceilings, watched)
        return excess

    async def _judge_files(self) -> None:
        """Go on counting for a while, a slice of each tree in turn, so that a huge one hides no other."""
        open_now = {
            sandbox: live
            for live in self._lives()
            for sandbox in live.run.tree.sandboxes()
            if "disk_mb" in live.run.tree.watched and sandbox.limits.disk_mb is not None
        }
        self._surveyed = {box: at for box, at in self._surveyed.items() if box in open_now}
        self._drop([sandbox for sandbox in self._surveys if sandbox not in open_now])
        ends = trio.current_time() + SURVEY_S
        while trio.current_time() < ends:
            self._begin_surveys(open_now)
            if not self._surveys:
                return
            sandbox, survey = next(iter(self._surveys.items()))
            go_on = partial(survey.go_on, _SLICE, SURVEY_S)
            await trio.to_thread.run_sync(go_on, limiter=self._threads)
            excess = _judge_survey(sandbox, survey)
            if excess is not None:
                _end(open_now[sandbox], sandbox, excess)
            if survey.done or excess is not None:
                self._drop([sandbox])
                self._surveyed[sandbox] = trio.current_time()
            else:
                self._surveys[sandbox] = self._surveys.pop(sandbox)  # behind the others

    def _begin_surveys(self, open_now: Iterable[Guarded]) -> None:
        """Begin as many as may be under way, those first whose files were counted longest ago."""
        now = trio.current_time()
        last = {box: self._surveyed.get(box, -math.inf) for box in open_now if box not in self._surveys}
        due = sorted((box for box, at in last.items() if now - at >= _AGAIN_S), key=lambda box: last[box])
        for box in due[: _AT_ONCE - len(self._surveys)]:
            self._surveys[box] = Survey(box.written, max_depth=MAX_DEPTH)

    def _drop(self, sandboxes: Iterable[Guarded]) -> None:
        for sandbox in sandboxes:
            self._surveys.pop(sandbox).close()


def _ceilings(limits: Limits) -> dict[str, float | None]:
    return {
        "memory_mb": limits.memory_mb,
        "pids": limits.pids,
        "disk_mb": limits.disk_mb,
        "files": None if limits.disk_mb is None else file_ceiling(limits.disk_mb),
        "depth": MAX_DEPTH,
    }


def _judge_survey(sandbox: Guarded, survey: Survey) -> Excess | None:
    used = {"disk_mb": survey.bytes / MIB, "files": survey.files, "depth": survey.depth}
    return find_excess(used, _ceilings(sandbox.limits), {"disk_mb"})


def _end(live: Live, sandbox: Guarded, excess: Excess) -> None:
    log.warning("sandbox ended at its ceiling", extra={"agent_id": live.run.agent.id, "excess": str(excess)})
    sandbox.end_for(excess)
