"""The conversation with an agent, begun anew as often as it has to be: its turns, and what is said between.

Invariant: what begins anew does so as after a crash, from what the journal says was finished, on the same
worktree; only the run that asked for it notices. Called by `run`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

from orchestrator.agents.base import Prompt, TurnResult, Turns
from orchestrator.agents.meter import AgentMeter
from orchestrator.agents.steering import message_prompt
from orchestrator.core import events as e
from orchestrator.core.ceilings import beyond_ceiling
from orchestrator.core.model import NO_USAGE, Phase, Reason
from orchestrator.supervise.ending import RunFailed
from orchestrator.supervise.gear import Run, limits_for
from orchestrator.supervise.mailbox import Mailbox, waiting_for
from orchestrator.supervise.resumption import Place, find_place

T = TypeVar("T")


async def converse(
    run: Run,
    open_turns: Callable[[bool], AbstractAsyncContextManager[Turns]],
    think: Callable[[Turns, Place], Awaitable[T]],
    place: Place,
    *,
    task: str,
    again: bool = False,
) -> T:
    """Think in a conversation, and in another one where `liveness` has it begun anew; return the outcome.

    `task` is the agent's first prompt; `again` says that there was a conversation before, in this life.
    """
    resumed = run.agent.resumed or again
    while True:
        with run.pulse.conversation(run.agent.runtime, run.tree.clock):
            async with open_turns(resumed) as turns:
                return await think(turns, place)
        resumed, place = True, await find_place(run, task)


async def pass_on_messages(run: Run, turns: Turns, meter: AgentMeter, number: int) -> str:
    """Tell the agent, prompt by prompt, what was said to it meanwhile; return the end of its last answer."""
    said = ""
    while waiting := waiting_for(run):
        last = waiting[-1]
        await run.record(e.AgentPhase(**run.ids, phase=Phase.WORKING, answered=number))
        await meter.check()
        prompt = Prompt(message_prompt(waiting), number, message=last.number)
        said = await take_turn(run, turns, prompt)
        await Mailbox(run).heard(last)
    return said


async def take_turn(run: Run, turns: Turns, prompt: Prompt) -> str:
    """Take one turn, journal it where no meter did, and raise where it failed; return how its words end."""
    with run.pulse.prompt():
        result = await turns.turn(prompt)
    if not result.metered:
        await run.record(*_turn_of(run, prompt, result))
    if not result.ok:
        raise _turn_failed(run, result)
    return result.text


def _turn_of(run: Run, prompt: Prompt, result: TurnResult) -> list[e.AgentEvent]:
    """Return what the journal is told of a turn that no meter counted."""
    # Nobody of us counted it: what an agent says must not use up what others have.
    claimed = e.AgentUsage(**run.ids, usage=result.usage, claimed=True)
    spent = [claimed] if result.usage != NO_USAGE else []
    return [
        e.AgentTurn(
            **run.ids,
            turn=prompt.number,
            ok=result.ok,
            stop_reason=result.stop_reason,
            exit_code=result.exit.code if result.exit else None,
            duration_ms=round(result.duration_ms, 1),
            text=result.text,
        ),
        *spent,
    ]


def _turn_failed(run: Run, result: TurnResult) -> RunFailed:
    ended = result.exit
    if ended is None or not (ended.oom_killed or ended.excess):
        how = f"ended with {ended or result.stop_reason}"
        return RunFailed(Reason.AGENT_ERROR, f"the agent's program {how}", retryable=True)
    said, by_host = str(ended), False
    if not ended.excess:  # the kernel tells no figures
        by_host = "memory_mb" not in run.tree.enforced
        allowed = limits_for(run.spec, run.tools.default_limits, run.agent.runtime).memory_mb
        said += ": the host had no more" if by_host else f": {allowed} MB are allowed"
    # The same work meets the same ceiling again; the host may have more another time.
    return RunFailed(
        beyond_ceiling(oom=ended.oom_killed), f"the agent's program was {said}", retryable=by_host
    )
