"""Sees to agents that were not seen to do anything, or do the same for ever: nudge, begin anew, end.

Every second each agent's pulse is held against its deadlines. Where it shows nothing, its files are looked at
too, and of a plain program its processor time, before anything is held against it. What is done is journaled
before it is done, so that the next life of an agent knows how far that was. Invariants: nothing here waits
for an agent, follows a link, or walks a tree on Trio's thread; a kill is never held up. Started by
`assembly`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import trio

from orchestrator.agents.steering import nudge
from orchestrator.core import events as e
from orchestrator.core.liveness import Evidence, Sign, Standing, deadlines_for, is_work, judge, next_step
from orchestrator.core.model import Agent, Reason
from orchestrator.core.words import MAX_WAITING, Concern, Step
from orchestrator.errors import IllegalTransition
from orchestrator.supervise.ending import Failed
from orchestrator.supervise.live import Live
from sandbox.watch import latest_change

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
#: How often, in the time after which silence is a stall, files and processor time are looked at.
_LOOKS = 4
#: Names that are looked at for a change in each sandbox, and seconds for that.
_NAMES = 2000
_SURVEY_S = 0.05

_DONE = {
    Step.NUDGE: "it was sent a message",
    Step.RESTART: "it is begun anew from its last turn",
    Step.END: "it is ended",
}


@dataclass(frozen=True, slots=True)
class Look:
    """What was found in and around an agent's sandboxes at a time."""

    at: float
    #: When its files changed last, by the host's clock; only whether it moved means anything.
    changed: int
    cpu_s: float
    lines: int
    new_lines: int


class Attendant:
    """Sees to the agents that run; one for the supervisor."""

    def __init__(self, lives: Callable[[], Iterable[Live]]) -> None:
        """Take the way to the agents that run."""
        self._lives = lives
        self._threads = trio.CapacityLimiter(1)
        self._looks: dict[Live, Look] = {}

    async def run(self) -> None:
        """See to them, again and again."""
        while True:
            await self.round()
            await trio.sleep(LOOK_EVERY_S)

    async def round(self) -> None:
        """Look once at all that run, and do what is to be done next about who needs it."""
        lives = list(self._lives())
        self._looks = {live: look for live, look in self._looks.items() if live in lives}
        for live in lives:
            await trio.lowlevel.checkpoint()
            await self._see_to(live)

    async def _see_to(self, live: Live) -> None:
        run = live.run
        standing = run.pulse.standing()
        if standing is None or _ending(live):
            return
        deadlines = deadlines_for(run.agent.runtime, run.tools.patience, run.spec.options.deadlines)
        if deadlines.stall_s is not None:
            await self._look_around(live, standing, deadlines.stall_s / _LOOKS)
        standing = run.pulse.standing()
        if standing is not None and (found := judge(standing, deadlines)) and not _ending(live):
            await _act(live, *found)

    async def _look_around(self, live: Live, standing: Standing, every_s: float) -> None:
        """Look for signs of who has been quiet for a while, and was not looked at lately."""
        before = self._looks.get(live)
        if standing.quiet_s < every_s or standing.asking:
            return
        if before is not None and standing.at - before.at < every_s:
            return
        run, pulse = live.run, live.run.pulse
        places = [sandbox.written for sandbox in run.tree.sandboxes()]
        survey = partial(latest_change, places, _NAMES, _SURVEY_S)
        changed = await trio.to_thread.run_sync(survey, limiter=self._threads)
        cpu_s = run.tree.usage().cpu_seconds if pulse.plain else 0.0
        look = Look(standing.at, changed, cpu_s, pulse.lines, pulse.new_lines)
        self._looks[live] = look
        # What is older than what was seen last says nothing of the time since.
        if before is None or before.at < standing.at - standing.quiet_s:
            return
        if look.changed != before.changed:
            pulse.note(Evidence(Sign.FILES))
        only_repeats = look.lines > before.lines and look.new_lines == before.new_lines
        if is_work(abs(look.cpu_s - before.cpu_s), look.at - before.at, only_repeats=only_repeats):
            pulse.note(Evidence(Sign.CPU))


def _ending(live: Live) -> bool:
    return live.over or live.end is not None or live.failure is not None


async def _act(live: Live, concern: Concern, why: str) -> None:
    """Journal the next step against this concern, and take it."""
    run = live.run
    agent = run.tools.store.state.agents.get(run.agent.id)
    if agent is None:
        return
    listens = run.pulse.listens and len(agent.waiting) < MAX_WAITING
    step = next_step(agent.step, concern, listens=listens)
    try:
        await run.record(*_facts(live, agent, step, concern, why))
    except IllegalTransition:
        return  # it ended, or somebody else said something, in this moment: the next round sees
    log.warning("agent seen to", extra={"agent_id": agent.id, "step": step.value, "why": why})
    standing = run.pulse.standing()
    if step is Step.END:
        live.fail(Failed(Reason.STALLED, why, retryable=True))
    elif standing is not None:
        run.pulse.step_taken(standing.at)
        if step is Step.RESTART:
            run.pulse.restart()


def _facts(live: Live, agent: Agent, step: Step, concern: Concern, why: str) -> list[e.Event]:
    ids = live.run.ids
    seen_to = e.AgentAttention(**ids, message=f"{why}: {_DONE[step]}", step=step, concern=concern)
    if step is not Step.NUDGE:
        return [seen_to]
    return [seen_to, e.AgentMessage(**ids, number=agent.said + 1, text=nudge(concern, why))]
