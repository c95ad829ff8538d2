"""Every event survives the journal, keeps its name, and can be read by another version."""

from __future__ import annotations

import json
import string
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.events import (
    EVENTS,
    AgentEvent,
    Event,
    GatePassed,
    TaskEvent,
    TaskRetryScheduled,
    TaskSubmitted,
)
from orchestrator.core.moment import Moment
from orchestrator.core.spec import TaskSpec
from tests.core.ledger import NOON, VERDICT, task_spec

#: The names that the contract promises to clients (part 4), and of which this version may use some.
PROMISED = [
    "task.submitted",
    "task.queued",
    "task.assigned",
    "task.executing",
    "task.completed",
    "task.failed",
    "task.cancelled",
    "task.retry_scheduled",
    "agent.spawning",
    "agent.running",
    "agent.phase",
    "agent.turn",
    "agent.usage",
    "agent.attention",
    "agent.message",
    "agent.parked",
    "agent.resumed",
    "agent.completed",
    "agent.failed",
    "agent.killed",
    "agent.cleanup",
    "gate.passed",
    "gate.rejected",
    "gate.skipped",
    "secret.detected",
    "policy.violated",
    "conflict.detected",
    "egress.allowed",
    "egress.refused",
    "conflict.predicted",
    "commit.created",
    "push.completed",
    "push.rejected",
    "queue.paused",
    "queue.resumed",
    "queue.settings",
    "control.frozen",
    "control.thawed",
    "control.draining",
    "yolo.used",
    "budget.warning",
    "budget.exceeded",
    "provider.throttled",
    "provider.recovered",
    "system.started",
    "system.recovered",
    "system.degraded",
    "system.stopping",
    "task.plan.created",
    "task.closed",
    "pr.created",
    "pr.updated",
    "pr.changes.requested",
    "pr.merged",
    "deploy.requested",
    "deploy.completed",
    "deploy.failed",
    "verify.passed",
    "verify.failed",
    "audit.requested",
    "audit.finding",
    "audit.completed",
    "agent.escalation",
]

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
IDS = st.text(string.ascii_letters + string.digits, min_size=1, max_size=20)
MOMENTS = st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - bounds
SPECS = st.builds(
    lambda task_id, env: task_spec(task_id, env=env, command=["a", "b"], landing={"branch": "x"}),
    IDS,
    st.dictionaries(
        st.from_regex(r"[A-Z]{1,9}", fullmatch=True), TEXT.map(lambda text: text.replace("\0", ""))
    ),
)
st.register_type_strategy(str, TEXT)
st.register_type_strategy(float, st.floats(allow_nan=False, allow_infinity=False))


def events() -> st.SearchStrategy[Event]:
    """Return any event with any content."""

    def build(kind: type[Event]) -> st.SearchStrategy[Event]:
        fields: dict[str, st.SearchStrategy[Any]] = {}
        for name, field in kind.model_fields.items():
            if name in {"task_id", "agent_id"}:
                fields[name] = IDS if field.is_required() else st.none()
            elif field.annotation is TaskSpec:
                fields[name] = SPECS
            elif any(part in str(field.annotation) for part in ("datetime", "AwareDatetime")):
                fields[name] = MOMENTS if field.is_required() else st.none() | MOMENTS
            elif name == "max_concurrent":
                fields[name] = st.none() | st.integers(1, 100)
        return st.builds(kind, **fields)

    return st.sampled_from(sorted(EVENTS.values(), key=lambda kind: kind.name)).flatmap(build)


@given(event=events())
@settings(max_examples=300)
def test_every_event_survives_a_round_trip_through_json(event: Event) -> None:
    text = json.dumps({**event.payload(), "taskId": event.task_id, "agentId": event.agent_id})
    assert EVENTS[event.name].parse(text) == event


@given(event=events())
def test_an_event_with_fields_of_a_later_version_is_read_without_them(event: Event) -> None:
    later = with_more({**event.payload(), "taskId": event.task_id, "agentId": event.agent_id})
    assert EVENTS[event.name].parse(json.dumps(later)) == event


def with_more(value: Any) -> Any:  # noqa: ANN401 - any JSON
    """Return the JSON with a further field in every object but those whose keys are the client's."""
    if isinstance(value, dict):
        more = {name: inside if name == "env" else with_more(inside) for name, inside in value.items()}
        return more | {"fieldOfALaterVersion": {"x": 1}}
    return [with_more(inside) for inside in value] if isinstance(value, list) else value


def test_every_name_is_one_of_the_contract() -> None:
    assert set(EVENTS) <= set(PROMISED)
    assert len(set(PROMISED)) == len(PROMISED)


def test_every_event_is_about_a_task_an_agent_or_the_whole() -> None:
    for name, kind in EVENTS.items():
        if name.partition(".")[0] in {"queue", "control", "system", "provider"}:
            assert not issubclass(kind, TaskEvent | AgentEvent)
        else:
            assert issubclass(kind, TaskEvent | AgentEvent)


def test_data_is_camel_case_without_the_ids_and_without_what_is_unset() -> None:
    event = TaskRetryScheduled.model_validate(
        {"taskId": "t", "agentId": "a", "nextAgentId": "b", "attempt": 2, "at": NOON}
    )
    assert event.payload() == {"nextAgentId": "b", "attempt": 2, "at": "2026-01-31T12:00:00.000Z"}
    assert GatePassed.model_validate({"taskId": "t", "agentId": "a", "verdict": VERDICT}).payload() == {
        "verdict": {
            "gate": "tests",
            "approved": True,
            "message": "3 tests passed",
            "commit": "c0ffee",
            "round": 1,
            "command": ["make"],
            "durationMs": 0.0,
            "outputTail": "",
        }
    }


def test_a_client_is_held_to_the_fields_that_the_journal_is_lenient_about() -> None:
    event = TaskSubmitted.model_validate({"taskId": "t", "spec": task_spec()})
    later = json.loads(event.model_dump_json())
    later["spec"]["options"]["later"] = 1
    assert TaskSubmitted.parse(json.dumps(later)) == event
    with pytest.raises(ValueError, match="later"):
        TaskSpec.model_validate(later["spec"])


def test_an_event_cannot_be_changed() -> None:
    event = TaskSubmitted.model_validate({"taskId": "t", "spec": task_spec()})
    with pytest.raises(ValueError, match="frozen"):
        event.task_id = "u"  # type: ignore[assignment, misc]


def test_moments_of_events_are_cut_to_what_is_written_down() -> None:
    assert Moment is not datetime
    at = NOON.replace(microsecond=123_987)
    event = TaskRetryScheduled.model_validate(
        {"taskId": "t", "agentId": "a", "nextAgentId": "b", "attempt": 2, "at": at}
    )
    assert event.at == NOON.replace(microsecond=123_000)
