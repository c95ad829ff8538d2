"""Whose request is next: agents take turns, however many requests each of them makes."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.agents.fairness import Fairness, most_of_one

MOVES = st.lists(
    st.tuples(st.sampled_from(["stand", "stand", "go", "go", "leave", "land"]), st.sampled_from("abcd")),
    max_size=100,
)


def go(turns: Fairness[str], concurrency: int = 8) -> str | None:
    if (request := turns.first(concurrency)) is not None:
        turns.go(request[0], request)
    return request


def line(*requests: str) -> Fairness[str]:
    """Return the line of requests that are named by their agents, who are a letter each."""
    turns: Fairness[str] = Fairness()
    for request in requests:
        turns.stand(request[0], request)
    return turns


def test_agents_take_turns_and_each_is_served_in_its_own_order() -> None:
    turns = line("a1", "a2", "a3", "b1", "b2", "c1")
    assert [go(turns) for _ in range(7)] == ["a1", "b1", "c1", "a2", "b2", "a3", None]


def test_who_comes_late_goes_before_one_who_has_many_in_flight() -> None:
    turns = line(*(f"a{number}" for number in range(9)))
    for _ in range(5):
        go(turns)
    turns.stand("b", "b1")
    assert go(turns) == "b1"


def test_who_waits_gets_the_places_that_one_agent_gives_back_until_shares_are_equal() -> None:
    turns = line(*(f"a{number}" for number in range(20)))
    held = [go(turns) for _ in range(6)]
    assert None not in held
    for number in range(20):
        turns.stand("b", f"b{number}")
    flying = Counter({"a": 6})
    for _ in range(12):  # one lands, one goes
        if sum(flying.values()) == 8:
            turns.land("a")
            flying["a"] -= 1
        request = go(turns)
        assert request is not None
        flying[request[0]] += 1
    assert flying == {"a": 4, "b": 4}


def test_nobody_holds_all_places_where_there_are_several() -> None:
    assert [most_of_one(n) for n in (1, 2, 3, 4, 8, 100)] == [1, 2, 3, 3, 6, 75]
    turns = line(*(f"a{number}" for number in range(20)))
    assert sum(go(turns) is not None for _ in range(20)) == 6
    turns.stand("b", "b1")
    assert go(turns) == "b1"
    turns.land("a")
    assert go(turns) == "a6"


@given(MOVES, st.integers(1, 6))
def test_the_next_is_of_one_who_has_fewest_in_flight(moves: list[tuple[str, str]], concurrency: int) -> None:
    turns: Fairness[str] = Fairness()
    waiting: dict[str, list[str]] = {agent: [] for agent in "abcd"}
    flying: Counter[str] = Counter()
    for number, (move, agent) in enumerate(moves):
        if move == "stand":
            waiting[agent].append(f"{agent}{number}")
            turns.stand(agent, waiting[agent][-1])
        elif move == "leave" and waiting[agent]:
            turns.leave(agent, waiting[agent].pop())
        elif move == "land" and flying[agent]:
            flying[agent] -= 1
            turns.land(agent)
        elif move == "go":
            able = [a for a in "abcd" if waiting[a] and flying[a] < most_of_one(concurrency)]
            request = turns.first(concurrency)
            assert (request is None) == (not able)
            if request is not None:
                assert flying[request[0]] == min(flying[a] for a in able)
                assert request == waiting[request[0]].pop(0)
                turns.go(request[0], request)
                flying[request[0]] += 1
        assert bool(turns) == any(waiting.values())
