"""Choosing who goes next, where everybody before is held back: of few repositories, and of a thousand.

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
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from orchestrator.core.model import Agent, AgentId, State, Task, TaskId, TaskStatus
from orchestrator.core.policy import is_due, order_key
from orchestrator.core.spec import Context, Role, TaskSpec
from orchestrator.journal.line import WaitingLine

ROUNDS = 7
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


def main() -> None:
    """Measure every size."""
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
