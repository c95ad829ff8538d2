"""Whose lines they are: counted from what git says of a branch."""

from __future__ import annotations

import pytest

from orchestrator.core.share import Share, agents_among, allowed, binaries_among, count

PERSON, AGENT, BEFORE = "1" * 40, "a" * 40, "b" * 40


def blame(*groups: tuple[str, int]) -> bytes:
    """Return what git says incrementally: of a commit that it names again, no more than its lines."""
    said, told = b"", set()
    for number, (commit, lines) in enumerate(groups, start=1):
        said += f"{commit} {number} {number} {lines}\n".encode()
        if commit not in told:
            told.add(commit)
            said += b"author " + b"a" * 40 + b" 1 1 9\n" + b"summary boundary\n"
            said += b"boundary\n" if commit == BEFORE else b""
        said += b"filename boundary\n"
    return said


def test_lines_count_for_who_wrote_them_and_those_from_before_for_nobody() -> None:
    files = [blame((PERSON, 3), (BEFORE, 100), (AGENT, 1), (BEFORE, 7)), blame((AGENT, 5)), b""]
    share = count(files, {AGENT})
    assert share == Share(agent_lines=6, lines=9)
    assert share.value == pytest.approx(2 / 3)
    assert str(share) == "agents wrote 6 of the 9 lines that it adds (67%)"


def test_change_that_adds_nothing_has_no_share_of_agents() -> None:
    share = count([blame((BEFORE, 4))], {AGENT})
    assert (share.value, str(share)) == (0.0, "it adds nothing that anybody could have written")
    assert allowed(share, 0.0)


@pytest.mark.parametrize(
    ("share", "least"),
    [(Share(1, 4), 0.25), (0.25, 0.25), (Share(4, 4), 1.0), (1.0, 1.0), ("nobody knows", 1.0)],
)
def test_share_keeps_to_its_ceiling_and_one_that_nobody_knows_to_the_whole_alone(
    share: Share | float | str, least: float
) -> None:
    assert [allowed(share, most) for most in (0.0, least - 0.01, least, 1.0)] == [False, False, True, True]


def test_binary_files_are_told_by_their_dashes() -> None:
    assert binaries_among(b"-\t-\ta\x000\t5\t-\t-\x00-\t-\tb\n-\t-\t\0") == 2
    assert binaries_among(b"") == 0


def test_commit_with_a_trailer_of_ours_is_an_agents() -> None:
    log = f"{PERSON}\t\t\0{AGENT}\t123\t\0{BEFORE}\t\tagent-7\0".encode()
    assert agents_among(log) == {AGENT, BEFORE}
    assert agents_among(b"") == frozenset()
