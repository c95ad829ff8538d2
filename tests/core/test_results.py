"""What an agent gives as its result fits its role's schema to the letter, or is refused in words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator.core.result import MAX_RESULT_BYTES, RESULT_NEEDED, RESULTS, parse_result, result_in
from orchestrator.core.spec import Role
from orchestrator.errors import ResultMalformed

PLAN: dict[str, Any] = {
    "summary": "s",
    "affectedFiles": [{"path": "a.py", "action": "modify", "description": "d"}],
    "steps": ["one"],
    "testingStrategy": "t",
    "risks": [],
    "estimatedComplexity": "simple",
}
REVIEW: dict[str, Any] = {"verdict": "approve", "confidence": 0.9, "summary": "s", "findings": []}
CHECK: dict[str, Any] = {"name": "n", "passed": True, "steps": "s", "expected": "e", "actual": "a"}
VERIFICATION: dict[str, Any] = {"verdict": "passed", "summary": "s", "checks": [CHECK]}
FINDING: dict[str, Any] = {
    "severity": "low",
    "category": "ux",
    "title": "t",
    "description": "d",
    "steps": "s",
    "path": None,
}
AUDIT: dict[str, Any] = {"summary": "s", "findings": [FINDING]}
WORK: dict[str, Any] = {"summary": "s", "tests": "t"}


def parsed(role: Role, value: object) -> dict[str, Any]:
    return parse_result(role, json.dumps(value).encode()).model_dump(mode="json", exclude_none=True)


def test_every_role_has_a_schema_and_four_need_a_result() -> None:
    assert set(RESULTS) == set(Role)
    assert {role.value for role in RESULT_NEEDED} == {"starter", "reviewer", "verifier", "auditor"}


@pytest.mark.parametrize(
    ("role", "value"),
    [
        (Role.STARTER, PLAN),
        (Role.STARTER, PLAN | {"route": "closed", "resolution": "duplicate", "affectedFiles": []}),
        (Role.REVIEWER, REVIEW),
        (Role.REVIEWER, REVIEW | {"confidence": 1}),
        (Role.VERIFIER, VERIFICATION),
        (Role.AUDITOR, AUDIT),
        (Role.WORKER, WORK),
        (Role.DEPLOYER, WORK | {"decisions": ["d"], "openPoints": ["o"]}),
    ],
)
def test_what_fits_is_taken_field_by_field(role: Role, value: dict[str, Any]) -> None:
    taken = parsed(role, value)
    assert taken.items() >= {key: item for key, item in value.items() if key != "findings"}.items()


@pytest.mark.parametrize(
    ("role", "value", "why"),
    [
        (Role.STARTER, PLAN | {"estimatedComplexity": "huge"}, "estimatedComplexity: "),
        (Role.STARTER, {**PLAN, "affectedFiles": [{"path": "a"}]}, "affectedFiles.0.action: Field required"),
        (Role.STARTER, PLAN | {"route": "closed"}, "resolution is needed where route is closed"),
        (Role.STARTER, PLAN | {"resolution": "invalid"}, "resolution is needed where route is closed"),
        (Role.REVIEWER, REVIEW | {"confidence": 1.01}, "confidence: "),
        (Role.REVIEWER, REVIEW | {"confidence": -0.1}, "confidence: "),
        (Role.REVIEWER, REVIEW | {"confidence": "0.9"}, "confidence: "),
        (Role.REVIEWER, REVIEW | {"approved": True}, "approved: Extra inputs"),
        (Role.VERIFIER, VERIFICATION | {"verdict": "failed"}, "verdict must be passed where every check"),
        (Role.VERIFIER, VERIFICATION | {"checks": []}, "checks: "),
        (Role.AUDITOR, {"summary": "s", "findings": [FINDING | {"category": "style"}]}, "category: "),
        (Role.AUDITOR, AUDIT | {"summary": " "}, "summary: "),
        (Role.AUDITOR, {"summary": "s", "findings": [FINDING] * 101}, "findings: "),
        (Role.WORKER, [], "the object: "),
        (Role.TESTER, WORK | {"summary": "x" * 9000}, "summary: "),
    ],
)
def test_what_does_not_fit_is_refused_by_the_name_of_the_field(role: Role, value: object, why: str) -> None:
    with pytest.raises(ResultMalformed) as refused:
        parsed(role, value)
    assert why in refused.value.detail


@pytest.mark.parametrize(
    "written",
    [b"", b"{", b"\xff", b"[" * 40_000, b'{"summary": NaN, "tests": "t"}', b'"\\ud800"', b"{" * 100 + b"}"],
)
def test_what_is_no_json_is_refused(written: bytes) -> None:
    with pytest.raises(ResultMalformed):
        parse_result(Role.WORKER, written)


def test_confidence_that_is_no_number_is_refused() -> None:
    for word in ("NaN", "Infinity", "-Infinity", "1e999"):
        text = json.dumps(REVIEW).replace("0.9", word)
        with pytest.raises(ResultMalformed):
            parse_result(Role.REVIEWER, text.encode())


def test_result_that_is_too_long_is_refused_unread() -> None:
    with pytest.raises(ResultMalformed, match="more than"):
        parse_result(Role.WORKER, b"{" + b" " * MAX_RESULT_BYTES)


def test_texts_of_a_result_are_harmless() -> None:
    taken = parsed(Role.WORKER, {"summary": "\x1b[31mred\u202e\x00\nline", "tests": "t"})
    assert taken["summary"] == "red\\u202e\\x00\nline"
    path = parsed(Role.AUDITOR, {"summary": "s", "findings": [FINDING | {"title": "a\nb"}]})
    assert path["findings"][0]["title"] == "a\\x0ab"


def test_complaint_about_a_result_is_bounded_and_harmless() -> None:
    wrong = {f"\x1b[31m\u202e{number}": 1 for number in range(500)}
    with pytest.raises(ResultMalformed) as refused:
        parsed(Role.WORKER, wrong)
    assert len(refused.value.detail) < 4000
    assert "\x1b" not in refused.value.detail
    assert "and 4" in refused.value.detail


def test_block_that_ends_a_message_is_found_and_no_other() -> None:
    assert result_in('Done.\n\n```json\n{"a": 1}\n```\n \n') == b'{"a": 1}\n'
    assert result_in('```json\n{"a": 1}\n```\nand\n```json\n{"b": 2}\n```') == b'{"b": 2}\n'
    for message in ("", "Done.", "```json\n{}\n```\nmore", "```\n{}\n```", "{}\n```", "```"):
        assert result_in(message) is None
