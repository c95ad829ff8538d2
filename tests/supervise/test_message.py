"""The message of the commit of record."""

from __future__ import annotations

from orchestrator.supervise.message import MAX_SUBJECT, commit_message
from tests.supervise.conftest import spec_of


def test_message_has_one_subject_and_trailers_that_git_understands() -> None:
    context = {"repository": "https://example.com/r.git", "workItems": ["US-1", "US-2"]}
    lines = commit_message(spec_of("T-1", context=context), "agent-7", "Mend the door").splitlines()
    assert lines == [
        "Mend the door",
        "",
        "Task-Id: T-1",
        "Agent-Id: agent-7",
        "Work-Item: US-1",
        "Work-Item: US-2",
    ]


def test_instructions_give_the_subject_where_the_agent_gave_none() -> None:
    context = {
        "repository": "https://example.com/r.git",
        "instructions": "\n  Mend \x1b[31mthe door\nand more",
    }
    assert (
        commit_message(spec_of("T-1", context=context), "a", "").splitlines()[0] == "T-1: Mend [31mthe door"
    )
    assert commit_message(spec_of("T-1"), "a", " ").splitlines()[0] == "Work on T-1"


def test_long_subject_is_cut() -> None:
    assert len(commit_message(spec_of("T-1"), "a", "x" * 500).splitlines()[0]) == MAX_SUBJECT
