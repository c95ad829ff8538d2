"""What is said to an agent: numbered, in order, told once, and never lost while it works."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core import commands as c
from orchestrator.core import events as e
from orchestrator.core.model import Agent, AgentId, Phase, Reason, TaskId
from orchestrator.core.words import MAX_WAITING, Concern, Step
from orchestrator.errors import AgentUnknown, AlreadyEnded, IllegalTransition, MailboxFull
from tests.core.ledger import Ledger

A = AgentId("a")
IDS: dict[str, Any] = {"task_id": TaskId("t"), "agent_id": A}


def agent_of(ledger: Ledger) -> Agent:
    return ledger.state.agents[A]


def tell(ledger: Ledger, text: str) -> None:
    ledger.submit(c.TellAgent(A, text, "me"))


def running() -> Ledger:
    ledger = Ledger().open()
    ledger.start()
    return ledger


@given(plan=st.lists(st.sampled_from(["tell", "hear"]), max_size=40))
def test_messages_are_numbered_without_gaps_and_heard_in_order(plan: list[str]) -> None:
    ledger, sent, heard = running(), 0, list[int]()
    for step in plan:
        waiting = agent_of(ledger).waiting
        if step == "tell" and len(waiting) < MAX_WAITING:
            sent += 1
            tell(ledger, f"word {sent}")
        elif step == "hear" and waiting:
            middle = waiting[len(waiting) // 2]
            heard += [message.number for message in waiting if message.number <= middle.number]
            ledger.record(e.AgentMessage(**IDS, number=middle.number, delivered=True))
    waiting = agent_of(ledger).waiting
    assert heard + [message.number for message in waiting] == list(range(1, sent + 1))
    assert all(message.text == f"word {message.number}" for message in waiting)


def test_a_message_needs_a_live_agent_whose_work_was_not_taken_and_room() -> None:
    ledger = Ledger().open()
    with pytest.raises(AgentUnknown):
        tell(ledger, "hello")
    ledger.add()
    tell(ledger, "while it waits in the queue")
    ledger.submit(c.AssignAgent(A))
    ledger.submit(c.StartAgent(A, "bubblewrap"))
    for _ in range(MAX_WAITING - 1):
        tell(ledger, "more")
    with pytest.raises(MailboxFull, match=f"{MAX_WAITING} messages wait"):
        tell(ledger, "too much")
    ledger.record(e.AgentMessage(**IDS, number=MAX_WAITING, delivered=True))
    assert ledger.submit(c.TakeWork(A))
    with pytest.raises(AlreadyEnded, match="is final"):
        tell(ledger, "wait!")
    ledger.fail(retryable=False)
    with pytest.raises(AlreadyEnded):
        tell(ledger, "are you there?")


def test_work_is_not_taken_while_a_message_waits() -> None:
    ledger = running()
    tell(ledger, "one more thing")
    assert ledger.submit(c.TakeWork(A)) == []
    assert agent_of(ledger).phase is Phase.WORKING


@pytest.mark.parametrize("end", ["completed", "failed", "retried", "killed"])
def test_words_that_were_not_heard_before_an_end_are_told_to_be_so(end: str) -> None:
    ledger = running()
    tell(ledger, "one")
    tell(ledger, "two")
    ledger.record(e.AgentMessage(**IDS, number=1, delivered=True))
    ledger.record(e.AgentMessage(**IDS, number=3, text="a nudge of ours"))
    told: list[e.Event] = {
        "completed": lambda: ledger.submit(c.CompleteAgent(A, Reason.NO_CHANGES)),
        "failed": lambda: ledger.fail(retryable=False),
        "retried": lambda: ledger.fail(retryable=True),
        "killed": lambda: ledger.submit(c.KillAgent(A, Reason.OPERATOR)),
    }[end]()
    assert told[0] == e.AgentMessage(**IDS, number=2, delivered=False)
    assert not [event for event in told[1:] if isinstance(event, e.AgentMessage)]


@pytest.mark.parametrize(
    "event",
    [
        e.AgentMessage(**IDS, number=2, text="skips one"),
        e.AgentMessage(**IDS, number=1),
        e.AgentMessage(**IDS, number=1, delivered=True),
    ],
    ids=["a number too high", "no words", "never sent"],
)
def test_a_message_that_does_not_follow_is_refused(event: e.AgentMessage) -> None:
    with pytest.raises(IllegalTransition, match=r"^agent\.message: "):
        running().record(event)


@pytest.mark.parametrize(
    ("concern", "event", "over"),
    [
        (Concern.STALL, e.AgentTurn(**IDS, turn=1, stop_reason="x", duration_ms=1, prompt=1), True),
        (Concern.STALL, e.AgentTurn(**IDS, turn=1, stop_reason="x", duration_ms=1, ok=False), False),
        (Concern.LOOP, e.AgentTurn(**IDS, turn=1, stop_reason="x", duration_ms=1, prompt=1), False),
        (Concern.LOOP, e.AgentTurn(**IDS, turn=1, stop_reason="x", duration_ms=1), True),
        (Concern.LOOP, e.AgentPhase(**IDS, phase=Phase.CHECKING, answered=1), True),
        (Concern.LOOP, e.AgentPhase(**IDS, phase=Phase.WORKING), False),
        (Concern.STALL, e.AgentResumed(**IDS, crashes=1), False),
        (Concern.STALL, e.AgentAttention(**IDS, message="a person, please"), False),
    ],
)
def test_a_turn_ends_a_stall_and_only_an_answer_ends_a_loop(
    concern: Concern, event: e.AgentEvent, over: bool
) -> None:
    ledger = running()
    ledger.record(e.AgentAttention(**IDS, message="it stalls", step=Step.NUDGE, concern=concern))
    assert (agent_of(ledger).step, agent_of(ledger).concern) == (Step.NUDGE, concern)
    ledger.record(event)
    assert (agent_of(ledger).step is None) is over


def test_a_nudge_that_was_not_heard_is_moot_after_a_restart_and_words_of_others_are_not() -> None:
    ledger = running()
    ledger.record(e.AgentMessage(**IDS, number=1, text="go on"))
    tell(ledger, "mind the tests")
    ledger.record(e.AgentAttention(**IDS, message="again", step=Step.RESTART, concern=Concern.STALL))
    assert [message.text for message in agent_of(ledger).waiting] == ["mind the tests"]
