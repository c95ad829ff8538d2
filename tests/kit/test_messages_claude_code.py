"""The real Claude Code works by scripts, and takes the API's faults for real ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kit.claude_code import run_claude
from tests.kit.messages_api import script, scripted_api

pytestmark = pytest.mark.slow


def test_claude_code_edits_files_by_script(tmp_path: Path) -> None:
    steps = (
        {"say": "I write", "do": {"write": "a.txt", "text": "one\n"}},
        {"do": {"run": "echo two >> a.txt"}},
        {"do": {"read": "a.txt"}},
        {"do": {"edit": "a.txt", "old": "two", "new": "three"}},
        {"say": "finished"},
    )
    with scripted_api() as api:
        ran = run_claude(api, tmp_path, script(*steps, agent="cc"), bare=False)
    assert (ran.status, ran.result["result"], ran.result["is_error"]) == (0, "finished", False), ran
    assert (tmp_path / "work/a.txt").read_text() == "one\nthree\n"
    assert [(request.step, request.how) for request in api.messages("cc")] == [
        (n, "served") for n in range(5)
    ]


def test_claude_code_tries_again_by_itself(tmp_path: Path) -> None:
    fault = {"status": 529, "times": 1, "retry_after": 0}
    with scripted_api() as api:
        ran = run_claude(api, tmp_path, script({"say": "late"}, agent="cc", fail_first=fault))
    assert (ran.status, ran.result["result"]) == (0, "late"), ran
    assert [request.status for request in api.messages("cc")] == [529, 200]


def test_claude_code_fails_where_the_key_is_refused(tmp_path: Path) -> None:
    with scripted_api(keys=["another"]) as api:
        ran = run_claude(api, tmp_path, "x", CLAUDE_CODE_MAX_RETRIES="0")
    assert (ran.status, ran.result["is_error"], ran.result["api_error_status"]) == (1, True, 401), ran


def test_claude_code_speaks_over_a_unix_socket(tmp_path: Path) -> None:
    with scripted_api(unix=tmp_path / "llm.sock") as api:
        ran = run_claude(api, tmp_path, script({"do": {"run": "echo hi > b"}}, {"say": "ok"}))
    assert (ran.status, ran.result["result"]) == (0, "ok"), ran
    assert (tmp_path / "work/b").read_text() == "hi\n"
