"""The waiting line: a submission and a claim beside ever more who wait, and a look past who is held back.

First the microseconds to take one in, and to choose and take one out, with 1,000 and with 100,000 waiting:
the ratio is of the many to the few. Then choosing who goes next where everybody before is held back.

What holds agents back is a repository in trouble (`supervise.breaker`), so the dispatcher looks past all of
them at every event. Beside it, in turns, the naive definition: a walk along the line that asks for each. One
JSON line a figure, the median over rounds: milliseconds a look, and the ratio to the walk.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from orchestrator.core.claims import Claim
from orchestrator.core.model import Agent, AgentId, Phase, State, Task, TaskId, TaskStatus
from orchestrator.core.policy import is_due, order_key
from orchestrator.core.spec import Context, Role, TaskSpec
from orchestrator.journal.line import WaitingLine

ROUNDS = 7
TURNS = 2_000
FEW, MANY = (1_000, 10), (100_000, 1_000)
#: Agents that wait, and the repositories that they are of.
SIZES = ((1_000, 10), (100_000, 10), (100_000, 1_000))
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def fill(agents: int, repositories: int) -> State:
    """Return a state in which so many agents wait."""
    contexts = [Context(repository=f"https://example.org/r{number}.git") for number in range(repositories)]
    specs = [TaskSpec(task_id="t", context=context) for context in contexts]
    waiting, tasks = {}, {}
    for number in range(agents):
        agent_id, task_id = AgentId(f"a{number}"), TaskId(f"t{number}")
        spec = specs[number % repositories]
        tasks[task_id] = Task(task_id, spec, TaskStatus.PENDING, NOW, 1, agent_id)
        waiting[agent_id] = Agent(agent_id, task_id, 1, Role.WORKER, "command", 5, NOW, queued_seq=number + 1)
    empty = State()
    return State(tasks=empty.tasks.update(tasks), agents=empty.agents.update(waiting), queued=agents)


def walk(state: State, line: list[Agent], held: frozenset[str]) -> AgentId | None:
    """Return who goes next by asking for each in turn."""
    for agent in line:
        if is_due(agent, NOW) and state.tasks[agent.task_id].spec.context.repository not in held:
            return agent.id
    return None


def elapsed_ms(look: Callable[[], AgentId | None]) -> float:
    """Return the milliseconds of one look that finds nobody."""
    began = time.perf_counter()
    found = look()
    spent = (time.perf_counter() - began) * 1000
    assert found is None
    return spent


def measure(agents: int, repositories: int) -> tuple[float, float]:
    """Return the milliseconds of a look and of a walk past so many agents."""
    state = fill(agents, repositories)
    line, ordered = WaitingLine(state), sorted(state.agents.values(), key=order_key)
    held = frozenset(task.spec.context.repository for task in state.tasks.values())
    looks, walks = [], []
    for _ in range(ROUNDS):
        looks.append(elapsed_ms(lambda: line.first_due(NOW, holds=held.__contains__)))
        walks.append(elapsed_ms(lambda: walk(state, ordered, held)))
    return statistics.median(looks), statistics.median(walks)


def take_turns(agents: int, repositories: int) -> tuple[float, float]:
    """Return the microseconds of one who joins so many, and of a claim."""
    state = fill(agents, repositories)
    line, joined, claimed = WaitingLine(state), 0.0, 0.0
    for number in range(TURNS):
        agent_id = line.first_due(NOW)
        assert agent_id is not None
        one = state.agents[agent_id]
        repository = state.tasks[one.task_id].spec.context.repository
        taken = replace(state, agents=state.agents.set(agent_id, replace(one, phase=Phase.WORKING)))
        back = replace(state, agents=state.agents.set(agent_id, replace(one, queued_seq=agents + 2 * number)))
        began = time.perf_counter()
        line.first_due(NOW)
        line.claimed(Claim(agents + 2 * number, repository, one.priority))
        line.update(agent_id, taken)
        chosen = time.perf_counter()
        line.update(agent_id, back)
        joined += time.perf_counter() - chosen
        claimed += chosen - began
        state = back
    return joined / TURNS * 1e6, claimed / TURNS * 1e6


def measure_turns() -> None:
    """Print what joining and claiming cost beside few and beside many."""
    few, many = zip(*((take_turns(*FEW), take_turns(*MANY)) for _ in range(3)), strict=True)
    for index, what in enumerate(("join", "choose and claim")):
        beside_few, beside_many = (statistics.median(each[index] for each in found) for found in (few, many))
        figure = {
            "name": f"{what}, {MANY[0]} waiting of {MANY[1]} repositories",
            "value": round(beside_many, 1),
            "unit": "us",
            "ratio": round(beside_many / beside_few, 2),
            f"us_beside_{FEW[0]}": round(beside_few, 1),
        }
        print(json.dumps(figure))


def main() -> None:
    """Measure every size."""
    measure_turns()
    for agents, repositories in SIZES:
        look, walked = measure(agents, repositories)
        figure = {
            "name": f"who goes next, {agents} held agents of {repositories} repositories",
            "value": round(look, 3),
            "unit": "ms",
            "ratio": round(look / walked, 4),
            "walk_ms": round(walked, 2),
        }
        print(json.dumps(figure))


if __name__ == "__main__":
    main()
