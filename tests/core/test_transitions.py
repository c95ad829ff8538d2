"""Which event can follow where: every event that speaks of an agent, against every stance of that agent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from typing import Any, get_args

import pytest

from orchestrator.core import events as e
from orchestrator.core.commands import Command
from orchestrator.core.decide import _DECISIONS
from orchestrator.core.fold import FOLDS
from orchestrator.core.machine import evolve, prune
from orchestrator.core.model import AgentId, Phase, Reason, Role, State, TaskId, Usage, changed
from orchestrator.errors import IllegalTransition
from tests.core.ledger import NOON, PUSH, VERDICT, Ledger, task_spec

IDS: dict[str, Any] = {"task_id": TaskId("t"), "agent_id": AgentId("a")}

MARK: dict[str, Any] = {"scope": "agent", "unit": "turns", "spent": 3, "ceiling": 3, "message": "no more"}

PUSHES = {"assigned", "running", "ended", "ended before its follower"}
#: One of each, and the stances (of STANCES) in which it can follow.
FOLLOWS: list[tuple[e.Event, set[str]]] = [
    (e.TaskQueued(**IDS, priority=5), {"waiting", "resumed"}),
    (e.TaskAssigned(**IDS), {"waiting", "resumed"}),
    (e.TaskExecuting(**IDS), {"assigned", "running"}),
    (e.TaskCompleted(**IDS, reason=Reason.DONE), set()),
    (e.TaskFailed(**IDS, reason=Reason.TIMEOUT), set()),
    (e.TaskCancelled(**IDS, reason=Reason.OPERATOR), set()),
    (e.TaskRetryScheduled(**IDS, next_agent_id=AgentId("b"), attempt=2, at=NOON), set()),
    (
        e.AgentSpawning(
            task_id=TaskId("t"), agent_id=AgentId("b"), attempt=2, role=Role.WORKER, runtime="x", priority=5
        ),
        set(),
    ),
    (e.AgentPhase(**IDS, phase=Phase.WORKING), {"assigned", "running"}),
    (e.AgentPhase(**IDS, phase=Phase.QUEUED), set()),
    (e.AgentRunning(**IDS, sandbox="bubblewrap", runtime="command"), {"assigned"}),
    (e.AgentTurn(**IDS, turn=1, stop_reason="end", duration_ms=1), {"assigned", "running"}),
    (e.AgentUsage(**IDS, usage=Usage(turns=1)), {"assigned", "running"}),
    (e.AgentAttention(**IDS, message="may I?"), {"assigned", "running"}),
    (e.AgentMessage(**IDS, number=1, text="hello"), {"waiting", "resumed", "assigned", "running"}),
    (e.AgentParked(**IDS, message="429"), {"assigned", "running"}),
    (e.BudgetWarning(**IDS, **MARK), {"assigned", "running"}),
    (e.BudgetExceeded(**IDS, **MARK), {"assigned", "running"}),
    (e.AgentResumed(**IDS), {"assigned", "running"}),
    (e.AgentCompleted(**IDS, reason=Reason.DONE), {"running"}),
    (e.AgentFailed(**IDS, reason=Reason.TIMEOUT, error="late"), {"assigned", "running"}),
    (e.AgentKilled(**IDS, reason=Reason.OPERATOR), {"waiting", "resumed", "assigned", "running"}),
    (e.AgentCleanup(**IDS), {"ended", "ended before its follower"}),
    (e.GatePassed(**IDS, verdict=VERDICT), {"assigned", "running"}),
    (e.GateRejected(**IDS, verdict=VERDICT), {"assigned", "running"}),
    (e.GateSkipped(**IDS, gate="lint", message="no linter"), {"assigned", "running"}),
    (e.SecretDetected(**IDS, rule="key", path="x"), {"assigned", "running"}),
    (e.PolicyViolated(**IDS, rule="symlink", path="x"), {"assigned", "running"}),
    (e.EgressAllowed(**IDS, host="pypi.org", port=443), {"assigned", "running"}),
    (e.EgressRefused(**IDS, host="evil", detail="is not listed"), {"assigned", "running"}),
    (e.ConflictDetected(**IDS, detail="moved"), {"assigned", "running"}),
    (
        e.ConflictPredicted(
            **IDS, other_agent_id="o", other_task_id="u", branch="b", landed=False, files=("f",), total=1
        ),
        {"assigned", "running"},
    ),
    (
        e.CommitCreated(**IDS, commit="c", base="b", branch="agent/t", files=1, additions=1, deletions=0),
        {"assigned", "running"},
    ),
    (e.PushCompleted(**IDS, push=PUSH), PUSHES),
    (
        e.PushRejected(**IDS, push=PUSH, error="no"),
        PUSHES,
    ),
    (e.YoloUsed(**IDS), {"assigned", "running"}),
]


def waiting(ledger: Ledger) -> None:
    ledger.add()


def assigned(ledger: Ledger) -> None:
    ledger.assign()


def running(ledger: Ledger) -> None:
    ledger.start()


def resumed(ledger: Ledger) -> None:
    ledger.start()
    ledger.record(e.AgentResumed(**IDS, crashes=1))


def ended(ledger: Ledger) -> None:
    ledger.start()
    ledger.fail(retryable=False)


def ended_before_its_follower(ledger: Ledger) -> None:
    ledger.start()
    ledger.fail(then="b")


def cleaned(ledger: Ledger) -> None:
    ended(ledger)
    ledger.clean()


def unknown(_ledger: Ledger) -> None: ...


Stance = Callable[[Ledger], None]
STANCES: list[Stance] = [
    waiting,
    assigned,
    running,
    resumed,
    ended,
    ended_before_its_follower,
    cleaned,
    unknown,
]


def after(state: State, event: e.Event) -> State:
    return evolve(state, e.Recorded(state.seq + 1, "id", NOON, event, ""))


@pytest.mark.parametrize("stance", STANCES, ids=[stance.__name__ for stance in STANCES])
@pytest.mark.parametrize(("event", "stances"), FOLLOWS, ids=[event.name for event, _ in FOLLOWS])
def test_an_event_follows_only_where_it_can(event: e.Event, stances: set[str], stance: Stance) -> None:
    ledger = Ledger().open()
    stance(ledger)
    if stance.__name__.replace("_", " ") in stances:
        assert after(ledger.state, event).seq == ledger.state.seq + 1
    else:
        with pytest.raises(IllegalTransition, match=f"^{event.name}: "):
            after(ledger.state, event)


@pytest.mark.parametrize(
    "event", [event for event, stances in FOLLOWS if stances], ids=lambda event: event.name
)
def test_an_event_that_names_another_agents_task_is_refused(event: e.Event) -> None:
    ledger = Ledger().open()
    ledger.start()
    ledger.start("other", "x")
    with pytest.raises(IllegalTransition, match="is not of task other"):
        after(ledger.state, event.model_copy(update={"task_id": TaskId("other")}))


def test_the_table_holds_every_event_about_an_agent() -> None:
    about_agents = {kind for kind in e.EVENTS.values() if issubclass(kind, e.AgentEvent)}
    assert {type(event) for event, _ in FOLLOWS} == about_agents
    assert about_agents <= FOLDS.keys()


def test_every_command_has_its_decision() -> None:
    assert set(get_args(Command)) == _DECISIONS.keys()


@pytest.mark.parametrize("seq", [0, 1, 3])
def test_an_event_out_of_order_is_refused(seq: int) -> None:
    state = after(State(), e.SystemStopping())
    with pytest.raises(IllegalTransition, match=f"event {seq} cannot follow event 1"):
        evolve(state, e.Recorded(seq, "id", NOON, e.SystemStopping(), ""))


def test_a_submission_whose_specification_is_of_another_task_is_refused() -> None:
    with pytest.raises(IllegalTransition, match="the specification is of task x"):
        after(State(), e.TaskSubmitted(task_id=TaskId("t"), spec=task_spec("x")))


def test_an_earlier_agent_cannot_end_the_task_of_its_follower() -> None:
    ledger = Ledger().open()
    ended_before_its_follower(ledger)
    for event in (e.TaskFailed(**IDS, reason=Reason.TIMEOUT), e.TaskCompleted(**IDS, reason=Reason.DONE)):
        with pytest.raises(IllegalTransition, match="task t is with agent b, not a"):
            after(ledger.state, event)


def test_a_retry_by_another_agent_than_announced_is_refused() -> None:
    ledger = Ledger().open()
    ledger.start()
    failed = after(
        ledger.state,
        e.AgentFailed(**IDS, reason=Reason.TIMEOUT, error="late", next_agent_id=AgentId("b")),
    )
    with pytest.raises(IllegalTransition, match="agent a is followed by b"):
        after(failed, e.TaskRetryScheduled(**IDS, next_agent_id=AgentId("x"), attempt=2, at=NOON))


@pytest.mark.parametrize(("agent_id", "attempt"), [("a", 2), ("b", 1), ("b", 0)])
def test_an_attempt_that_is_not_new_is_refused(agent_id: str, attempt: int) -> None:
    ledger = Ledger().open()
    ledger.start()
    state = after(ledger.state, e.AgentFailed(**IDS, reason=Reason.TIMEOUT, error="late"))
    spawning = e.AgentSpawning(
        task_id=TaskId("t"),
        agent_id=AgentId(agent_id),
        attempt=attempt,
        role=Role.WORKER,
        runtime="x",
        priority=5,
    )
    with pytest.raises(IllegalTransition, match="is not new"):
        after(state, spawning)


def test_events_about_the_whole_change_no_agent() -> None:
    ledger = Ledger().open()
    ledger.start()
    for event in (
        e.SystemRecovered(resumed=1, ended=0, reaped=0),
        e.SystemDegraded(part="valkey", detail="away"),
        e.SystemStopping(),
        e.ControlFrozen(),
        e.ControlThawed(),
    ):
        state = after(ledger.state, event)
        assert (state.agents, state.tasks) == (ledger.state.agents, ledger.state.tasks)


def test_pause_and_freeze_outlive_a_restart_and_a_drain_does_not() -> None:
    ledger = Ledger().open()
    ledger.record(e.QueuePaused(), e.ControlFrozen(), e.ControlDraining())
    ledger.open(agents=7, at_once=3, queued=9)
    control = ledger.state.control
    assert (control.paused, control.frozen, control.draining) == (True, True, False)
    assert (control.max_agents, control.queue_concurrency, control.max_queued) == (7, 3, 9)


def test_what_has_not_been_cleaned_up_after_is_never_pruned() -> None:
    ledger = Ledger().open()
    ended(ledger)
    assert prune(ledger.state, e.AgentCleanup(**IDS)) is ledger.state
    assert prune(ledger.state, e.SystemStopping()) is ledger.state
    ledger.clean()
    assert (len(ledger.state.agents), len(ledger.state.tasks)) == (0, 0)


def test_a_task_stays_while_its_follower_lives_and_goes_with_it() -> None:
    ledger = Ledger().open()
    ended_before_its_follower(ledger)
    ledger.clean("a")
    assert (set(ledger.state.agents), set(ledger.state.tasks)) == ({"b"}, {"t"})


def test_a_late_cleanup_of_an_earlier_life_leaves_the_new_one_alone() -> None:
    ledger = Ledger().open()
    ended(ledger)
    ledger.add("t", "b")
    assert ledger.task().attempt == 2
    ledger.clean("a")
    assert (set(ledger.state.agents), set(ledger.state.tasks)) == ({"b"}, {"t"})


def test_folding_leaves_the_state_before_untouched() -> None:
    ledger = Ledger().open()
    ledger.start()
    before = ledger.state
    ledger.fail(retryable=False)
    assert before.agents[AgentId("a")].live
    assert (before.active, ledger.state.active) == (1, 0)


def test_a_changed_copy_is_the_one_that_replace_makes_and_as_frozen() -> None:
    ledger = Ledger().open()
    ledger.start()
    agent, state = ledger.state.agents[AgentId("a")], ledger.state
    copy = changed(agent, phase=Phase.CHECKING, usage=Usage(turns=3))
    assert copy == replace(agent, phase=Phase.CHECKING, usage=Usage(turns=3))
    assert hash(copy) == hash(replace(copy))
    assert changed(state, seq=9) == replace(state, seq=9) != state
    with pytest.raises(FrozenInstanceError):
        copy.phase = None  # type: ignore[misc]
    with pytest.raises(TypeError, match="no such fields: \\['fase'\\]"):
        changed(agent, fase=Phase.CHECKING)
