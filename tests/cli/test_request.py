"""A spawn request is exactly what the file and the flags say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest

from orchestrator.cli.request import MAX_BODY_BYTES, build
from orchestrator.core.spec import TaskSpec

URL = "https://git.example.org/repo.git"


def test_flags_become_the_body_of_the_contract() -> None:
    body = build(
        None,
        {
            "task": "US-1",
            "repository": URL,
            "branch": "main",
            "instructions": "do it",
            "work_item": ("W-1", "W-2"),
            "priority": 9,
            "role": "tester",
            "gate": ("tests",),
            "env": ("A=1", "B=x=y"),
            "timeout": 60,
            "max_retries": 0,
            "landing_branch": "b",
            "command": ("sh", "-c", "true"),
            "model": None,
            "skill": (),
        },
    )
    assert body == {
        "taskId": "US-1",
        "agentType": "tester",
        "gateProfile": "custom",
        "gates": ["tests"],
        "priority": 9,
        "context": {
            "repository": URL,
            "branch": "main",
            "instructions": "do it",
            "workItems": ["W-1", "W-2"],
        },
        "options": {
            "env": {"A": "1", "B": "x=y"},
            "timeout": 60,
            "maxRetries": 0,
            "landing": {"branch": "b"},
            "command": ["sh", "-c", "true"],
            "runtime": "command",
        },
    }
    TaskSpec.model_validate(body)


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "task.json"
    file.write_text(json.dumps({"taskId": "a", "priority": 3, "context": {"repository": URL, "branch": "b"}}))
    body = build(str(file), {"task": "c", "branch": "d"})
    assert body == {"taskId": "c", "priority": 3, "context": {"repository": URL, "branch": "d"}}


def test_missing_task_id_is_made_up_and_fits() -> None:
    made = [build(None, {"repository": URL})["taskId"] for _ in range(2)]
    assert made[0] != made[1]
    TaskSpec.model_validate(build(None, {"repository": URL}))


def test_local_repository_becomes_a_file_url(tmp_path: Path) -> None:
    assert build(None, {"repository": str(tmp_path)})["context"]["repository"] == tmp_path.resolve().as_uri()


def test_instructions_can_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "todo").write_text("Grüße\n")
    body = build(None, {"repository": URL, "instructions": f"@{tmp_path / 'todo'}"})
    assert body["context"]["instructions"] == "Grüße\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"taskId": "a", "taskId": "b"}', "stands twice"),
        (b'{"context": {"branch": 1, "branch": 2}}', "stands twice"),
        (b"[]", "no JSON object"),
        (b"{", "no JSON"),
        (b"\xff", "not UTF-8"),
        (b"{}", "which repository"),
        (b'{"context": 3}', "which repository"),
        (b" " * (MAX_BODY_BYTES + 1), "longer than"),
    ],
    ids=["twice", "twice-inside", "list", "cut", "binary", "empty", "number", "long"],
)
def test_file_that_will_not_do_is_a_usage_error(tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "task.json"
    file.write_bytes(content)
    with pytest.raises(click.UsageError) as refused:
        build(str(file), {})
    assert says in refused.value.format_message()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"env": ("A",)}, "NAME=VALUE"),
        ({"env": ("=1",)}, "NAME=VALUE"),
        ({"instructions": "@/no/such/file"}, "cannot be read"),
    ],
)
def test_flag_that_will_not_do_is_a_usage_error(flags: dict[str, Any], says: str) -> None:
    with pytest.raises(click.UsageError, match=says):
        build(None, {"repository": URL, **flags})


def test_file_that_is_missing_is_a_usage_error() -> None:
    with pytest.raises(click.UsageError, match="cannot be read"):
        build("/no/such/file.json", {})


def test_flag_into_a_field_that_is_no_object_is_a_usage_error(tmp_path: Path) -> None:
    file = tmp_path / "task.json"
    file.write_text(json.dumps({"options": 3, "context": {"repository": URL}}))
    with pytest.raises(click.UsageError, match="options is no object"):
        build(str(file), {"timeout": 3})
