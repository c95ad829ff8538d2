"""The message of the commit of record."""

from __future__ import annotations

from orchestrator.supervise.message import MAX_SUBJECT, commit_message
from tests.supervise.conftest import spec_of


def test_message_has_one_subject_and_trailers_that_git_understands() -> None:
    context = {"repository": "https://example.com/r.git", "workItems": ["US-1", "US-2"]}
    lines = commit_message(
        spec_of("T-1", context=context), "agent-7", "Mend the door", gates="lint, tests"
    ).splitlines()
    assert lines == [
        "Mend the door",
        "",
        "Task: T-1",
        "Agent: agent-7",
        "Role: worker",
        "Gates: lint, tests",
        "Work-Item: US-1",
        "Work-Item: US-2",
    ]


def test_instructions_give_the_subject_where_the_agent_gave_none() -> None:
    context = {
        "repository": "https://example.com/r.git",
        "instructions": "\n  Mend \x1b[31mthe door\nand more",
    }
    assert (
        commit_message(spec_of("T-1", context=context), "a", "", gates="none").splitlines()[0]
        == "T-1: Mend [31mthe door"
    )
    assert commit_message(spec_of("T-1"), "a", " ", gates="none").splitlines()[0] == "Work on T-1"


def test_long_subject_is_cut() -> None:
    assert len(commit_message(spec_of("T-1"), "a", "x" * 500, gates="none").splitlines()[0]) == MAX_SUBJECT


def test_trailers_that_an_agent_writes_in_our_form_are_left_out() -> None:
    body = "Why it is so.\n\nGates: all\nTask: T-9\n role: admin\nAgent-Id: me\nReviewed-by: nobody"
    message = commit_message(spec_of("T-1"), "a", "Mend it", gates="tests", body=body)
    said, _, trailers = message.rpartition("\n\n")
    assert said == "Mend it\n\nWhy it is so.\n\nReviewed-by: nobody"
    assert trailers == "Task: T-1\nAgent: a\nRole: worker\nGates: tests\n"
