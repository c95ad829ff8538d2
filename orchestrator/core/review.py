"""What a reviewer of a candidate may answer, and what of it is an approval.

Pure. The invariant: only an answer that is wholly as `SCHEMA` asks, whose findings are all at lines that the
change shows, can approve, and it does so only with a confidence of at least `CONFIDENT` and without a finding
that blocks. Whatever else was said is no approval, for a reason that has a name. The words are a model's that
has read what strangers wrote: data, bounded, and free of what a terminal obeys. Caller: `review`.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, StringConstraints, ValidationError
from pydantic_core import ErrorDetails, from_json

from orchestrator.core.patch import FileChange
from orchestrator.core.spec import Wire
from orchestrator.core.text import cleaned, escaped

#: Of an approval, at least (ORCH-122).
CONFIDENT = 0.9
MAX_FINDINGS = 50
MAX_ANSWER_BYTES = 128 * 1024
#: Characters of all findings that are told to the author.
MAX_TOLD = 8 * 1024
_MAX_TROUBLES = 10


class Severity(StrEnum):
    """How much a finding weighs."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


class Category(StrEnum):
    """What a finding is about."""

    LOGIC = "logic"
    SECURITY = "security"
    PRACTICE = "practice"


class Finding(Wire):
    """What is wrong, and where: a line of the new file that the change shows, 0 where it shows none."""

    file: str
    line: int
    severity: Severity
    category: Category
    message: str
    confidence: float

    @property
    def blocks(self) -> bool:
        """Whether nothing is approved beside it: what is grave, and any hole that is more than slight."""
        grave = self.severity in {Severity.HIGH, Severity.CRITICAL}
        return grave or (self.category is Category.SECURITY and self.severity is Severity.MEDIUM)

    def __str__(self) -> str:
        what = f"{self.severity} {self.category} (confidence {self.confidence:g})"
        return f"{escaped(self.file)}:{self.line}: {what}: {self.message}"


class Review(Wire):
    """A reviewer's answer; `confidence` is how sure it is that the change is right as it is."""

    approve: bool
    confidence: float
    summary: str
    findings: tuple[Finding, ...]


class Reviewed(Review):
    """A review with who gave it, as it is kept."""

    model: str


# --- the same as they are asked for, with their bounds: what was kept once is read without them

_Path = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
_Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2000)]
_Confidence = Annotated[float, Field(ge=0.0, le=1.0)]


class _AskedFinding(Finding):
    file: _Path
    line: Annotated[int, Field(ge=0, le=10**9)]
    message: _Text
    confidence: _Confidence

    def kept(self) -> Finding:
        """Return it as it is kept: nothing in it is obeyed by a terminal."""
        return Finding(**{**dict(self), "message": cleaned(self.message)})


class _AskedReview(Review):
    confidence: _Confidence
    summary: _Text
    findings: Annotated[tuple[_AskedFinding, ...], Field(max_length=MAX_FINDINGS)]

    def kept(self) -> Review:
        """Return it as it is kept."""
        findings = tuple(finding.kept() for finding in self.findings)
        return Review(**{**dict(self), "summary": cleaned(self.summary), "findings": findings})


class ReviewMalformed(Exception):
    """The answer is not as it was asked for; says what is wrong, in words of ours."""


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


#: The answer as it is asked for; providers take no bounds in it.
SCHEMA = _object(
    findings={
        "type": "array",
        "items": _object(
            file={"type": "string"},
            line={"type": "integer"},
            severity={"type": "string", "enum": [str(one) for one in Severity]},
            category={"type": "string", "enum": [str(one) for one in Category]},
            message={"type": "string"},
            confidence={"type": "number"},
        ),
    },
    summary={"type": "string"},
    approve={"type": "boolean"},
    confidence={"type": "number"},
)


def parse_review(said: str, changes: Iterable[FileChange]) -> Review:
    """Return the review that an answer is, from its first character to its last; raises `ReviewMalformed`."""
    written = said.strip().encode(errors="replace")
    if not written:
        raise ReviewMalformed("the answer is empty")
    if len(written) > MAX_ANSWER_BYTES:
        raise ReviewMalformed(f"the answer has more than {MAX_ANSWER_BYTES} bytes")
    try:
        from_json(written, allow_inf_nan=False)
        review = _AskedReview.model_validate_json(written).kept()
    except ValidationError as error:
        found = [_told(trouble) for trouble in error.errors(include_url=False, include_context=False)]
        more = f"; and {len(found) - _MAX_TROUBLES} more" if len(found) > _MAX_TROUBLES else ""
        raise ReviewMalformed("; ".join(found[:_MAX_TROUBLES]) + more) from None
    except ValueError as error:
        raise ReviewMalformed(f"the answer is no JSON: {escaped(str(error))[:200]}") from None
    lines = {change.path: change.numbers for change in changes}
    for number, finding in enumerate(review.findings):
        if finding.file not in lines:
            raise ReviewMalformed(f"findings.{number}.file: the change has no such file")
        if finding.line not in lines[finding.file]:
            raise ReviewMalformed(f"findings.{number}.line: the change does not show line {finding.line}")
    return review


def objection(review: Review) -> str | None:
    """Return why a review is no approval; None where it is one."""
    blocking = sum(finding.blocks for finding in review.findings)
    if not review.approve:
        return "the reviewer does not approve"
    if blocking:
        return (
            f"the reviewer approves, and yet has {blocking} finding{'' if blocking == 1 else 's'} that block"
        )
    if not review.confidence >= CONFIDENT:
        return (
            f"the reviewer approves with a confidence of {review.confidence:g} only: {CONFIDENT:g} is needed"
        )
    return None


def told(review: Review) -> str:
    """Return what the author is told of a review: the gravest first, and no more than fits."""
    order = list(Severity)
    findings = sorted(review.findings, key=lambda one: order.index(one.severity), reverse=True)
    lines = [review.summary, *map(str, findings)]
    text = "\n".join(lines)
    return text if len(text) <= MAX_TOLD else text[: MAX_TOLD - 32] + "\n[more was found; cut here]"


def _told(trouble: ErrorDetails) -> str:
    """Return one trouble in words of ours; a name in it may be the answer's own."""
    where = escaped(".".join(map(str, trouble["loc"])) or "the answer")[:100]
    return f"{where}: {escaped(trouble['msg'])[:200]}"
