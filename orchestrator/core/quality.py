"""What is asked of a quality coordinator, what its answer means, and how long to wait for it.

Pure. The invariant: only an answer that says `approved: true` in every letter of the contract approves;
whatever else comes is a rejection whose reason has a name, and nothing of it is longer than its ceiling or
holds a character that a terminal obeys. Callers: `gates.coordinator` asks, `orchestrator.coordinator`
answers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator

from orchestrator.core.model import Verdict
from orchestrator.core.spec import (
    GATE_NAME,
    PRINTABLE,
    TASK_ID,
    BranchName,
    GateProfile,
    Wire,
    branch_trouble,
)
from orchestrator.core.strict_json import Json, NotJson, parse_object
from orchestrator.core.text import cleaned
from orchestrator.errors import OrchestratorError

#: The gate of a verdict where the coordinator names none.
COORDINATOR = "coordinator"
#: How often a coordinator is asked before it counts as unavailable.
TRIES = 5
FIRST_PAUSE_S = 1.0
#: The longest that it may put us off by Retry-After, where the operator's patience is no longer.
MAX_RETRY_AFTER_S = 60.0
#: A question may come as slowly as that: the time for one is that for any other, and this beside it.
UPLOAD_BYTES_PER_S = 64 * 1024
#: Names of changed files that it is told; how many there are is in the summary.
MAX_FILES = 2000
MAX_FILE_CHARACTERS = 500
#: Bytes of an answer, and characters of what is kept of it.
MAX_ANSWER_BYTES = 1024 * 1024
MAX_MESSAGE = 2000
MAX_DETAILS = 8 * 1024
#: A commit of ours as it is sent: a git bundle of what the base lacks, in base64.
MAX_BUNDLE_BYTES = 16 * 1024 * 1024
_COMMIT = r"^[0-9a-f]{40}$"
_SECONDS = re.compile(r"([0-9]{1,9})(?:\.[0-9]{1,9})?")
_DATE = re.compile(r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT")

CommitId = Annotated[str, StringConstraints(pattern=_COMMIT)]
FileName = Annotated[str, StringConstraints(min_length=1, max_length=MAX_FILE_CHARACTERS)]


class CoordinatorUnavailable(OrchestratorError):
    """The quality coordinator did not answer."""

    retryable = True
    code = "coordinator_unavailable"
    status = 502
    reason = "gate_rejected"


class CoordinatorAnswerBad(OrchestratorError):
    """The quality coordinator gave an answer that cannot be relied on."""

    code = "coordinator_bad_answer"
    status = 502
    reason = "gate_rejected"


class DiffSummary(Wire):
    """How much a candidate changes."""

    files: Annotated[int, Field(ge=0)]
    additions: Annotated[int, Field(ge=0)]
    deletions: Annotated[int, Field(ge=0)]


class QualityCheck(Wire):
    """The question whether a candidate may go on."""

    task_id: Annotated[str, StringConstraints(pattern=TASK_ID)]
    agent_id: Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=PRINTABLE)]
    phase: Literal["pre-commit", "post-commit"]
    gate_profile: Annotated[GateProfile, Field(strict=False)]
    #: Those that the task names beside its profile; all there are where that is `custom`.
    gates: Annotated[
        tuple[Annotated[str, StringConstraints(pattern=GATE_NAME)], ...], Field(max_length=32, strict=False)
    ] = ()
    repository: Annotated[str, StringConstraints(min_length=1, max_length=2000, pattern=PRINTABLE)]
    branch: BranchName
    commit: CommitId
    files: Annotated[tuple[FileName, ...], Field(max_length=MAX_FILES, strict=False)]
    diff_summary: DiffSummary
    ai_share: Annotated[float, Field(ge=0, le=1)] | None
    #: Told only to a coordinator that says by its `/health` that it takes them: the commit that the candidate
    #: grew from, where it would land, as that commit may be there, and the candidate itself.
    base: CommitId | None = None
    landing_branch: BranchName | None = None
    bundle: Annotated[str, StringConstraints(max_length=MAX_BUNDLE_BYTES * 4 // 3 + 4)] | None = None

    @field_validator("branch", "landing_branch")
    @classmethod
    def _plain_branch(cls, value: str | None) -> str | None:
        if value is not None and (trouble := branch_trouble(value)):
            raise ValueError(trouble)
        return value

    def body(self) -> bytes:
        """Return the question as it is sent."""
        extra = {name for name in ("base", "landing_branch", "bundle") if getattr(self, name) is None}
        return self.model_dump_json(exclude=extra).encode()


@dataclass(frozen=True, slots=True)
class Opinion:
    """An answer that keeps to the contract, cleaned and cut."""

    approved: bool
    gate: str
    message: str
    #: What it told beside, as text.
    details: str
    confidence: float | None
    #: Whether it says that nothing the agent could do would change a rejection.
    lasting: bool = False


def read_opinion(content: bytes) -> Opinion:
    """Return what an answer of status 200 says; raises `CoordinatorAnswerBad`. Unknown fields are ignored."""
    try:
        answer = parse_object(content)
    except NotJson as error:
        raise CoordinatorAnswerBad(f"its answer is no JSON object: {error}") from None
    approved = answer.get("approved")
    if not isinstance(approved, bool):
        raise CoordinatorAnswerBad("its answer does not say `approved` as true or false")
    gate, message, details = (_typed(answer, *field) for field in _OPTIONAL)
    return Opinion(
        approved=approved,
        gate=gate if gate and re.fullmatch(GATE_NAME, gate) else COORDINATOR,
        message=_clipped(message or "", MAX_MESSAGE),
        details=_clipped(_rendered(details or {}), MAX_DETAILS),
        confidence=_confidence(answer),
        lasting=(details or {}).get("lasting") is True,
    )


_OPTIONAL: tuple[tuple[str, type, str], ...] = (
    ("gate", str, "a text"),
    ("message", str, "a text"),
    ("details", dict, "an object"),
)


def _typed(answer: Json, name: str, kind: type, word: str) -> Any:  # noqa: ANN401 - what the field is
    value = answer.get(name)
    if value is not None and not isinstance(value, kind):
        raise CoordinatorAnswerBad(f"`{name}` in its answer is not {word}")
    return value


def _confidence(answer: Json) -> float | None:
    value = answer.get("confidence")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise CoordinatorAnswerBad("`confidence` in its answer is not a number from 0 to 1")
    return float(value)


def _rendered(details: Json) -> str:
    """Return the details as a person reads them: what is text as it stands, under its name."""
    parts = []
    for name, value in details.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        parts.append(f"{name}:\n{text}" if "\n" in text else f"{name}: {text}")
    return "\n".join(parts)


def _clipped(text: str, limit: int) -> str:
    text = cleaned(text[: 4 * limit]).strip()
    return text if len(text) <= limit else text[: limit - 1] + "…"


def verdict_of(opinion: Opinion, *, commit: str, number: int, duration_ms: float) -> Verdict:
    """Return an opinion as the verdict of a gate, told to be the coordinator's; `number` is the round."""
    said = opinion.message or ("approved" if opinion.approved else "rejected, and it does not say why")
    sure = "" if opinion.confidence is None else f" (confidence {opinion.confidence:.2f})"
    return Verdict(
        gate=opinion.gate,
        approved=opinion.approved,
        message=f"coordinator: {said}{sure}",
        commit=commit,
        round=number,
        duration_ms=round(duration_ms, 1),
        lasting=opinion.lasting,
        output_tail=opinion.details,
    )


def refused(error: str, *, commit: str, number: int, duration_ms: float) -> Verdict:
    """Return the rejection that no answer, or a bad one, comes to; `error` begins with the reason's name."""
    return Verdict(
        gate=COORDINATOR,
        approved=False,
        message=error[:MAX_MESSAGE],
        commit=commit,
        round=number,
        duration_ms=round(duration_ms, 1),
    )


_NOTHING: Mapping[str, str] = MappingProxyType({})


def answer_of(verdicts: Sequence[Verdict], left_out: Mapping[str, str] = _NOTHING) -> dict[str, Any]:
    """Return the answer that verdicts come to; a rejection speaks for all.

    `left_out` says why a gate of the profile was not run, by its name.
    """
    refusals = [verdict for verdict in verdicts if not verdict.approved]
    details: dict[str, Any] = {gate: f"not run: {why}" for gate, why in left_out.items()}
    answer = {"approved": not refusals, "gate": COORDINATOR, "confidence": 1.0, "details": details}
    if not verdicts:
        return {**answer, "message": "this phase has no gate for this task"}
    spokesman = (refusals or list(verdicts))[0]
    details |= {verdict.gate: verdict.message for verdict in verdicts}
    if any(verdict.lasting for verdict in refusals):
        details["lasting"] = True
    if spokesman.output_tail:
        details["output"] = spokesman.output_tail
    return {**answer, "gate": spokesman.gate, "message": spokesman.message, "details": details}


def pause_s(
    failures: int,
    chance: float,
    retry_after_s: float | None = None,
    at_most_s: float = MAX_RETRY_AFTER_S,
) -> float | None:
    """Return the seconds to wait after so many failed tries, None where there is no further one.

    1, 2, 4, 8 seconds, each up to a quarter shorter or longer as `chance` in [0, 1) says; longer where the
    coordinator asks for it, up to `at_most_s`.
    """
    if failures >= TRIES:
        return None
    pause = FIRST_PAUSE_S * 2.0 ** (max(failures, 1) - 1) * (0.75 + 0.5 * chance)
    return max(pause, min(retry_after_s or 0.0, at_most_s))


def retry_after(text: str | None, now: datetime) -> float | None:
    """Return the seconds that a Retry-After asks for, by their number or by a date of HTTP."""
    text = (text or "").strip()
    if found := _SECONDS.fullmatch(text):
        return float(found[1])
    if not _DATE.fullmatch(text):
        return None
    try:
        then = parsedate_to_datetime(text).replace(tzinfo=UTC)
    except ValueError:  # the 31st of June
        return None
    return max(0.0, (then - now).total_seconds())
