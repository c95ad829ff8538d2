"""Tasks that wait for others: what is refused, what is waited for, what ends with whom it waited for."""

from __future__ import annotations

import pytest

from orchestrator import errors
from orchestrator.core import commands as c
from orchestrator.core.model import AgentId, Reason, TaskId, TaskStatus
from tests.core.ledger import Ledger, task_spec


def submission(task_id: str, *depends_on: str, **known: TaskStatus) -> c.SubmitTask:
    spec = task_spec(task_id).model_copy(update={"depends_on": depends_on})
    stands = {TaskId(name): status for name, status in known.items()}
    return c.SubmitTask(spec, AgentId(f"a-{task_id}"), "command", at_once=True, known=stands)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger().open()


def test_a_task_waits_for_those_that_are_open_and_gets_its_slot_after_them(ledger: Ledger) -> None:
    ledger.start("first", "a")
    ledger.submit(submission("second", "first", "first", "long-ago", **{"long-ago": TaskStatus.COMPLETED}))
    assert ledger.agent("a-second").waits_for == ("first",), "once, and not for what is completed"
    with pytest.raises(errors.NoSlot, match="agent a-second waits for task first"):
        ledger.submit(c.AssignAgent(AgentId("a-second")))
    with pytest.raises(errors.CommandRefused, match="need not be given up"):
        ledger.submit(c.AbandonAgent(AgentId("a-second"), TaskId("first")))
    ledger.submit(c.CompleteAgent(AgentId("a"), Reason.NO_CHANGES))
    with pytest.raises(errors.CommandRefused, match="need not be given up"):
        ledger.submit(c.AbandonAgent(AgentId("a-second"), TaskId("first")))
    ledger.submit(c.AssignAgent(AgentId("a-second")))
    assert ledger.agent("a-second").waits_for == ()


@pytest.mark.parametrize(
    ("depends_on", "known"),
    [
        (("never",), {}),
        (("itself",), {}),
        (("itself",), {"itself": TaskStatus.COMPLETED}),
        (("gone",), {"gone": TaskStatus.FAILED}),
        (("gone",), {"gone": TaskStatus.CANCELLED}),
        (("odd",), {"odd": TaskStatus.EXECUTING}),
    ],
)
def test_what_could_never_be_waited_for_is_refused_by_its_field(
    ledger: Ledger, depends_on: tuple[str, ...], known: dict[str, TaskStatus]
) -> None:
    ledger.add("open", "a")
    with pytest.raises(errors.FieldRefused) as refused:
        ledger.submit(submission("itself", "open", *depends_on, **known))
    assert refused.value.field == "dependsOn.1"
    assert TaskId("itself") not in ledger.state.tasks


def test_whoever_waited_for_a_task_that_failed_fails_with_it_and_pauses_nothing(ledger: Ledger) -> None:
    ledger.submit(c.ChangeQueueSettings(stop_on_failure=True))
    ledger.start("first", "a")
    ledger.submit(submission("second", "first"))
    ledger.fail("a", retryable=False)
    ledger.submit(c.ResumeQueue())
    events = ledger.submit(c.AbandonAgent(AgentId("a-second"), TaskId("first")))
    assert [event.name for event in events] == ["agent.failed", "task.failed", "agent.cleanup"]
    assert TaskId("second") not in ledger.state.tasks
    assert not ledger.state.control.paused
    assert ledger.state.queued == 0
