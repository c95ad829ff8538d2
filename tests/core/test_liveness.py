"""Evidence and deadlines: what counts as a sign of life, when it is too late, and what is done then."""

from __future__ import annotations

import pickle
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.liveness import (
    LONGEST_CYCLE,
    LOOP_TIMES,
    Deadlines,
    LoopDetector,
    Novelty,
    Patience,
    Standing,
    deadlines_for,
    fingerprint,
    is_work,
    judge,
    next_step,
    of_tool,
)
from orchestrator.core.spec import OwnDeadlines
from orchestrator.core.words import Concern, Step

DEADLINES = Deadlines(boot_s=10, turn_s=1000, stall_s=100)
CALLS = st.lists(st.sampled_from([b"a", b"b", b"c", b"d"]), max_size=80)


def shortest_cycle(done: list[bytes], times: int) -> int | None:
    """Return the length of the cycle at the end of what was done, by looking at all of it."""
    for length in range(1, LONGEST_CYCLE + 1):
        end = done[-length * times :]
        if len(end) == length * times and end == end[:length] * times:
            return length
    return None


def test_a_value_is_known_again_by_what_it_says_however_deep_it_nests() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1}) != fingerprint({"a": 1})
    assert fingerprint("\ud800") != fingerprint(deep) == fingerprint([deep])


@given(done=CALLS, times=st.integers(2, 5))
def test_the_detector_sees_exactly_what_whoever_remembers_all_sees(done: list[bytes], times: int) -> None:
    detector = LoopDetector(times)
    for number, call in enumerate(done, 1):
        assert detector.add(call) == shortest_cycle(done[:number], times)


@given(cycle=st.lists(st.binary(min_size=1, max_size=3), min_size=1, max_size=LONGEST_CYCLE))
def test_every_short_cycle_is_found_at_its_last_round_and_forgotten(cycle: list[bytes]) -> None:
    detector = LoopDetector()
    found = [detector.add(call) for call in cycle * LOOP_TIMES]
    assert found[-1] is not None
    assert set(found[: LOOP_TIMES - 1]) == {None}
    detector.forget()
    assert detector.add(cycle[-1]) is None


def test_a_detectors_memory_does_not_grow() -> None:
    detector = LoopDetector()
    for number in range(1000):
        detector.add(str(number).encode())
    assert sys.getsizeof(pickle.dumps(detector)) < 1000


@given(
    one=st.tuples(st.text(max_size=4), st.text(max_size=4), st.text(max_size=4)),
    other=st.tuples(st.text(max_size=4), st.text(max_size=4), st.text(max_size=4)),
)
def test_a_tools_result_is_known_again_by_name_arguments_and_result(
    one: tuple[str, str, str], other: tuple[str, str, str]
) -> None:
    assert (of_tool(*one) == of_tool(*other)) is (one == other)


def test_output_is_new_once_and_memory_for_it_bounded() -> None:
    novelty = Novelty()
    assert novelty.is_new("working")
    assert not any(novelty.is_new("working") for _ in range(1000))
    assert all(novelty.is_new(f"line {number}") for number in range(10_000))
    assert sys.getsizeof(pickle.dumps(novelty)) < 10_000


@pytest.mark.parametrize(
    ("standing", "concern"),
    [
        (Standing(at=9, since=0, seen=None), None),
        (Standing(at=10, since=0, seen=None), Concern.BOOT),
        (Standing(at=10, since=0, seen=None, asking=True), None),
        (Standing(at=99, since=0, seen=0), None),
        (Standing(at=100, since=0, seen=0), Concern.STALL),
        (Standing(at=100, since=50, seen=0), None),
        (Standing(at=900, since=0, seen=0, asking=True), None),
        (Standing(at=1000, since=0, seen=999), Concern.TURN),
        (Standing(at=1000, since=0, seen=999, asking=True), Concern.TURN),
        (Standing(at=1, since=0, seen=1, loop=2), Concern.LOOP),
    ],
)
def test_each_deadline_is_held_against_its_own_evidence(standing: Standing, concern: Concern | None) -> None:
    found = judge(standing, DEADLINES)
    assert (found and found[0]) == concern


@given(
    now=st.floats(0, 1e9),
    since=st.floats(0, 1e9),
    seen=st.none() | st.floats(0, 1e9),
    asking=st.booleans(),
)
def test_without_deadlines_nobody_is_too_late(
    now: float, since: float, seen: float | None, asking: bool
) -> None:
    assert judge(Standing(now, since, seen, asking), Deadlines()) is None


@pytest.mark.parametrize(
    ("runtime", "patience", "asked", "deadlines"),
    [
        ("claude", Patience(), {}, Deadlines(boot_s=120, stall_s=600)),
        ("command", Patience(), {}, Deadlines(boot_s=120)),
        ("command", Patience(stall_s=60, turn_s=9), {}, Deadlines(boot_s=120, turn_s=9, stall_s=60)),
        ("command", Patience(), {"stallSeconds": 30}, Deadlines(boot_s=120, stall_s=30)),
        ("acp", Patience(boot_s=0, stall_s=0), {"turnSeconds": 5}, Deadlines(turn_s=5)),
        (
            "claude-code",
            Patience(turn_s=7),
            {"bootSeconds": 0, "turnSeconds": 0, "stallSeconds": 0},
            Deadlines(),
        ),
    ],
)
def test_a_task_may_ask_for_other_deadlines_and_silence_is_held_against_who_speaks(
    runtime: str, patience: Patience, asked: dict[str, int], deadlines: Deadlines
) -> None:
    assert deadlines_for(runtime, patience, OwnDeadlines.model_validate(asked)) == deadlines


@given(concern=st.sampled_from(Concern), listens=st.booleans())
def test_steps_only_go_on_and_end_after_three_at_most(concern: Concern, listens: bool) -> None:
    taken: list[Step] = []
    while Step.END not in taken:
        taken.append(next_step(taken[-1] if taken else None, concern, listens=listens))
    nudged = listens and concern is not Concern.BOOT
    assert taken == [*([Step.NUDGE] if nudged else []), Step.RESTART, Step.END]


def test_processor_time_is_work_unless_it_only_repeats_itself() -> None:
    assert is_work(1.0, 10.0, only_repeats=False)
    assert not is_work(1.0, 10.0, only_repeats=True)
    assert not is_work(0.1, 10.0, only_repeats=False)
    assert not is_work(0.0, 0.0, only_repeats=False)
