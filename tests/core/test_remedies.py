"""What is done after a crash, from the last state and what the host holds."""

from __future__ import annotations

import pytest

from orchestrator.core import commands as c
from orchestrator.core import events as e
from orchestrator.core.model import AgentId, Phase, Reason, TaskId
from orchestrator.core.recovery import FinishCleanup, Reap, Resume, SettlePush, remedies
from tests.core.ledger import PUSH, Ledger


@pytest.fixture
def ledger() -> Ledger:
    return Ledger().open(agents=9, at_once=9)


def test_a_host_and_a_state_without_anything_need_nothing(ledger: Ledger) -> None:
    assert remedies(ledger.state, ()) == []


def test_an_agent_that_waits_needs_nothing(ledger: Ledger) -> None:
    ledger.add()
    assert remedies(ledger.state, ()) == []


def test_every_directory_is_reaped_whoever_it_belonged_to(ledger: Ledger) -> None:
    ledger.start()
    assert remedies(ledger.state, ["stray", "a"]) == [Reap("a"), Reap("stray"), Resume(AgentId("a"))]


@pytest.mark.parametrize("started", [False, True])
def test_an_active_agent_goes_on(ledger: Ledger, started: bool) -> None:
    if started:
        ledger.start()
    else:
        ledger.assign()
    assert remedies(ledger.state, ()) == [Resume(AgentId("a"))]


@pytest.mark.parametrize("later", [None, Phase.CLEANING, Phase.WORKING])
def test_a_journaled_push_is_settled_first_whatever_came_after_it(
    ledger: Ledger, later: Phase | None
) -> None:
    agent_id = ledger.start()
    ledger.record(e.AgentPhase(task_id=TaskId("t"), agent_id=agent_id, phase=Phase.LANDING, push=PUSH))
    if later is not None:
        ledger.record(e.AgentPhase(task_id=TaskId("t"), agent_id=agent_id, phase=later))
    assert remedies(ledger.state, ()) == [SettlePush(agent_id, PUSH)]


def test_a_push_that_could_not_be_settled_is_asked_about_again_once_the_agent_runs(ledger: Ledger) -> None:
    agent_id = ledger.start()
    ledger.record(e.AgentPhase(task_id=TaskId("t"), agent_id=agent_id, phase=Phase.LANDING, push=PUSH))
    ledger.submit(c.ResumeAgent(agent_id, crashed=True))
    assert remedies(ledger.state, ()) == []
    ledger.submit(c.AssignAgent(agent_id))
    assert remedies(ledger.state, ()) == [SettlePush(agent_id, PUSH)]


@pytest.mark.parametrize("killed", [False, True])
def test_an_ended_agent_is_cleaned_up_after_and_not_resumed(ledger: Ledger, killed: bool) -> None:
    agent_id = ledger.start()
    if killed:
        ledger.submit(c.KillAgent(agent_id, Reason.OPERATOR))
    else:
        ledger.submit(c.CompleteAgent(agent_id, Reason.DONE))
    assert remedies(ledger.state, ["a"]) == [Reap("a"), FinishCleanup(agent_id)]
    ledger.clean()
    assert remedies(ledger.state, ()) == []


def test_agents_go_on_in_the_order_in_which_they_were_queued(ledger: Ledger) -> None:
    for agent_id in ("z", "m", "a"):
        ledger.start(f"t-{agent_id}", agent_id)
    assert remedies(ledger.state, ()) == [Resume(AgentId("z")), Resume(AgentId("m")), Resume(AgentId("a"))]
