"""What a coordinator's answer means, and how long it is waited for."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.model import Verdict
from orchestrator.core.quality import (
    MAX_DETAILS,
    MAX_MESSAGE,
    TRIES,
    CoordinatorAnswerBad,
    DiffSummary,
    QualityCheck,
    answer_of,
    pause_s,
    read_opinion,
    retry_after,
    verdict_of,
)
from orchestrator.core.spec import GateProfile

SOUND: dict[str, Any] = {"approved": True, "gate": "tests", "message": "m", "details": {}, "confidence": 0.5}


def question(**more: str) -> QualityCheck:
    """Return a question about nothing in particular."""
    return QualityCheck(
        task_id="T-1",
        agent_id="agent",
        phase="pre-commit",
        gate_profile=GateProfile.STANDARD,
        gates=("tests",),
        repository="https://example.org/r.git",
        branch="main",
        commit="c" * 40,
        files=("a.py",),
        diff_summary=DiffSummary(files=1, additions=3, deletions=1),
        ai_share=1.0,
        **more,
    )


def test_question_has_the_fields_of_the_contract_and_no_other() -> None:
    assert json.loads(question().body()) == {
        "taskId": "T-1",
        "agentId": "agent",
        "phase": "pre-commit",
        "gateProfile": "standard",
        "gates": ["tests"],
        "repository": "https://example.org/r.git",
        "branch": "main",
        "commit": "c" * 40,
        "files": ["a.py"],
        "diffSummary": {"files": 1, "additions": 3, "deletions": 1},
        "aiShare": 1.0,
    }
    more = json.loads(question(base="b" * 40, landing_branch="work", bundle="AA==").body())
    assert (more["base"], more["landingBranch"], more["bundle"]) == ("b" * 40, "work", "AA==")


def test_sound_answer_is_taken_as_it_is() -> None:
    verdict = verdict_of(read_opinion(json.dumps(SOUND).encode()), commit="c", number=2, duration_ms=1.23)
    assert (verdict.approved, verdict.gate, verdict.round) == (True, "tests", 2)
    assert verdict.message == "coordinator: m (confidence 0.50)"


def test_answer_may_leave_out_all_but_its_decision() -> None:
    opinion = read_opinion(b'{"approved": false, "new": 1}')
    assert (opinion.approved, opinion.gate) == (False, "coordinator")
    assert "does not say why" in verdict_of(opinion, commit="c", number=1, duration_ms=0).message


def test_verdicts_become_an_answer_in_which_a_rejection_speaks_for_all() -> None:
    good = Verdict(gate="lint", approved=True, message="clean", commit="c")
    bad = Verdict(gate="tests", approved=False, message="no", commit="c", output_tail="why", lasting=True)
    opinion = read_opinion(json.dumps(answer_of([good, bad])).encode())
    assert (opinion.approved, opinion.gate, opinion.message, opinion.lasting) == (False, "tests", "no", True)
    assert "why" in opinion.details
    for none_or_good in ([], [good]):
        opinion = read_opinion(json.dumps(answer_of(none_or_good)).encode())
        assert (opinion.approved, opinion.lasting) == (True, False)


def test_name_that_no_gate_has_is_not_taken() -> None:
    for name in ("Tests; rm -rf", "x" * 65, "", "a\nb"):
        assert read_opinion(json.dumps({**SOUND, "gate": name}).encode()).gate == "coordinator"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "no JSON object"),
        (b"<html>", "no JSON object"),
        (b"[]", "no JSON object"),
        (b"\xff", "not UTF-8"),
        (b'{"approved": true, "approved": false}', "is there twice"),
        (b'{"approved": true, "confidence": NaN}', "NaN"),
        (b'{"approved": true, "confidence": 1e999}', "too large"),
        (b'{"approved": true, "confidence": 1.01}', "`confidence`"),
        (b'{"approved": true, "confidence": -0.1}', "`confidence`"),
        (b'{"approved": true, "confidence": true}', "`confidence`"),
        (b'{"approved": true, "confidence": "0.9"}', "`confidence`"),
        (b'{"approved": "true"}', "`approved`"),
        (b'{"approved": 1}', "`approved`"),
        (b"{}", "`approved`"),
        (b'{"approved": true, "gate": 1}', "`gate`"),
        (b'{"approved": true, "message": []}', "`message`"),
        (b'{"approved": true, "details": "x"}', "`details`"),
        (b'{"approved": true, "details": ' + b'{"a":' * 100 + b"1" + b"}" * 101, "nested"),
    ],
)
def test_bad_answer_is_refused_with_its_reason(body: bytes, why: str) -> None:
    with pytest.raises(CoordinatorAnswerBad, match=why):
        read_opinion(body)


def test_what_a_coordinator_says_is_cleaned_and_cut() -> None:
    said = {
        **SOUND,
        "message": "\x1b]52;c;AA\x07\u202e" + "m" * 100_000,
        "details": {"output": "d\n" * 100_000},
    }
    opinion = read_opinion(json.dumps(said).encode())
    assert "\x1b" not in opinion.message
    assert "\u202e" not in opinion.message
    assert len(opinion.message) <= MAX_MESSAGE
    assert len(opinion.details) <= MAX_DETAILS


def test_details_are_shown_as_a_person_reads_them() -> None:
    opinion = read_opinion(json.dumps({**SOUND, "details": {"output": "a\nb", "n": [1]}}).encode())
    assert opinion.details == "output:\na\nb\nn: [1]"


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
ANSWERS = st.fixed_dictionaries({}, optional=dict.fromkeys(SOUND, JSON)).map(
    lambda each: json.dumps(each).encode()
)


@settings(max_examples=50)
@given(ANSWERS | st.binary())
def test_whatever_comes_is_an_opinion_or_refused(body: bytes) -> None:
    refused = ""
    try:
        read_opinion(body)
    except CoordinatorAnswerBad as refusal:
        refused = refusal.detail
    assert "\n" not in refused


@given(st.integers(1, TRIES - 1), st.floats(0, 1, exclude_max=True))
def test_pauses_double_and_spread_by_a_quarter(failures: int, chance: float) -> None:
    pause = pause_s(failures, chance)
    assert pause is not None
    assert 0.75 <= pause / 2 ** (failures - 1) <= 1.25


def test_after_five_tries_there_is_no_other() -> None:
    assert [pause_s(failures, 0.5) for failures in range(1, 7)] == [1.0, 2.0, 4.0, 8.0, None, None]


def test_retry_after_is_honoured_within_bounds() -> None:
    now = datetime(2026, 10, 21, 7, 27, 30, tzinfo=UTC)
    assert pause_s(1, 0.5, retry_after("7", now)) == 7.0
    assert pause_s(1, 0.5, retry_after("Wed, 21 Oct 2026 07:28:00 GMT", now)) == 30.0
    assert pause_s(1, 0.5, retry_after("999999999", now)) == 60.0
    assert pause_s(1, 0.5, retry_after("Fri, 31 Dec 9999 23:59:59 GMT", now), at_most_s=600) == 600.0
    for earlier in ("0", "Wed, 21 Oct 2026 07:27:29 GMT", "Mon, 01 Jan 0001 00:00:00 GMT"):
        assert pause_s(4, 0.5, retry_after(earlier, now)) == 8.0
    for unsound in (None, "", "-1", "nan", "soon", "Wed, 31 Jun 2026 07:28:00 GMT", "2026-10-21", "9" * 100):
        assert retry_after(unsound, now) is None
