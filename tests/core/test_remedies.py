"""What is done after a crash, from the last state and what the host holds."""

from __future__ import annotations

import pytest

from orchestrator.core import commands as c
from orchestrator.core import events as e
from orchestrator.core.model import AgentId, Phase, Reason, TaskId
from orchestrator.core.recovery import Complete, FinishCleanup, Reap, Resume, directory_of, remedies
from tests.core.ledger import PUSH, Ledger

#: The directory of agent `a` of task `t`.
OWN = directory_of("a", "t")


@pytest.fixture
def ledger() -> Ledger:
    return Ledger().open(agents=9, at_once=9)


def test_a_host_and_a_state_without_anything_need_nothing(ledger: Ledger) -> None:
    assert remedies(ledger.state, ()) == []


def test_an_agent_that_waits_needs_nothing(ledger: Ledger) -> None:
    ledger.add()
    assert remedies(ledger.state, ()) == []


def test_what_nobody_owns_is_reaped_and_what_an_agent_owns_stays(ledger: Ledger) -> None:
    ledger.start()
    ledger.add("u", "waits")
    found = ["stray", OWN, "agent-a-other", "agent-waits-u"]
    strays = [Reap("agent-a-other"), Reap("agent-waits-u"), Reap("stray")]
    assert remedies(ledger.state, found) == [*strays, Resume(AgentId("a"))]


def test_an_agent_that_waits_to_go_on_keeps_its_directory(ledger: Ledger) -> None:
    agent_id = ledger.start()
    ledger.submit(c.ResumeAgent(agent_id, crashed=False))
    assert remedies(ledger.state, [OWN]) == []
    ledger.submit(c.CancelTask(TaskId("t")))
    assert remedies(ledger.state, [OWN]) == [FinishCleanup(agent_id, salvage=True)]


def test_of_those_that_run_the_run_itself_takes_care(ledger: Ledger) -> None:
    agent_id, other = ledger.start(), ledger.start("u", "b")
    ledger.submit(c.KillAgent(other, Reason.OPERATOR))
    assert remedies(ledger.state, [OWN], {agent_id, other}) == []
    assert remedies(ledger.state, [OWN], {agent_id}) == [FinishCleanup(other)]


def test_a_name_has_nothing_that_an_overlay_cannot_mount() -> None:
    assert directory_of("a", "US-1:x.y") == "agent-a-US-1_x.y"


@pytest.mark.parametrize("started", [False, True])
def test_an_active_agent_goes_on(ledger: Ledger, started: bool) -> None:
    if started:
        ledger.start()
    else:
        ledger.assign()
    assert remedies(ledger.state, ()) == [Resume(AgentId("a"))]


@pytest.mark.parametrize("later", [None, Phase.CLEANING, Phase.WORKING])
def test_an_agent_that_had_begun_to_push_goes_on_and_asks_then_whatever_came_after(
    ledger: Ledger, later: Phase | None
) -> None:
    agent_id = ledger.start()
    ledger.record(e.AgentPhase(task_id=TaskId("t"), agent_id=agent_id, phase=Phase.LANDING, push=PUSH))
    if later is not None:
        ledger.record(e.AgentPhase(task_id=TaskId("t"), agent_id=agent_id, phase=later))
    assert remedies(ledger.state, ()) == [Resume(agent_id)]


def test_a_push_that_is_known_to_have_arrived_completes_its_agent(ledger: Ledger) -> None:
    agent_id = ledger.start()
    ledger.record(e.AgentPhase(task_id=TaskId("t"), agent_id=agent_id, phase=Phase.LANDING, push=PUSH))
    ledger.record(e.PushCompleted(task_id=TaskId("t"), agent_id=agent_id, push=PUSH))
    assert remedies(ledger.state, ()) == [Complete(agent_id, PUSH)]


@pytest.mark.parametrize("killed", [False, True])
def test_an_ended_agent_is_cleaned_up_after_and_not_resumed(ledger: Ledger, killed: bool) -> None:
    agent_id = ledger.start()
    if killed:
        ledger.submit(c.KillAgent(agent_id, Reason.OPERATOR))
    else:
        ledger.submit(c.CompleteAgent(agent_id, Reason.DONE))
    assert remedies(ledger.state, [OWN]) == [FinishCleanup(agent_id, salvage=killed)]
    assert remedies(ledger.state, ()) == [FinishCleanup(agent_id)]
    ledger.clean()
    assert remedies(ledger.state, ()) == []


def test_agents_go_on_in_the_order_in_which_they_were_queued(ledger: Ledger) -> None:
    for agent_id in ("z", "m", "a"):
        ledger.start(f"t-{agent_id}", agent_id)
    assert remedies(ledger.state, ()) == [Resume(AgentId("z")), Resume(AgentId("m")), Resume(AgentId("a"))]
