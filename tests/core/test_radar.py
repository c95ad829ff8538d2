"""Overlaps of files are told once for each pair and its files, and within bounds."""

from __future__ import annotations

from orchestrator.core.radar import MAX_FILES, MAX_SIGHTINGS, MAX_TOLD, Field, Overlap, Sighting, bounded


def see(field: Field, agent: str, *files: str, task: str = "") -> list[Overlap]:
    """Let an agent be seen with files."""
    return field.see(Sighting(agent, task or f"task-{agent}", f"agent/{agent}", frozenset(files)))


def names(overlaps: list[Overlap]) -> list[tuple[str, list[str]]]:
    """Return with whom and what."""
    return [(overlap.other.agent_id, sorted(overlap.files)) for overlap in overlaps]


def test_an_overlap_is_told_to_the_second_who_comes_and_not_again() -> None:
    field = Field()
    assert see(field, "a", "x", "y") == []
    assert names(see(field, "b", "y", "z")) == [("a", ["y"])]
    assert see(field, "b", "y", "z") == []
    assert see(field, "a", "x", "y") == []
    assert names(see(field, "a", "y", "z")) == [("b", ["y", "z"])]  # one more file of the pair


def test_attempts_at_one_task_are_no_rivals() -> None:
    field = Field()
    see(field, "a", "x", task="t")
    assert see(field, "b", "x", task="t") == []


def test_who_has_landed_is_still_there_and_who_failed_is_not() -> None:
    field = Field()
    see(field, "landed", "x")
    see(field, "failed", "x")
    field.leave("landed", commit="c" * 40)
    field.leave("failed", commit=None)
    [overlap] = see(field, "next", "x")
    assert (overlap.other.agent_id, overlap.other.commit) == ("landed", "c" * 40)
    field.forget(["landed"])
    assert see(field, "third", "w") == []


def test_everything_is_bounded() -> None:
    assert len(bounded(f"f{n}" for n in range(MAX_FILES * 2))) == MAX_FILES
    field = Field()
    for n in range(MAX_SIGHTINGS * 2):
        see(field, f"a{n}", f"only-{n}")
        field.leave(f"a{n}", commit="c")
    assert len(field.sightings) == MAX_SIGHTINGS
    see(field, "many", *(f"f{n}" for n in range(100)))
    [overlap] = see(field, "more", *(f"f{n}" for n in range(100)))
    assert (len(overlap.files), len(overlap.told), overlap.told[0]) == (100, MAX_TOLD, "f0")
