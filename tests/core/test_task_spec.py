"""What a client may ask for: every bound holds, and every refusal names its field."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from orchestrator.core.spec import (
    MAX_ARGUMENT,
    MAX_INSTRUCTIONS,
    TASK_ID,
    GateProfile,
    TaskSpec,
    branch_trouble,
)

URL = "https://example.org/r.git"
#: The example of the contract, whole, and what came later.
FULL = {
    "taskId": "US-001.3",
    "agentType": "worker",
    "gateProfile": "standard",
    "gates": ["tests"],
    "priority": 5,
    "context": {
        "repository": URL,
        "branch": "main",
        "workItems": ["US-001"],
        "skills": ["typescript"],
        "instructions": "Do\nit.\t\U0001f600",
    },
    "options": {
        "sandbox": True,
        "timeout": 3600,
        "maxRetries": 3,
        "runtime": "claude-code",
        "model": "a-model",
        "command": ["./agent.sh", "", "--x=\n"],
        "env": {"X": "1"},
        "budget": {"costUsd": 5, "tokens": 2000000, "turns": 50},
        "resources": {"memoryMb": 4096, "cpus": 1, "pids": 512, "diskMb": 10240},
        "deadlines": {"bootSeconds": 60, "turnSeconds": 0, "stallSeconds": 300},
        "network": {"allow": ["pypi"]},
        "landing": {"branch": "agent/US-001.3", "pullRequest": True, "target": "main"},
        "terminal": {"idleSeconds": 5.0, "idleMarker": "> ", "submit": "\r", "columns": 120, "rows": 40},
    },
}


def with_field(path: str, value: object) -> dict[str, Any]:
    """Return a small task with one field, named as on the wire, set to the value."""
    body: dict[str, Any] = {"taskId": "t", "context": {"repository": URL}}
    *parents, last = path.split(".")
    inside = body
    for name in parents:
        inside = inside.setdefault(name, {})
    inside[last] = value
    return body


def refused_at(body: object) -> list[str]:
    """Return the fields that validation complains about."""
    with pytest.raises(ValidationError) as caught:
        TaskSpec.model_validate(body)  # the API parses JSON by itself, more strictly
    return [".".join(str(part) for part in error["loc"]) for error in caught.value.errors()]


def test_the_example_of_the_contract_is_taken_and_survives_a_round_trip() -> None:
    spec = TaskSpec.model_validate(FULL)
    assert TaskSpec.model_validate_json(spec.model_dump_json()) == spec
    assert json.loads(spec.model_dump_json()) == FULL


def test_what_is_left_out_has_the_defaults_of_the_contract() -> None:
    spec = TaskSpec.model_validate(with_field("priority", 5))
    assert (spec.agent_type, spec.profile, spec.context.branch) == ("worker", "standard", "main")
    assert (spec.options.max_retries, spec.options.sandbox, spec.landing_branch) == (3, True, "agent/t")


@pytest.mark.parametrize(
    ("role", "profile"),
    [
        ("worker", "standard"),
        ("reviewer", "strict"),
        ("tester", "minimal"),
        ("coding", "standard"),
        ("auditor", "standard"),
    ],
)
def test_a_role_has_its_profile_unless_the_task_names_one(role: str, profile: str) -> None:
    assert TaskSpec.model_validate(with_field("agentType", role)).profile == profile
    named = with_field("agentType", role) | {"gateProfile": "minimal"}
    assert TaskSpec.model_validate(named).profile is GateProfile.MINIMAL


NAUGHTY_TASK_IDS = [
    "",
    ".",
    "..",
    "a..b",
    "../x",
    "a/b",
    "a\\b",
    "-x",
    "_x",
    ":x",
    " x",
    "x ",
    "x\n",
    "x\r",
    "x\ny",
    "\nx",
    "x\x00",
    "x\x1b[31m",
    "x\x7f",
    "é",
    "\u0445",  # a Cyrillic letter that looks like an x
    "x\u202e",
    "x\u2028",
    "\ud800",
    "x" * 129,
    "x@y",
    "x=y",
    "x+y",
    "x y",
    "$(id)",
]


@pytest.mark.parametrize("task_id", NAUGHTY_TASK_IDS)
def test_a_naughty_task_id_is_refused_by_name(task_id: str) -> None:
    assert refused_at(with_field("taskId", task_id)) == ["taskId"]


@pytest.mark.parametrize(
    ("task_id", "branch"),
    [
        ("a", "agent/a"),
        ("US-001.3", "agent/US-001.3"),
        ("a:b", "agent/a=b"),
        ("a.", "agent/a+"),
        ("a.lock", "agent/a+lock"),
        ("a.lock.", "agent/a.lock+"),
        ("a:lock", "agent/a=lock"),
        ("a.locks", "agent/a.locks"),
        ("HEAD", "agent/HEAD"),
        ("x" * 128, "agent/" + "x" * 128),
        ("x" + ":" * 127, "agent/x" + "=" * 127),
    ],
)
def test_every_task_id_of_the_contract_has_a_branch_to_land_on(task_id: str, branch: str) -> None:
    assert TaskSpec.model_validate(with_field("taskId", task_id)).landing_branch == branch
    assert branch_trouble(branch) is None


@given(task_ids=st.lists(st.from_regex(TASK_ID, fullmatch=True), min_size=2, max_size=2, unique=True))
def test_two_tasks_never_land_on_the_same_branch(task_ids: list[str]) -> None:
    specs = [TaskSpec.model_validate(with_field("taskId", name)) for name in task_ids if ".." not in name]
    branches = [spec.landing_branch for spec in specs]
    assert len(set(branches)) == len(branches)
    assert not any(map(branch_trouble, branches))


NAUGHTY_BRANCHES = [
    "",
    "-x",
    "--upload-pack=x",
    ".x",
    "/x",
    "x/",
    "x//y",
    "x/.y",
    "x..y",
    "x.",
    "x.lock",
    "x.lock/y",
    "@",
    "HEAD",
    "x@{0}",
    "x y",
    "x~1",
    "x^",
    "x:y",
    "x?",
    "x*",
    "x[a]",
    "x\\y",
    "x\n",
    "x\x00",
    "x\x1b",
    "é",
    "x" * 201,
    "\ud800",
]


@pytest.mark.parametrize("field", ["context.branch", "options.landing.branch", "options.landing.target"])
@pytest.mark.parametrize("branch", NAUGHTY_BRANCHES)
def test_a_naughty_branch_is_refused_by_name(field: str, branch: str) -> None:
    assert refused_at(with_field(field, branch)) == [field]


@pytest.mark.parametrize("branch", ["main", "a/b/c", "feature/x_1", "v1.2", "a/-b", "x@y", "a+b=c#d", "_"])
def test_an_ordinary_branch_is_taken_by_us_and_by_git(branch: str) -> None:
    assert branch_trouble(branch) is None
    assert subprocess.run(["git", "check-ref-format", f"refs/heads/{branch}"], check=False).returncode == 0


@given(name=st.text(alphabet="ab./-_@+#=", min_size=1, max_size=12))
def test_what_we_take_for_a_branch_git_takes_too(name: str) -> None:
    if branch_trouble(name) is None:
        assert not re.search(r"(^|/)\.|\.\.|//|\.lock(/|$)|[./]$|^@$|@\{|^-", name)


OUT_OF_BOUNDS: list[tuple[str, object]] = [
    ("priority", 0),
    ("priority", 11),
    ("priority", True),
    ("priority", "5"),
    ("priority", 5.5),
    ("agentType", "boss"),
    ("gateProfile", "lax"),
    ("context.repository", ""),
    ("context.repository", "x" * 2001),
    ("context.repository", "https://h/r\n"),
    ("context.repository", "https://h/\x1b"),
    ("context.repository", 5),
    ("context.instructions", "x" * (MAX_INSTRUCTIONS + 1)),
    ("context.instructions", "\x00"),
    ("context.instructions", "\ud800"),
    ("context.workItems", ["x"] * 257),
    ("context.skills", ["x"] * 65),
    ("context.skills", "typescript"),
    ("options.timeout", 0),
    ("options.deadlines.stallSeconds", -1),
    ("options.timeout", 7 * 24 * 3600 + 1),
    ("options.maxRetries", -1),
    ("options.maxRetries", 101),
    ("options.sandbox", "yes"),
    ("options.runtime", "Command"),
    ("options.runtime", "a" * 33),
    ("options.runtime", "command\n"),
    ("options.model", "-x"),
    ("options.model", "m\n"),
    ("options.command", []),
    ("options.command", [""]),
    ("options.command", ["x"] * 257),
    ("options.command", "ls"),
    ("options.env", {f"X{number}": "" for number in range(65)}),
    ("options.env", {"a b": ""}),
    ("options.env", {"X\n": ""}),
    ("options.env", {"1X": ""}),
    ("options.env", {"": ""}),
    ("options.env", {"X" * 129: ""}),
    ("options.env", {"ORCHESTRATOR_TASK_ID": "x"}),
    ("options.budget.costUsd", 0),
    ("options.budget.costUsd", 1e7),
    ("options.budget.tokens", 0),
    ("options.budget.tokens", 10**13),
    ("options.budget.turns", 0),
    ("options.resources.memoryMb", 15),
    ("options.resources.memoryMb", 10**12),
    ("options.resources.cpus", 0),
    ("options.resources.pids", 7),
    ("options.resources.diskMb", 0),
    ("options.network.allow", ["pypi"] * 65),
    ("options.landing.pullRequest", 1),
]


@pytest.mark.parametrize(("field", "value"), OUT_OF_BOUNDS)
def test_a_value_out_of_bounds_is_refused_by_name(field: str, value: object) -> None:
    assert refused_at(with_field(field, value)) == [field]


@pytest.mark.parametrize(
    ("field", "value", "where"),
    [
        ("context.workItems", ["ok", "x\n"], "context.workItems.1"),
        ("context.workItems", [""], "context.workItems.0"),
        ("context.skills", ["x" * 201], "context.skills.0"),
        ("context.skills", ["x\x85"], "context.skills.0"),
        ("gates", ["tests", "Tests"], "gates.1"),
        ("gates", ["tests\n"], "gates.0"),
        ("options.command", ["ls", "x" * (MAX_ARGUMENT + 1)], "options.command.1"),
        ("options.command", ["ls", "a\x00b"], "options.command.1"),
        ("options.env", {"X": "x" * (MAX_ARGUMENT + 1)}, "options.env.X"),
        ("options.env", {"X": "\x00"}, "options.env.X"),
        ("options.env", {"X": "\ud800"}, "options.env.X"),
        ("options.env", {"X": 1}, "options.env.X"),
        ("options.network.allow", ["h\n"], "options.network.allow.0"),
        ("options.network.allow", ["x" * 254], "options.network.allow.0"),
    ],
)
def test_a_bad_element_is_refused_by_its_place(field: str, value: object, where: str) -> None:
    assert refused_at(with_field(field, value)) == [where]


@pytest.mark.parametrize(
    "field",
    [
        "x",
        "context.x",
        "options.x",
        "options.budget.x",
        "options.resources.x",
        "options.network.x",
        "options.landing.x",
    ],
)
def test_an_unknown_field_is_refused_by_name(field: str) -> None:
    assert refused_at(with_field(field, 1)) == [field]


@pytest.mark.parametrize("field", ["taskId", "context", "context.repository"])
def test_a_missing_field_is_named(field: str) -> None:
    body = with_field("priority", 5)
    *parents, last = field.split(".")
    inside = body
    for name in parents:
        inside = inside[name]
    del inside[last]
    assert refused_at(body) == [field]


def test_a_custom_profile_needs_its_gates_and_an_empty_list_is_a_choice() -> None:
    custom = with_field("gateProfile", "custom")
    assert refused_at(custom) == ["gates"]
    assert TaskSpec.model_validate(custom | {"gates": []}).gates == ()


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_a_number_that_is_none_is_refused_by_name(number: str) -> None:
    text = json.dumps(with_field("options.budget.costUsd", "#")).replace('"#"', number)
    with pytest.raises(ValidationError, match=r"options\.budget\.costUsd"):
        TaskSpec.model_validate_json(text)


def test_the_longest_argument_and_variable_fit_what_linux_takes() -> None:
    wide = "\U0001f600" * MAX_ARGUMENT
    spec = TaskSpec.model_validate(with_field("options.command", ["true", wide]))
    assert spec.options.command is not None
    variable = "X" * 128
    env = {variable: wide, "PATH": "/usr/bin:/bin"}
    done = subprocess.run(list(spec.options.command), env=env, check=False)
    assert done.returncode == 0
