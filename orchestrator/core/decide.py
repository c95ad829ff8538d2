"""What a command leads to: the deciding half of the state machine.

`decide` looks at the state, refuses what does not fit with a `CommandRefused`, and returns the events that
follow, in order. It performs nothing and draws no chance: ids, times and jitter come with the command.
`machine.evolve` folds what it returns. Keeps J5 (one live attempt a task), J6 (terminal is final) and the
ceilings. Called by the store.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from orchestrator import errors
from orchestrator.core import commands as c
from orchestrator.core import events as e
from orchestrator.core.dependencies import abandon, open_dependencies, unmet
from orchestrator.core.model import Agent, AgentId, AgentStatus, Phase, Reason, State, TaskId
from orchestrator.core.moment import whole_ms
from orchestrator.core.policy import (
    MAX_CONCURRENT,
    MAX_CRASHES,
    MAX_ERROR,
    crash_loop,
    free_slots,
    is_due,
    may_run_beside,
    retry_can_help,
    worst_of,
)
from orchestrator.core.standing import unheard
from orchestrator.core.words import MAX_WAITING


def decide(state: State, command: c.Command, now: datetime) -> list[e.Event]:
    """Return the events that the command leads to or raise `CommandRefused`; none where nothing changes."""
    return _DECISIONS[type(command)](state, command, now)


def _admit(state: State) -> None:
    """Raise where nothing new is taken in."""
    control = state.control
    if control.frozen:
        raise errors.Frozen
    if control.draining:
        raise errors.Draining
    if state.queued >= control.max_queued:
        raise errors.QueueFull(
            f"{state.queued} tasks wait already and MAX_QUEUED_TASKS is {control.max_queued}"
        )


def _live(state: State, agent_id: AgentId) -> Agent:
    agent = state.agents.get(agent_id)
    if agent is None:
        raise errors.AgentUnknown(f"there is no live agent {agent_id}")
    if agent.status.ended:
        raise errors.AlreadyEnded(f"agent {agent_id} is {agent.status} already")
    return agent


def _active(state: State, agent_id: AgentId) -> Agent:
    agent = _live(state, agent_id)
    if not agent.active:
        raise errors.CommandRefused(f"agent {agent_id} waits in the queue")
    return agent


def _spawn(command: c.SubmitTask, attempt: int, waits_for: tuple[TaskId, ...]) -> list[e.Event]:
    spec, agent_id = command.spec, command.agent_id
    task_id = TaskId(spec.task_id)
    return [
        e.AgentSpawning(
            task_id=task_id,
            agent_id=agent_id,
            attempt=attempt,
            role=spec.agent_type,
            runtime=command.runtime,
            priority=spec.priority,
            retries_left=spec.options.max_retries,
        ),
        e.TaskQueued(task_id=task_id, agent_id=agent_id, priority=spec.priority, waits_for=waits_for or None),
    ]


def _submit(state: State, command: c.SubmitTask, _now: datetime) -> list[e.Event]:
    task_id = TaskId(command.spec.task_id)
    present = state.tasks.get(task_id)
    if present is not None and not present.status.ended:
        raise errors.TaskActive(f"task {task_id} has the live agent {present.agent_id}")
    _admit(state)
    earlier = max(command.earlier_attempts, present.attempt if present else 0)
    waits_for = open_dependencies(state, command)
    submitted = e.TaskSubmitted(task_id=task_id, spec=command.spec)
    accepted = [submitted, *_spawn(command, earlier + 1, waits_for)]
    # Only where nobody waits, whatever for: so none is ever overtaken.
    if command.at_once and not waits_for and state.queued == 0 and free_slots(state) > 0:
        accepted.append(e.TaskAssigned(task_id=task_id, agent_id=command.agent_id))
    return accepted


def _assign(state: State, command: c.AssignAgent, now: datetime) -> list[e.Event]:
    agent, control = _live(state, command.agent_id), state.control
    if agent.phase is not Phase.QUEUED:
        raise errors.CommandRefused(f"agent {agent.id} is {agent.phase}, not queued")
    if control.frozen:
        raise errors.Frozen
    if control.draining:
        raise errors.Draining
    if control.paused:
        raise errors.NoSlot("the queue is paused")
    if state.active >= control.slots:
        raise errors.NoSlot(f"{state.active} agents are active and {control.slots} may be")
    if (task_id := unmet(state, agent)) is not None:
        raise errors.NoSlot(f"agent {agent.id} waits for task {task_id}")
    if not is_due(agent, now):
        raise errors.NoSlot(f"agent {agent.id} waits for its retry")
    if not may_run_beside(agent, worst_of(cut=state.cut, last_chance=state.last_chance)):
        raise errors.NoSlot(f"agent {agent.id} waits until it can run without others that a crash cut")
    return [e.TaskAssigned(task_id=agent.task_id, agent_id=agent.id)]


def _abandon(state: State, command: c.AbandonAgent, _now: datetime) -> list[e.Event]:
    return abandon(state, _live(state, command.agent_id), command.dependency)


def _start(state: State, command: c.StartAgent, _now: datetime) -> list[e.Event]:
    agent = _active(state, command.agent_id)
    ids = {"task_id": agent.task_id, "agent_id": agent.id}
    if agent.status is AgentStatus.RUNNING:  # resumed: it runs again, and a status never goes back
        return [e.AgentPhase(**ids, phase=Phase.WORKING), e.TaskExecuting(**ids)]
    return [e.AgentRunning(**ids, sandbox=command.sandbox, runtime=agent.runtime), e.TaskExecuting(**ids)]


def _complete(state: State, command: c.CompleteAgent, _now: datetime) -> list[e.Event]:
    agent = _active(state, command.agent_id)
    if agent.status is not AgentStatus.RUNNING:
        raise errors.CommandRefused(f"agent {agent.id} never ran")
    ids = {"task_id": agent.task_id, "agent_id": agent.id}
    return [
        *unheard(agent),
        e.AgentCompleted(
            **ids, reason=command.reason, commit=command.commit, branch=command.branch, error=command.error
        ),
        e.TaskCompleted(**ids, reason=command.reason),
    ]


def _fail(state: State, command: c.FailAgent, _now: datetime) -> list[e.Event]:
    agent = _active(state, command.agent_id)
    ids = {"task_id": agent.task_id, "agent_id": agent.id}
    error = command.error[:MAX_ERROR]
    if not (command.retryable and retry_can_help(command.reason) and agent.retries_left > 0):
        return _fail_for_good(state, agent, command.reason, error)
    follower = {"task_id": agent.task_id, "agent_id": command.next_agent_id}
    attempt = agent.attempt + 1
    return [
        *unheard(agent),
        e.AgentFailed(**ids, reason=command.reason, error=error, next_agent_id=command.next_agent_id),
        e.TaskRetryScheduled(
            **ids, next_agent_id=command.next_agent_id, attempt=attempt, at=command.retry_at
        ),
        e.AgentSpawning(
            **follower,
            attempt=attempt,
            role=agent.role,
            runtime=agent.runtime,
            priority=agent.priority,
            retries_left=agent.retries_left - 1,
            not_before=command.retry_at,
        ),
        e.TaskQueued(**follower, priority=agent.priority),
    ]


def _fail_for_good(state: State, agent: Agent, reason: Reason, error: str) -> list[e.Event]:
    ids = {"task_id": agent.task_id, "agent_id": agent.id}
    failed: list[e.Event] = [
        *unheard(agent),
        e.AgentFailed(**ids, reason=reason, error=error),
        e.TaskFailed(**ids, reason=reason, error=error),
    ]
    stop = state.control.stop_on_failure and not state.control.paused
    return [*failed, e.QueuePaused()] if stop else failed


def _kill(state: State, command: c.KillAgent, _now: datetime) -> list[e.Event]:
    agent = _live(state, command.agent_id)
    ids = {"task_id": agent.task_id, "agent_id": agent.id}
    killed = e.AgentKilled(
        **ids,
        reason=command.reason,
        error=command.error and command.error[:MAX_ERROR],
        killed_processes=command.killed_processes,
        remaining=command.remaining,
        elapsed_ms=command.elapsed_ms,
    )
    ended: list[e.Event] = [*unheard(agent), killed, e.TaskCancelled(**ids, reason=command.reason)]
    # One that was never assigned holds nothing on the host.
    return ended if agent.active or agent.resumed else [*ended, e.AgentCleanup(**ids)]


def _tell(state: State, command: c.TellAgent, _now: datetime) -> list[e.Event]:
    agent = _live(state, command.agent_id)
    if agent.phase in {Phase.COMMITTING, Phase.LANDING}:
        raise errors.AlreadyEnded(
            f"the work of agent {agent.id} is final: it lands, or there is nothing that could"
        )
    if len(agent.waiting) >= MAX_WAITING:
        raise errors.MailboxFull(f"{len(agent.waiting)} messages wait for agent {agent.id} already")
    ids = {"task_id": agent.task_id, "agent_id": agent.id}
    return [e.AgentMessage(**ids, number=agent.said + 1, text=command.text, sender=command.sender)]


def _take(state: State, command: c.TakeWork, _now: datetime) -> list[e.Event]:
    agent = _active(state, command.agent_id)
    taken = e.AgentPhase(task_id=agent.task_id, agent_id=agent.id, phase=Phase.COMMITTING)
    return [] if agent.waiting else [taken]


def _cancel(state: State, command: c.CancelTask, now: datetime) -> list[e.Event]:
    task = state.tasks.get(command.task_id)
    if task is None:
        raise errors.TaskUnknown(f"there is no live task {command.task_id}")
    if task.status.ended:
        raise errors.AlreadyEnded(f"task {task.id} is {task.status} already")
    agent = _live(state, task.agent_id)
    if agent.active:
        raise errors.CommandRefused(f"agent {agent.id} works on task {task.id}: kill it")
    return _kill(state, c.KillAgent(agent.id, command.reason), now)


def _resume(state: State, command: c.ResumeAgent, _now: datetime) -> list[e.Event]:
    agent = _active(state, command.agent_id)
    ids = {"task_id": agent.task_id, "agent_id": agent.id}
    crashes = agent.crashes + command.crashed
    # Whose push may have arrived is not given up before the remote was asked: its next run does that first.
    if crashes >= MAX_CRASHES and agent.push is None:
        return _fail_for_good(state, agent, Reason.CRASH_LOOP, crash_loop(crashes))
    resumed = e.AgentResumed(**ids, crashes=crashes, not_before=command.not_before)
    return [resumed, e.TaskQueued(**ids, priority=agent.priority)]


def _pause(state: State, _command: c.PauseQueue, _now: datetime) -> list[e.Event]:
    return [] if state.control.paused else [e.QueuePaused()]


def _unpause(state: State, _command: c.ResumeQueue, _now: datetime) -> list[e.Event]:
    return [e.QueueResumed()] if state.control.paused else []


def _change(state: State, command: c.ChangeQueueSettings, _now: datetime) -> list[e.Event]:
    most, stop, control = command.max_concurrent, command.stop_on_failure, state.control
    if most is not None and not 1 <= most <= MAX_CONCURRENT:
        raise errors.CommandRefused(f"max_concurrent must be 1 to {MAX_CONCURRENT}, not {most}")
    if most in {None, control.queue_concurrency} and stop in {None, control.stop_on_failure}:
        return []
    return [e.QueueSettings(max_concurrent=most, stop_on_failure=stop)]


def _clear(_state: State, _command: c.ClearQueue, now: datetime) -> list[e.Event]:
    return [e.QueueSettings(cleared=whole_ms(now))]


def _freeze(state: State, _command: c.Freeze, _now: datetime) -> list[e.Event]:
    return [] if state.control.frozen else [e.ControlFrozen()]


def _thaw(state: State, _command: c.Thaw, _now: datetime) -> list[e.Event]:
    return [e.ControlThawed()] if state.control.frozen or state.control.draining else []


def _drain(state: State, _command: c.Drain, _now: datetime) -> list[e.Event]:
    return [] if state.control.draining else [e.ControlDraining()]


_DECISIONS: dict[type[c.Command], Callable[[State, Any, datetime], list[e.Event]]] = {
    c.SubmitTask: _submit,
    c.AssignAgent: _assign,
    c.AbandonAgent: _abandon,
    c.StartAgent: _start,
    c.CompleteAgent: _complete,
    c.FailAgent: _fail,
    c.KillAgent: _kill,
    c.TellAgent: _tell,
    c.TakeWork: _take,
    c.CancelTask: _cancel,
    c.ResumeAgent: _resume,
    c.PauseQueue: _pause,
    c.ResumeQueue: _unpause,
    c.ChangeQueueSettings: _change,
    c.ClearQueue: _clear,
    c.Freeze: _freeze,
    c.Thaw: _thaw,
    c.Drain: _drain,
}
