"""The folding half of the state machine: the state after an event.

`decide` turns a command into events; `evolve` folds an event into the state, and refuses one that cannot
follow with `IllegalTransition`, so that code and state machine cannot drift apart in silence. Pure. The
store decides, evolves and journals, and shows the new state once it is durable; replay folds the same
events to the same state (J4).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from orchestrator.core import events as e
from orchestrator.core.fold import FOLDS
from orchestrator.core.model import Control, State, changed
from orchestrator.core.watermark import SHORTAGES
from orchestrator.errors import IllegalTransition


def evolve(state: State, recorded: e.Recorded) -> State:
    """Return the state after the event; raise `IllegalTransition` where it cannot follow."""
    if recorded.seq != state.seq + 1:
        raise IllegalTransition(f"event {recorded.seq} cannot follow event {state.seq}")
    event = recorded.event
    if fold := FOLDS.get(type(event)):
        return changed(fold(state, recorded, event), seq=recorded.seq)
    control = switch(state.control, event) if (switch := _SWITCHES.get(type(event))) else state.control
    return changed(state, control=control, seq=recorded.seq)


def prune(state: State, event: e.Event) -> State:
    """Drop from the state what the event finished for good; the tables keep it."""
    if not isinstance(event, e.AgentCleanup):
        return state
    agent = state.agents.get(event.agent_id)
    if agent is None or not agent.clean:
        return state
    task = state.tasks.get(agent.task_id)
    over = task is not None and task.status.ended and task.agent_id == agent.id
    tasks = state.tasks.delete(agent.task_id) if over else state.tasks
    return changed(state, agents=state.agents.delete(agent.id), tasks=tasks)


def _settings(control: Control, event: e.QueueSettings) -> Control:
    if event.max_concurrent is not None:
        control = replace(control, queue_concurrency=event.max_concurrent)
    if event.stop_on_failure is not None:
        control = replace(control, stop_on_failure=event.stop_on_failure)
    if event.cleared is not None:
        control = replace(control, cleared=event.cleared)
    return control


def _thawed(control: Control, _event: e.ControlThawed) -> Control:
    """Go on where it stood: a drain that was frozen is a drain again, and a further thaw ends that."""
    return replace(control, frozen=False, draining=control.draining and control.frozen)


def _started(control: Control, event: e.SystemStarted) -> Control:
    """Take the ceilings of this start; a pause and a freeze stay; a drain and a shortage do not.

    A `max_concurrent` that was set at run time stays too, until a start has another setting than before.
    """
    concurrency = event.queue_concurrency
    return replace(
        control,
        draining=False,
        short=frozenset(),
        max_agents=event.max_agents,
        queue_concurrency=control.queue_concurrency if concurrency == control.configured else concurrency,
        configured=concurrency,
        max_queued=event.max_queued,
    )


def _degraded(control: Control, event: e.SystemDegraded) -> Control:
    short = event.part in SHORTAGES
    return replace(control, short=control.short | {event.part}) if short else control


def _recovered(control: Control, event: e.SystemRecovered) -> Control:
    return replace(control, short=control.short - {event.part}) if event.part in control.short else control


_SWITCHES: dict[type[e.Event], Callable[[Control, Any], Control]] = {
    e.QueuePaused: lambda control, _: replace(control, paused=True),
    e.QueueResumed: lambda control, _: replace(control, paused=False),
    e.ControlFrozen: lambda control, _: replace(control, frozen=True),
    e.ControlThawed: _thawed,
    e.ControlDraining: lambda control, _: replace(control, draining=True),
    e.QueueSettings: _settings,
    e.SystemStarted: _started,
    e.SystemDegraded: _degraded,
    e.SystemRecovered: _recovered,
}
