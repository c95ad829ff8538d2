"""What the reviewer's tests share: a scripted model, and a candidate's change to be reviewed by it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from orchestrator.agents.claude.sdk import Sdk, _import_sdk
from orchestrator.agents.upstream import Upstream
from orchestrator.core.asking import Answer, Request
from orchestrator.core.model import Verdict
from orchestrator.core.spec import TaskSpec
from orchestrator.gates.exhibit import Exhibit
from orchestrator.review.gate import ReviewGate
from sandbox.base import Limits, User
from sandbox.trusted import ProcessBackend
from tests.kit.messages_api import ScriptedApi, scripted_api

MODEL = "claude-sonnet-5-5"
PATCH = (
    "diff --git a/src/a.py b/src/a.py\n"
    "index 1111111..2222222 100644\n"
    "--- a/src/a.py\n"
    "+++ b/src/a.py\n"
    "@@ -10,3 +10,4 @@ def f():\n"
    "     x = 1\n"
    "-    return x\n"
    "+    y = x + 1\n"
    "+    return y\n"
    " \n"
)


def finding(**over: object) -> dict[str, Any]:
    """Return a finding at a line that `PATCH` shows."""
    usual = {"file": "src/a.py", "line": 11, "severity": "low", "category": "practice", "confidence": 0.5}
    return {**usual, "message": "y is a poor name", **over}


def review(**over: object) -> dict[str, Any]:
    """Return an answer that approves, but for what is given."""
    return {"findings": [], "summary": "Adds one.", "approve": True, "confidence": 0.95, **over}


@pytest.fixture(scope="module")
def api() -> Iterator[ScriptedApi]:
    """Return an API that logs whole bodies; `says` tells it what to answer."""
    _import_sdk()  # seconds on a busy host, which are no part of a review's deadline here
    with scripted_api(keep_bodies=True) as running:
        yield running


Says = Callable[..., None]


@pytest.fixture
def says(api: ScriptedApi) -> Says:
    """Return a function that sets what the reviewer says, question by question."""

    def say(*answers: object, **fault: object) -> None:
        steps = [
            answer if isinstance(answer, dict) and "findings" not in answer else {"say": _text(answer)}
            for answer in answers
        ]
        api.change(script={"steps": steps, "agent": "reviewer"}, fault=fault or None)

    return say


def _text(answer: object) -> str:
    return answer if isinstance(answer, str) else json.dumps(answer)


Judge = Callable[..., Awaitable[Verdict]]


@pytest.fixture
def judge(api: ScriptedApi, ordinary_user: User, tmp_path: Path) -> Judge:
    """Return a function that has a patch reviewed, without a budget and without patience."""

    async def ask(request: Request, make: Callable[[], Awaitable[Answer]]) -> Answer:
        assert request.most_input_tokens >= request.input_tokens > 0
        return await make()

    async def output(stream: str, line: str) -> None:
        pass

    async def judge_patch(
        patch: str | bytes = PATCH, *, deadline_s: float = 30.0, instructions: str = "Add one."
    ) -> Verdict:
        raw = patch.encode() if isinstance(patch, str) else patch

        async def read_diff(max_bytes: int) -> bytes:
            return raw if len(raw) <= max_bytes else raw[:max_bytes] + b"\n[cut here]\n"

        async def nothing(*_: object) -> Any:  # noqa: ANN401 - nobody asks for it
            raise AssertionError("the reviewer looked at more than the change")

        context = {"repository": "https://example.org/r", "instructions": instructions}
        exhibit = Exhibit(
            agent_id="author",
            spec=TaskSpec.model_validate({"taskId": "T", "context": context}),
            commit="c" * 40,
            base="b" * 40,
            read_base=nothing,
            read_candidate=nothing,
            names_candidate=nothing,
            names_base=nothing,
            read_diff=read_diff,
            open_checkout=nothing,  # type: ignore[arg-type] - the same
            backend=ProcessBackend(ordinary_user),
            limits=Limits(),
            output=output,
            round=2,
            changed=(),
            open_base=None,
            ask=ask,
        )
        upstream = Upstream(api.url, SecretStr("k"))
        gate = ReviewGate(partial(Sdk, upstream), lambda: MODEL)
        return await gate.judge(exhibit, deadline_s=deadline_s)

    return judge_patch
