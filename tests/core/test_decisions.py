"""What each command leads to, step by step, and what a client is told where it is refused."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

import pytest

from orchestrator import errors
from orchestrator.core import commands as c
from orchestrator.core import events as e
from orchestrator.core.decide import decide
from orchestrator.core.model import AgentId, AgentStatus, Phase, PushIntent, Reason, TaskId, changed
from orchestrator.core.policy import MAX_CRASHES, MAX_ERROR
from tests.core.ledger import PUSH, Ledger, assert_sound, names, task_spec


@pytest.fixture
def ledger() -> Ledger:
    return Ledger().open()


def test_a_task_goes_from_the_queue_to_its_end(ledger: Ledger) -> None:
    agent_id = ledger.start()
    ledger.submit(c.CompleteAgent(agent_id, Reason.DONE, "c0ffee", "agent/t"))
    ledger.clean()
    assert names([entry.event for entry in ledger.entries]) == [
        "system.started",
        "task.submitted",
        "agent.spawning",
        "task.queued",
        "task.assigned",
        "agent.running",
        "task.executing",
        "agent.completed",
        "task.completed",
        "agent.cleanup",
    ]
    assert not ledger.state.tasks


def test_a_second_live_agent_of_a_task_is_refused(ledger: Ledger) -> None:
    ledger.start()
    with pytest.raises(errors.TaskActive, match="task t has the live agent a"):
        ledger.add("t", "b")


def test_a_task_may_be_submitted_again_after_its_end_and_its_attempts_are_counted_on(ledger: Ledger) -> None:
    ledger.start()
    ledger.fail(retryable=False)
    ledger.add("t", "b")
    assert (ledger.agent("b").attempt, ledger.task().agent_id) == (2, "b")
    ledger.clean("a")
    ledger.submit(c.CancelTask(TaskId("t")))
    assert not ledger.state.tasks
    ledger.add("t", "c")
    assert ledger.agent("c").attempt == 3


def test_nothing_is_taken_in_while_frozen_or_draining(ledger: Ledger) -> None:
    waiting = ledger.add("t", "a")
    assert names(ledger.submit(c.Freeze())) == ["control.frozen"]
    assert ledger.submit(c.Freeze()) == []
    with pytest.raises(errors.Frozen):
        ledger.add("u", "b")
    with pytest.raises(errors.Frozen):
        ledger.submit(c.AssignAgent(waiting))
    assert names(ledger.submit(c.Thaw())) == ["control.thawed"]
    assert ledger.submit(c.Thaw()) == []
    assert names(ledger.submit(c.Drain())) == ["control.draining"]
    assert ledger.submit(c.Drain()) == []
    with pytest.raises(errors.Draining):
        ledger.add("u", "b")
    with pytest.raises(errors.Draining):
        ledger.submit(c.AssignAgent(waiting))


def test_thaw_of_a_frozen_drain_drains_on_and_a_further_thaw_ends_it(ledger: Ledger) -> None:
    ledger.submit(c.Drain())
    ledger.submit(c.Freeze())
    with pytest.raises(errors.Frozen):
        ledger.add()
    ledger.submit(c.Thaw())
    with pytest.raises(errors.Draining):
        ledger.add()
    assert names(ledger.submit(c.Thaw())) == ["control.thawed"]
    ledger.submit(c.AssignAgent(ledger.add()))


def test_agents_that_live_end_as_ever_while_frozen(ledger: Ledger) -> None:
    ledger.start()
    waiting = ledger.add("u", "u")
    ledger.submit(c.Freeze())
    ledger.submit(c.CancelTask(TaskId("u")))
    assert waiting not in ledger.state.agents
    ledger.submit(c.ResumeAgent(AgentId("a"), crashed=True))
    ledger.submit(c.KillAgent(AgentId("a"), Reason.OPERATOR))
    ended = ledger.state.agents[AgentId("a")]  # it may have left a worktree, which the reaper removes
    assert (ended.status, ended.clean) == (AgentStatus.KILLED, False)


def test_a_full_queue_refuses_and_says_its_ceiling() -> None:
    ledger = Ledger().open(queued=2)
    ledger.add("t1", "a")
    ledger.add("t2", "b")
    with pytest.raises(errors.QueueFull, match="2 tasks wait already and MAX_QUEUED_TASKS is 2"):
        ledger.add("t3", "c")
    ledger.submit(c.AssignAgent(AgentId("a")))
    ledger.add("t3", "c")


def test_a_free_slot_is_given_with_the_submission_where_nobody_waits() -> None:
    ledger = Ledger().open(agents=2, at_once=2)

    def submit(task_id: str) -> list[str]:
        spec = task_spec(task_id, priority=10)
        return names(ledger.submit(c.SubmitTask(spec, AgentId(f"a-{task_id}"), "command", at_once=True)))

    queued = ["task.submitted", "agent.spawning", "task.queued"]
    assert submit("t1") == [*queued, "task.assigned"]
    assert ledger.agent("a-t1").active
    ledger.submit(c.PauseQueue())
    assert submit("t2") == queued, "the queue is paused"
    ledger.submit(c.ResumeQueue())
    assert submit("t3") == queued, "one of lower or equal right waits"
    ledger.submit(c.AssignAgent(AgentId("a-t2")))
    ledger.submit(c.CancelTask(TaskId("t3")))
    assert submit("t4") == queued, "there is no slot"


def test_a_free_slot_is_not_given_past_one_that_waits_for_its_retry() -> None:
    ledger = Ledger().open(agents=2, at_once=2)
    ledger.start()
    ledger.fail()
    command = c.SubmitTask(task_spec("u", priority=10), AgentId("u"), "command", at_once=True)
    assert "task.assigned" not in names(ledger.submit(command))


@pytest.mark.parametrize(("agents", "at_once"), [(1, 9), (9, 1)])
def test_the_lower_ceiling_of_both_counts(agents: int, at_once: int) -> None:
    ledger = Ledger().open(agents=agents, at_once=at_once)
    ledger.assign("t1", "a")
    with pytest.raises(errors.NoSlot, match="1 agents are active and 1 may be"):
        ledger.assign("t2", "b")


def test_a_pause_keeps_the_queue_and_lets_the_running_go_on(ledger: Ledger) -> None:
    running = ledger.start("t1", "a")
    waiting = ledger.add("t2", "b")
    assert names(ledger.submit(c.PauseQueue())) == ["queue.paused"]
    assert ledger.submit(c.PauseQueue()) == []
    with pytest.raises(errors.NoSlot, match="paused"):
        ledger.submit(c.AssignAgent(waiting))
    ledger.submit(c.CompleteAgent(running, Reason.DONE))
    assert names(ledger.submit(c.ResumeQueue())) == ["queue.resumed"]
    assert ledger.submit(c.ResumeQueue()) == []
    ledger.submit(c.AssignAgent(waiting))


def test_a_retry_waits_for_its_backoff_and_then_starts(ledger: Ledger) -> None:
    ledger.start()
    assert names(ledger.fail(then="b")) == [
        "agent.failed",
        "task.retry_scheduled",
        "agent.spawning",
        "task.queued",
    ]
    assert ledger.agent("a").next_agent_id == "b"
    with pytest.raises(errors.NoSlot, match="waits for its retry"):
        ledger.submit(c.AssignAgent(AgentId("b")))
    ledger.pass_s(60)
    ledger.submit(c.AssignAgent(AgentId("b")))
    assert ledger.agent("b").not_before is None


def test_a_chain_of_retries_ends_when_none_is_left(ledger: Ledger) -> None:
    ledger.start(maxRetries=2)
    for agent_id, follower in (("a", "b"), ("b", "c")):
        ledger.fail(agent_id, then=follower)
        ledger.pass_s(60)
        ledger.submit(c.AssignAgent(AgentId(follower)))
    assert ledger.agent("c").retries_left == 0
    assert names(ledger.fail("c", then="d")) == ["agent.failed", "task.failed"]
    assert ledger.task().status == "failed"
    assert AgentId("d") not in ledger.state.agents
    assert_sound(ledger.state)


@pytest.mark.parametrize("reason", [Reason.GATE_REJECTED, Reason.BUDGET_EXCEEDED, Reason.SECRET_DETECTED])
def test_what_the_same_work_can_only_meet_again_is_not_retried(ledger: Ledger, reason: Reason) -> None:
    ledger.start()
    assert names(ledger.fail(reason=reason)) == ["agent.failed", "task.failed"]


def test_an_error_is_cut_before_it_is_journaled(ledger: Ledger) -> None:
    agent_id = ledger.start()
    long = "x" * (MAX_ERROR + 1)
    ledger.submit(c.FailAgent(agent_id, Reason.TIMEOUT, long, False, AgentId("b"), ledger.now))
    assert len(ledger.agent().error or "") == len(ledger.task().error or "") == MAX_ERROR
    ledger.start("u", "c")
    ledger.submit(c.KillAgent(AgentId("c"), Reason.OPERATOR, long))
    assert len(ledger.agent("c").error or "") == MAX_ERROR


def test_stop_on_failure_pauses_the_queue_once(ledger: Ledger) -> None:
    ledger.submit(c.ChangeQueueSettings(stop_on_failure=True))
    ledger.start("t1", "a")
    ledger.start("t2", "b")
    assert "queue.paused" not in names(ledger.fail("a", then="a2")), "a retry is no failure yet"
    assert names(ledger.fail("b", retryable=False)) == ["agent.failed", "task.failed", "queue.paused"]
    ledger.submit(c.KillAgent(AgentId("a2"), Reason.OPERATOR))
    ledger.submit(c.ResumeQueue())
    ledger.start("t3", "c")
    ledger.submit(c.PauseQueue())
    assert names(ledger.fail("c", retryable=False)) == ["agent.failed", "task.failed"]


def test_settings_that_say_nothing_new_change_nothing(ledger: Ledger) -> None:
    assert ledger.submit(c.ChangeQueueSettings()) == []
    assert names(ledger.submit(c.ChangeQueueSettings(3, stop_on_failure=False))) == ["queue.settings"]
    assert ledger.submit(c.ChangeQueueSettings(3, stop_on_failure=False)) == []


def test_settings_outlast_a_start_until_one_comes_with_another_setting(ledger: Ledger) -> None:
    ledger.submit(c.ChangeQueueSettings(max_concurrent=7, stop_on_failure=True))
    ledger.submit(c.PauseQueue())
    for at_once, expected in ((2, 7), (3, 3), (3, 3)):
        control = ledger.open(at_once=at_once).state.control
        assert (control.queue_concurrency, control.stop_on_failure, control.paused) == (expected, True, True)


@pytest.mark.parametrize("most", [0, -1, 10**9])
def test_a_concurrency_out_of_range_is_refused_with_the_range(ledger: Ledger, most: int) -> None:
    with pytest.raises(errors.CommandRefused, match=f"max_concurrent must be 1 to 10000, not {most}"):
        ledger.submit(c.ChangeQueueSettings(max_concurrent=most))


def test_a_killed_agent_that_waited_is_cleaned_up_at_once(ledger: Ledger) -> None:
    agent_id = ledger.add()
    events = ledger.submit(c.KillAgent(agent_id, Reason.OPERATOR))
    assert names(events) == ["agent.killed", "task.cancelled", "agent.cleanup"]
    assert not ledger.state.agents


@pytest.mark.parametrize("ran", [False, True])
def test_a_killed_agent_that_waited_for_its_resumption_is_left_to_be_cleaned_up_after(
    ledger: Ledger, ran: bool
) -> None:
    agent_id = ledger.start() if ran else ledger.assign()
    ledger.submit(c.ResumeAgent(agent_id, crashed=True))
    events = ledger.submit(c.CancelTask(TaskId("t")))
    assert names(events) == ["agent.killed", "task.cancelled"], "it may hold a worktree"
    ledger.clean()
    assert (len(ledger.state.agents), len(ledger.state.tasks)) == (0, 0)


def test_a_killed_agent_that_held_resources_waits_for_its_cleanup(ledger: Ledger) -> None:
    agent_id = ledger.start()
    events = ledger.submit(c.KillAgent(agent_id, Reason.OPERATOR, "killed by admin", 7, 0, 14.2))
    assert names(events) == ["agent.killed", "task.cancelled"]
    assert ledger.agent().phase is Phase.CLEANING
    ledger.clean()
    assert not ledger.state.agents


def test_only_a_task_that_waits_is_cancelled(ledger: Ledger) -> None:
    with pytest.raises(errors.TaskUnknown):
        ledger.submit(c.CancelTask(TaskId("t")))
    agent_id = ledger.start()
    with pytest.raises(errors.CommandRefused, match="agent a works on task t: kill it"):
        ledger.submit(c.CancelTask(TaskId("t")))
    ledger.submit(c.KillAgent(agent_id, Reason.OPERATOR))
    with pytest.raises(errors.AlreadyEnded, match="task t is cancelled already"):
        ledger.submit(c.CancelTask(TaskId("t")))


def test_a_resumed_agent_keeps_its_place_its_status_and_what_it_spent(ledger: Ledger) -> None:
    agent_id = ledger.start()
    before = ledger.agent()
    ledger.submit(c.ResumeAgent(agent_id, crashed=True))
    after = ledger.agent()
    assert (after.phase, after.status, after.crashes) == (Phase.QUEUED, "running", 1)
    assert (after.queued_seq, after.attempt, after.started_at) == (
        before.queued_seq,
        before.attempt,
        before.started_at,
    )
    assert ledger.task().status == "pending"
    ledger.submit(c.AssignAgent(agent_id))
    assert names(ledger.submit(c.StartAgent(agent_id, "bubblewrap"))) == ["agent.phase", "task.executing"]
    assert ledger.agent().phase is Phase.WORKING


def test_an_agent_that_waits_is_not_resumed_and_keeps_its_backoff(ledger: Ledger) -> None:
    ledger.start()
    ledger.fail(then="b")
    with pytest.raises(errors.CommandRefused, match="agent b waits in the queue"):
        ledger.submit(c.ResumeAgent(AgentId("b"), crashed=True))
    assert ledger.agent("b").not_before == ledger.now + timedelta(minutes=1)


def test_crashes_in_a_row_end_the_agent_and_count_as_a_failure(ledger: Ledger) -> None:
    ledger.submit(c.ChangeQueueSettings(stop_on_failure=True))
    agent_id = ledger.start()
    for _ in range(MAX_CRASHES - 1):
        assert names(ledger.submit(c.ResumeAgent(agent_id, crashed=True))) == ["agent.resumed", "task.queued"]
        ledger.submit(c.AssignAgent(agent_id))
    events = ledger.submit(c.ResumeAgent(agent_id, crashed=True))
    assert names(events) == ["agent.failed", "task.failed", "queue.paused"]
    assert ledger.agent().reason is Reason.CRASH_LOOP


def test_an_agent_whose_push_may_have_arrived_is_not_given_up_before_that_is_known(ledger: Ledger) -> None:
    agent_id = ledger.start()
    ledger.record(e.AgentPhase(task_id=TaskId("t"), agent_id=agent_id, phase=Phase.LANDING, push=PUSH))
    for _ in range(MAX_CRASHES):
        assert names(ledger.submit(c.ResumeAgent(agent_id, crashed=True))) == ["agent.resumed", "task.queued"]
        ledger.submit(c.AssignAgent(agent_id))
    assert ledger.agent().crashes == MAX_CRASHES


class Unlisted:
    """Agents that are found by their ids, and that nobody goes through."""

    def __init__(self, ledger: Ledger) -> None:
        self.get = ledger.state.agents.get


def test_who_may_run_beside_whom_is_decided_without_a_walk_over_all_agents(ledger: Ledger) -> None:
    agent_id = ledger.start()
    ledger.submit(c.ResumeAgent(agent_id, crashed=True))
    state = changed(ledger.state, agents=Unlisted(ledger))
    assert names(decide(state, c.AssignAgent(agent_id), ledger.now)) == ["task.assigned"]


def turn(agent_id: AgentId, number: int, *, ok: bool = True) -> e.AgentTurn:
    """Return the end of a turn."""
    return e.AgentTurn(
        task_id=TaskId("t"), agent_id=agent_id, turn=number, ok=ok, stop_reason="end", duration_ms=1
    )


def test_only_a_turn_further_than_ever_starts_the_count_of_crashes_anew(ledger: Ledger) -> None:
    agent_id = ledger.start()
    for number, ok, left in ((1, False, 1), (1, True, 0), (2, True, 0)):
        ledger.submit(c.ResumeAgent(agent_id, crashed=True))
        ledger.submit(c.AssignAgent(agent_id))
        ledger.record(turn(agent_id, number, ok=ok))
        assert ledger.agent().crashes == left
    ledger.submit(c.ResumeAgent(agent_id, crashed=True))
    ledger.submit(c.AssignAgent(agent_id))
    ledger.record(starting(agent_id, "new"), turn(agent_id, 1), turn(agent_id, 2))
    assert ledger.agent().crashes == 1, "both turns had been taken before"


def starting(agent_id: AgentId, worktree: Literal["new", "kept"]) -> e.AgentPhase:
    """Return the start on a worktree."""
    return e.AgentPhase(
        task_id=TaskId("t"), agent_id=agent_id, phase=Phase.STARTING, base="b", worktree=worktree
    )


def test_how_far_an_agent_is_holds_for_the_worktree_it_is_on(ledger: Ledger) -> None:
    agent_id = ledger.start()
    rejected = e.AgentPhase(task_id=TaskId("t"), agent_id=agent_id, phase=Phase.WORKING, rejected=1)
    ledger.record(starting(agent_id, "new"), turn(agent_id, 1), rejected)
    assert (ledger.agent().turn, ledger.agent().rejected) == (1, 1)
    ledger.submit(c.ResumeAgent(agent_id, crashed=False))
    ledger.submit(c.AssignAgent(agent_id))
    ledger.record(starting(agent_id, "kept"))
    assert (ledger.agent().turn, ledger.agent().rejected) == (1, 1)
    ledger.record(starting(agent_id, "new"))
    assert (ledger.agent().turn, ledger.agent().rejected) == (0, 0)


def test_on_its_last_chance_an_agent_runs_beside_no_other_suspect(ledger: Ledger) -> None:
    last, suspect = ledger.start("t", "a"), ledger.start("u", "b")
    for _ in range(MAX_CRASHES - 2):
        ledger.submit(c.ResumeAgent(last, crashed=True))
        ledger.submit(c.AssignAgent(last))
    for agent_id in (last, suspect):
        ledger.submit(c.ResumeAgent(agent_id, crashed=True))
    ledger.submit(c.AssignAgent(last))
    ledger.submit(c.KillAgent(ledger.start("v", "innocent"), Reason.OPERATOR))
    with pytest.raises(errors.NoSlot, match="without others that a crash cut"):
        ledger.submit(c.AssignAgent(suspect))
    ledger.record(turn(last, 1))
    ledger.submit(c.AssignAgent(suspect))


def test_a_clean_shutdown_is_no_crash(ledger: Ledger) -> None:
    agent_id = ledger.start()
    for _ in range(MAX_CRASHES + 1):
        ledger.submit(c.ResumeAgent(agent_id, crashed=False))
        ledger.submit(c.AssignAgent(agent_id))
    assert ledger.agent().live


def test_an_agent_that_never_ran_cannot_be_completed(ledger: Ledger) -> None:
    agent_id = ledger.assign()
    with pytest.raises(errors.CommandRefused, match="agent a never ran"):
        ledger.submit(c.CompleteAgent(agent_id, Reason.DONE))


def test_an_agent_is_assigned_once(ledger: Ledger) -> None:
    agent_id = ledger.assign()
    with pytest.raises(errors.CommandRefused, match="agent a is preparing, not queued"):
        ledger.submit(c.AssignAgent(agent_id))


def test_an_agent_of_which_nobody_knows_is_refused_by_its_id(ledger: Ledger) -> None:
    with pytest.raises(errors.AgentUnknown, match="there is no live agent x"):
        ledger.submit(c.KillAgent(AgentId("x"), Reason.OPERATOR))


def test_a_push_stays_known_through_a_resumption(ledger: Ledger) -> None:
    agent_id = ledger.start()
    ledger.record(e.AgentPhase(task_id=TaskId("t"), agent_id=agent_id, phase=Phase.LANDING, push=PUSH))
    ledger.submit(c.ResumeAgent(agent_id, crashed=True))
    assert ledger.agent().push == PUSH


def test_an_arrived_push_is_remembered_until_the_next_one(ledger: Ledger) -> None:
    agent_id = ledger.start()
    ids = {"task_id": TaskId("t"), "agent_id": agent_id}
    other = PushIntent(remote=PUSH.remote, ref=PUSH.ref, old=PUSH.new, new="decaf")
    ledger.record(e.AgentPhase(**ids, phase=Phase.LANDING, push=PUSH))
    for event in (e.PushRejected(**ids, push=PUSH, error="no"), e.PushCompleted(**ids, push=other)):
        ledger.record(event)
        assert not ledger.agent().pushed
    ledger.record(e.PushCompleted(**ids, push=PUSH))
    ledger.record(e.AgentPhase(**ids, phase=Phase.CLEANING))
    assert ledger.agent().pushed
    ledger.record(e.AgentPhase(**ids, phase=Phase.LANDING, push=other))
    assert not ledger.agent().pushed
