"""Candidates from elsewhere on the bench: each judged by the gates of its base, and nothing passed over."""

from __future__ import annotations

import base64
import itertools
import logging
from pathlib import Path
from typing import Any

import pytest

from orchestrator.api.problem import Invalid, RateLimited
from orchestrator.config import read_settings
from orchestrator.coordinator import bench as subject
from orchestrator.coordinator.bench import Bench
from orchestrator.coordinator.service import redactor
from orchestrator.core.quality import DiffSummary, QualityCheck
from orchestrator.core.setup import SetupFailed
from orchestrator.errors import FieldRefused, RepositoryError
from orchestrator.gates.registry import make_gates
from orchestrator.logline import redact_log, set_up_logging
from orchestrator.repo.candidate import bundle
from sandbox.base import Limits, User
from sandbox.trusted import ProcessBackend
from tests.kit.plane import GATED
from tests.kit.remote import make_remote
from tests.repo.stage import Stage

MIB = 1 << 20


@pytest.fixture
def stage(reachable_path: Path, ordinary_user: User) -> Stage:
    """Return a stage whose repository has a gate: `tests` pass where `value` is above 0."""
    made = Stage(reachable_path, ProcessBackend(ordinary_user))
    made.bare = make_remote(made.remotes, "gated", GATED)
    made.url = f"file://{made.bare}"
    return made


def bench_on(stage: Stage, ai_share_max: float | None = None) -> Bench:
    """Return a bench beside the stage."""
    ids, gates = itertools.count(1), make_gates(ai_share_max=ai_share_max)
    new_id = lambda: f"judged-{next(ids)}"  # noqa: E731
    return Bench(stage.repositories, stage.backend, gates, Limits(), places=1, new_id=new_id)


async def asked(stage: Stage, script: str, **more: Any) -> QualityCheck:  # noqa: ANN401 - fields of any type
    """Return the question about what an agent made by a script."""
    async with stage.open_worktree("author") as worktree:
        await stage.must(worktree, script)
        candidate = await stage.collect(worktree)
        assert candidate is not None
        sealed = await worktree.quarantine.seal(candidate, "Do it")
        packed = await bundle(worktree.quarantine, sealed.commit, max_bytes=MIB)
    assert packed is not None
    fields: dict[str, Any] = {
        "task_id": "T-1",
        "agent_id": "author",
        "phase": "pre-commit",
        "gate_profile": "strict",
        "repository": stage.url,
        "branch": "main",
        "commit": sealed.commit,
        "files": (),
        "diff_summary": DiffSummary(files=1, additions=1, deletions=0),
        "ai_share": 1.0,
        "base": stage.main,
        "bundle": base64.b64encode(packed).decode(),
    }
    return QualityCheck(**{**fields, **more})


async def test_gates_of_the_base_judge_what_comes(stage: Stage) -> None:
    judge = bench_on(stage).judge
    good = await judge(await asked(stage, "echo 7 > value"))
    assert (good["approved"], good["gate"]) == (True, "tests")
    bad = await judge(await asked(stage, "echo -1 > value"))
    assert (bad["approved"], bad["gate"], "lasting" in bad["details"]) == (False, "tests", False)
    assert list(stage.repositories.directories()) == []


async def test_gates_stand_on_what_the_set_up_of_the_base_made(stage: Stage) -> None:
    setup = "mkdir .venv .venv/bin && cp test.sh .venv/bin/judge && chmod +x .venv/bin/judge"
    toml = f"[setup]\ncommand = '{setup}'\n[gates.tests]\ncommand = 'judge'\n"
    files = {**GATED, "test.sh": f"#!/bin/sh\n{GATED['test.sh']}", "orchestrator.toml": toml}
    stage.bare = make_remote(stage.remotes, "prepared", files)
    stage.url = f"file://{stage.bare}"
    judge = bench_on(stage).judge
    for value, approved in ((7, True), (-1, False)):
        told = await judge(await asked(stage, f"echo {value} > value"))
        assert (told["approved"], told["gate"]) == (approved, "tests"), told
    assert len(list((stage.home / "setups").glob("*/*"))) == 1
    broken = {**files, "orchestrator.toml": toml.replace(setup, "echo no such package; exit 3")}
    stage.bare = make_remote(stage.remotes, "broken", broken)
    stage.url = f"file://{stage.bare}"
    with pytest.raises(SetupFailed, match="no such package"):
        await judge(await asked(stage, "echo 7 > value"))


async def test_gate_that_is_not_here_is_told_and_not_passed_over(stage: Stage) -> None:
    late = await asked(stage, "echo 7 > value", phase="post-commit")
    told = await bench_on(stage).judge(late)
    assert told["details"]["ai-review"] == "not run: this host does not have this gate of the profile"
    assert "lint" not in told["details"]  # is the other phase's
    with pytest.raises(FieldRefused, match="'ai-review' is not on this host"):
        await bench_on(stage).judge(late.model_copy(update={"gates": ("ai-review",)}))


@pytest.mark.parametrize(("share", "approved"), [(0.5, True), (0.51, False), (1.0, False), (None, False)])
async def test_share_that_is_told_is_held_to_the_judges_ceiling(
    stage: Stage, share: float | None, *, approved: bool
) -> None:
    late = await asked(stage, "echo 7 > value", phase="post-commit", gate_profile="minimal", ai_share=share)
    told = await bench_on(stage, ai_share_max=0.5).judge(late)
    assert (told["approved"], told["gate"]) == (approved, "ai-share")


async def test_question_that_is_about_no_task_of_ours_is_refused(stage: Stage) -> None:
    question = await asked(stage, "echo 7 > value")
    for changed, refusal in (
        ({"task_id": "a..b"}, Invalid),
        ({"base": None}, Invalid),
        ({"bundle": "%"}, Invalid),
        ({"bundle": "AAAA"}, RepositoryError),
        ({"base": "1" * 40}, RepositoryError),
        ({"repository": "file:///etc"}, RepositoryError),
        ({"commit": "1" * 40}, RepositoryError),
    ):
        with pytest.raises(refusal):
            await bench_on(stage).judge(question.model_copy(update=changed))
    large = await bench_on(stage).judge(question.model_copy(update={"bundle": None}))
    assert not large["approved"]


async def test_too_many_that_wait_are_sent_away(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    question = await asked(stage, "echo 7 > value")
    monkeypatch.setattr(subject, "MAX_WAITING", 0)
    with pytest.raises(RateLimited):
        await bench_on(stage).judge(question)


def test_log_of_a_coordinator_holds_no_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(tmp_path))
    monkeypatch.setenv("ORCHESTRATOR_API_KEY", "the-key-of-the-orchestrator")
    before = logging.getLogger().handlers[:], logging.getLogger().level
    try:
        set_up_logging("debug", "json")
        tokens = ("the-token-of-the-judge", "the-token-of-the-agents")
        redact_log(redactor(read_settings(), *tokens, None).text)
        logging.getLogger("judge").info("read %s", " ".join((*tokens, "the-key-of-the-orchestrator")))
    finally:
        logging.getLogger().handlers[:], _ = before
        logging.getLogger().setLevel(before[1])
    assert '"read [redacted] [redacted] [redacted]"' in capsys.readouterr().err
