"""What an agent says it came to: one schema a role, strict and bounded, and the way to find it in words.

Pure. The invariant: a value of these was written exactly as its role's prompt asks, is no longer than
`MAX_RESULT_BYTES` as JSON, and its texts hold nothing that a terminal obeys. It is the agent's word, never a
proof: nothing is approved, landed or passed because of it alone. Callers: `supervise.outcome`, which reads
and journals it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, ValidationError, model_validator
from pydantic_core import ErrorDetails, from_json

from orchestrator.core.spec import Role, Wire
from orchestrator.core.text import cleaned, escaped
from orchestrator.errors import ResultMalformed

#: Of a result, as it was written.
MAX_RESULT_BYTES = 48 * 1024
#: Of what is told about a malformed one.
_MAX_TROUBLES = 10
_FENCE = "```"

Line = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=400), AfterValidator(escaped)
]
Text = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=8000), AfterValidator(cleaned)
]
Lines = Annotated[tuple[Text, ...], Field(max_length=100)]
Severity = Literal["low", "medium", "high", "critical"]
Category = Literal["bug", "ux", "performance", "security", "accessibility"]
Confidence = Annotated[float, Field(ge=0.0, le=1.0)]


class PlannedChange(Wire):
    """One file that a plan touches; `path` as the repository has it."""

    path: Line
    action: Literal["create", "modify", "delete"]
    description: Text


class Plan(Wire):
    """A starter's plan, and who goes on with it: `route` `closed` says that nobody need, and why."""

    summary: Text
    affected_files: Annotated[tuple[PlannedChange, ...], Field(max_length=200)]
    steps: Lines
    testing_strategy: Text
    risks: Lines
    estimated_complexity: Literal["simple", "medium", "complex"]
    route: Literal["coding", "auditor", "deployer", "closed"] = "coding"
    resolution: Literal["already_resolved", "duplicate", "invalid", "wont_fix", "no_action_needed"] | None = (
        None
    )

    @model_validator(mode="after")
    def _closed_for_a_reason(self) -> Self:
        if (self.route == "closed") != (self.resolution is not None):
            raise ValueError("resolution is needed where route is closed, and nowhere else")
        return self


class ReviewFinding(Wire):
    """What a reviewer found, and where; `line` counts from 1."""

    severity: Severity
    category: Category
    path: Line | None = None
    line: Annotated[int, Field(ge=1, le=10**7)] | None = None
    message: Text


class Review(Wire):
    """A reviewer's verdict; `confidence` (0.0 to 1.0) is how sure it is that the change is right."""

    verdict: Literal["approve", "request_changes"]
    confidence: Confidence
    summary: Text
    findings: Annotated[tuple[ReviewFinding, ...], Field(max_length=100)]


class Check(Wire):
    """One thing that a verifier tried."""

    name: Line
    passed: bool
    steps: Text
    expected: Text
    actual: Text


class Verification(Wire):
    """Whether what was asked for works; one check that failed is a failure."""

    verdict: Literal["passed", "failed"]
    summary: Text
    checks: Annotated[tuple[Check, ...], Field(min_length=1, max_length=100)]

    @model_validator(mode="after")
    def _verdict_of_the_checks(self) -> Self:
        if (self.verdict == "passed") != all(check.passed for check in self.checks):
            raise ValueError("verdict must be passed where every check passed, and failed where one did not")
        return self


class AuditFinding(Wire):
    """One issue that an auditor found, for somebody who has not seen it."""

    severity: Severity
    category: Category
    title: Line
    description: Text
    steps: Text
    path: Line | None = None


class Audit(Wire):
    """What an auditor looked at, and found."""

    summary: Text
    findings: Annotated[tuple[AuditFinding, ...], Field(max_length=100)]


class WorkSummary(Wire):
    """What somebody who changed the repository did, decided, and leaves to others."""

    summary: Text
    tests: Text
    decisions: Lines = ()
    open_points: Lines = ()


#: The schema of a role's result.
RESULTS: Mapping[Role, type[Wire]] = MappingProxyType(
    {
        Role.WORKER: WorkSummary,
        Role.CODING: WorkSummary,
        Role.TESTER: WorkSummary,
        Role.DEPLOYER: WorkSummary,
        Role.STARTER: Plan,
        Role.REVIEWER: Review,
        Role.VERIFIER: Verification,
        Role.AUDITOR: Audit,
    }
)
#: Roles whose result is their work.
RESULT_NEEDED = frozenset({Role.STARTER, Role.REVIEWER, Role.VERIFIER, Role.AUDITOR})


def parse_result(role: Role, written: bytes) -> Wire:
    """Return the result that the JSON says; raises `ResultMalformed` with what is wrong, field by field."""
    if len(written) > MAX_RESULT_BYTES:
        raise ResultMalformed(f"it has more than {MAX_RESULT_BYTES} bytes")
    try:
        from_json(written, allow_inf_nan=False)
        return RESULTS[role].model_validate_json(written)
    except ValidationError as error:
        found = [_told(trouble) for trouble in error.errors(include_url=False, include_context=False)]
        more = f"; and {len(found) - _MAX_TROUBLES} more" if len(found) > _MAX_TROUBLES else ""
        told = escaped("; ".join(trouble[:200] for trouble in found[:_MAX_TROUBLES]) + more)
        raise ResultMalformed(told) from None
    except ValueError as error:
        raise ResultMalformed(f"it is no JSON: {escaped(str(error))[:200]}") from None


def _told(trouble: ErrorDetails) -> str:
    where = ".".join(map(str, trouble["loc"])) or "the object"
    return f"{where}: {trouble['msg'].removeprefix('Value error, ')}"


def result_in(message: str) -> bytes | None:
    """Return the JSON of the fenced block that a message ends with; None where it ends otherwise."""
    text = message.rstrip()
    if not text.endswith("\n" + _FENCE):
        return None
    _, opened, block = text.removesuffix(_FENCE).rpartition(_FENCE + "json\n")
    return block.encode(errors="replace") if opened else None
