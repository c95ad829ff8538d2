"""What each event does to the state: one small function an event, found by its class.

Every fold refuses an event that cannot follow, with `IllegalTransition`. Keeps J5 (only the latest agent of
a task may speak of it, and only once the one before has ended) and J6 (nothing is said of an agent after
its end but whether its last push arrived, and that it was cleaned up after). Called by `machine.evolve`
alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from orchestrator.core import events as e
from orchestrator.core.attention import forgive, hear, see_to
from orchestrator.core.change import count_spent, put_agent, put_task
from orchestrator.core.judgement import committed, judged
from orchestrator.core.model import (
    Agent,
    AgentId,
    AgentStatus,
    Parked,
    Phase,
    Reason,
    State,
    Task,
    TaskStatus,
    Usage,
    changed,
)
from orchestrator.core.standing import (
    find_active,
    find_agent,
    find_ended,
    find_live,
    find_task,
    find_task_of,
    find_waiting,
)
from orchestrator.errors import IllegalTransition

Fold = Callable[[State, e.Recorded, Any], State]

#: The fold of each event; those without one change nothing and can always follow.
FOLDS: dict[type[e.Event], Fold] = {}


def _folds(*kinds: type[e.Event]) -> Callable[[Fold], Fold]:
    def register(fold: Fold) -> Fold:
        FOLDS.update(dict.fromkeys(kinds, fold))
        return fold

    return register


# --- tasks


@_folds(e.TaskSubmitted)
def _submitted(state: State, recorded: e.Recorded, event: e.TaskSubmitted) -> State:
    present = state.tasks.get(event.task_id)
    if present is not None and not present.status.ended:
        raise IllegalTransition(f"{event.name}: task {event.task_id} is {present.status}")
    if event.spec.task_id != event.task_id:
        raise IllegalTransition(f"{event.name}: the specification is of task {event.spec.task_id}")
    attempt = present.attempt if present else 0
    task = Task(event.task_id, event.spec, TaskStatus.PENDING, recorded.time, attempt, AgentId(""))
    return put_task(state, task)


@_folds(e.TaskQueued)
def _queued(state: State, recorded: e.Recorded, event: e.TaskQueued) -> State:
    agent = find_waiting(state, event)
    state = put_task(state, replace(find_task_of(state, agent, event), status=TaskStatus.PENDING))
    seq = agent.queued_seq or recorded.seq
    return put_agent(state, changed(agent, queued_seq=seq, waits_for=event.waits_for or ()))


@_folds(e.TaskAssigned)
def _assigned(state: State, _recorded: e.Recorded, event: e.TaskAssigned) -> State:
    agent = find_waiting(state, event)
    state = put_task(state, replace(find_task_of(state, agent, event), status=TaskStatus.ASSIGNED))
    return put_agent(state, changed(agent, phase=Phase.PREPARING, not_before=None, waits_for=()))


@_folds(e.TaskExecuting)
def _executing(state: State, _recorded: e.Recorded, event: e.TaskExecuting) -> State:
    task = find_task_of(state, find_active(state, event), event)
    return put_task(state, replace(task, status=TaskStatus.EXECUTING))


@_folds(e.TaskCompleted, e.TaskFailed, e.TaskCancelled)
def _task_ended(
    state: State, recorded: e.Recorded, event: e.TaskCompleted | e.TaskFailed | e.TaskCancelled
) -> State:
    task = find_task_of(state, find_ended(state, event), event)
    status = {
        e.TaskCompleted: TaskStatus.COMPLETED,
        e.TaskFailed: TaskStatus.FAILED,
        e.TaskCancelled: TaskStatus.CANCELLED,
    }[type(event)]
    error = event.error if isinstance(event, e.TaskFailed) else None
    return put_task(
        state, replace(task, status=status, completed_at=recorded.time, reason=event.reason, error=error)
    )


@_folds(e.TaskRetryScheduled)
def _retry_scheduled(state: State, _recorded: e.Recorded, event: e.TaskRetryScheduled) -> State:
    agent = find_ended(state, event)
    if agent.next_agent_id != event.next_agent_id:
        raise IllegalTransition(f"{event.name}: agent {agent.id} is followed by {agent.next_agent_id}")
    return put_task(state, replace(find_task_of(state, agent, event), status=TaskStatus.PENDING))


# --- agents


@_folds(e.AgentSpawning)
def _spawning(state: State, recorded: e.Recorded, event: e.AgentSpawning) -> State:
    task = find_task(state, event.task_id, event)
    rival = state.agents.get(task.agent_id)
    if rival is not None and rival.live:
        raise IllegalTransition(f"{event.name}: task {task.id} has the live agent {rival.id}")
    if event.agent_id in state.agents or event.attempt <= task.attempt:
        raise IllegalTransition(f"{event.name}: attempt {event.attempt} by {event.agent_id} is not new")
    agent = Agent(
        id=event.agent_id,
        task_id=event.task_id,
        attempt=event.attempt,
        role=event.role,
        runtime=event.runtime,
        priority=event.priority,
        spawned_at=recorded.time,
        retries_left=event.retries_left,
        not_before=event.not_before,
        branch=task.spec.landing_branch,
    )
    return put_task(put_agent(state, agent), replace(task, attempt=event.attempt, agent_id=agent.id))


@_folds(e.AgentPhase)
def _phase(state: State, _recorded: e.Recorded, event: e.AgentPhase) -> State:
    agent = find_active(state, event)
    if event.phase is Phase.QUEUED:
        raise IllegalTransition(f"{event.name}: agent {agent.id} returns to the queue by agent.resumed only")
    base, branch, push = event.base or agent.base, event.branch or agent.branch, event.push or agent.push
    pushed = agent.pushed and push == agent.push
    agent = changed(agent, phase=event.phase, parked=None, base=base, branch=branch, push=push, pushed=pushed)
    if event.phase is Phase.STARTING and event.worktree != "kept":  # what was done was done on another one
        agent = changed(agent, turn=0, answered=0, rejected=0, conflicts=0, result=None)
    if event.answered is not None:
        agent = changed(agent, answered=event.answered, result=event.result or agent.result)
        agent = forgive(agent, answered=True)
    if event.rejected is not None:
        agent = changed(agent, rejected=event.rejected, conflicts=event.conflicts or agent.conflicts)
    return put_agent(state, agent)


@_folds(e.AgentRunning)
def _running(state: State, recorded: e.Recorded, event: e.AgentRunning) -> State:
    agent = find_active(state, event)
    if agent.status is not AgentStatus.SPAWNING:
        raise IllegalTransition(f"{event.name}: agent {agent.id} is {agent.status} already")
    return put_agent(
        state, changed(agent, status=AgentStatus.RUNNING, phase=Phase.WORKING, started_at=recorded.time)
    )


@_folds(e.AgentResumed)
def _resumed(state: State, _recorded: e.Recorded, event: e.AgentResumed) -> State:
    agent = find_active(state, event)
    if event.waited:
        return put_agent(state, changed(agent, phase=event.phase or Phase.WORKING, parked=None))
    state = put_task(state, replace(find_task_of(state, agent, event), status=TaskStatus.PENDING))
    agent = changed(agent, parked=None)
    # Its commit and push stay: where the remote could not be asked, they tell later whose commit is there.
    back = {"phase": Phase.QUEUED, "crashes": event.crashes, "not_before": event.not_before}
    return put_agent(state, changed(agent, resumed=True, **back))


@_folds(e.AgentTurn)
def _turn(state: State, recorded: e.Recorded, event: e.AgentTurn) -> State:
    agent = find_active(state, event)
    state = count_spent(state, recorded, agent, Usage(turns=1))
    agent = changed(agent, usage=agent.usage.plus(Usage(turns=1)))
    if event.ok:
        # A turn that was lost with its worktree and is taken again is no progress.
        crashes = 0 if event.turn > agent.furthest else agent.crashes
        furthest = max(agent.furthest, event.turn)
        agent = changed(agent, turn=event.turn, crashes=crashes, furthest=furthest)
        if event.prompt is None:
            agent = changed(agent, answered=event.turn)
        agent = forgive(agent, answered=event.prompt is None)
    return put_agent(state, agent)


@_folds(e.AgentParked)
def _parked(state: State, _recorded: e.Recorded, event: e.AgentParked) -> State:
    parked = Parked(reason=event.reason, message=event.message, until=event.until)
    return put_agent(state, changed(find_active(state, event), phase=Phase.PARKED, parked=parked))


@_folds(e.AgentUsage)
def _usage(state: State, recorded: e.Recorded, event: e.AgentUsage) -> State:
    agent = find_active(state, event)
    state = count_spent(state, recorded, agent, event.usage, claimed=bool(event.claimed))
    return put_agent(state, changed(agent, usage=agent.usage.plus(event.usage)))


@_folds(e.AgentCompleted)
def _completed(state: State, recorded: e.Recorded, event: e.AgentCompleted) -> State:
    agent = find_active(state, event)
    if agent.status is not AgentStatus.RUNNING:
        raise IllegalTransition(f"{event.name}: agent {agent.id} never ran")
    return _end(state, agent, recorded, event, AgentStatus.COMPLETED, commit=event.commit, error=event.error)


@_folds(e.AgentFailed)
def _failed(state: State, recorded: e.Recorded, event: e.AgentFailed) -> State:
    stands = find_waiting if event.reason is Reason.DEPENDENCY_FAILED else find_active
    agent, after = stands(state, event), event.next_agent_id
    return _end(state, agent, recorded, event, AgentStatus.FAILED, error=event.error, next_agent_id=after)


@_folds(e.AgentKilled)
def _killed(state: State, recorded: e.Recorded, event: e.AgentKilled) -> State:
    return _end(state, find_live(state, event), recorded, event, AgentStatus.KILLED, error=event.error)


def _end(
    state: State,
    agent: Agent,
    recorded: e.Recorded,
    event: e.AgentCompleted | e.AgentFailed | e.AgentKilled,
    status: AgentStatus,
    **change: Any,  # noqa: ANN401 - fields of the agent
) -> State:
    ended = changed(
        agent, status=status, phase=Phase.CLEANING, completed_at=recorded.time, reason=event.reason
    )
    return put_agent(state, changed(ended, parked=None, **change))


@_folds(e.AgentCleanup)
def _cleanup(state: State, _recorded: e.Recorded, event: e.AgentCleanup) -> State:
    agent = find_ended(state, event)
    if agent.clean:
        raise IllegalTransition(f"{event.name}: agent {agent.id} was cleaned up after already")
    return put_agent(state, changed(agent, phase=None, clean=True))


@_folds(e.GatePassed, e.GateRejected)
def _judged(state: State, _recorded: e.Recorded, event: e.GatePassed | e.GateRejected) -> State:
    return put_agent(state, judged(find_active(state, event), event))


@_folds(e.CommitCreated)
def _committed(state: State, _recorded: e.Recorded, event: e.CommitCreated) -> State:
    return put_agent(state, committed(find_active(state, event), event))


@_folds(e.AgentMessage)
def _message(state: State, _recorded: e.Recorded, event: e.AgentMessage) -> State:
    return put_agent(state, hear(find_live(state, event), event))


@_folds(e.AgentAttention)
def _attention(state: State, _recorded: e.Recorded, event: e.AgentAttention) -> State:
    return put_agent(state, see_to(find_active(state, event), event))


@_folds(
    e.BudgetExceeded,
    e.BudgetWarning,
    e.ConflictDetected,
    e.ConflictPredicted,
    e.GateSkipped,
    e.EgressAllowed,
    e.EgressRefused,
    e.PolicyViolated,
    e.SecretDetected,
    e.YoloUsed,
)
def _told(state: State, _recorded: e.Recorded, event: e.AgentEvent) -> State:
    """Change nothing but that gates were skipped: a fact for people, of an agent that works."""
    agent = find_active(state, event)
    return put_agent(state, changed(agent, yolo=True)) if isinstance(event, e.YoloUsed) else state


@_folds(e.PushCompleted, e.PushRejected)
def _settled(state: State, _recorded: e.Recorded, event: e.AgentEvent) -> State:
    """Remember an arrival; whether a push arrived may be learned after a kill in its midst."""
    agent = find_agent(state, event)
    if agent.clean or agent.phase is Phase.QUEUED:
        raise IllegalTransition(f"{event.name}: agent {agent.id} has no push under way")
    if not isinstance(event, e.PushCompleted) or agent.push is None or event.push.new != agent.push.new:
        return state
    return put_agent(state, changed(agent, pushed=True))
