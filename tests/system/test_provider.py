"""Agents and a provider in trouble, whole: real worktrees, a real journal, the scripted API over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from orchestrator.agents.prices import read_prices
from orchestrator.agents.provider import Provider
from orchestrator.agents.purse import Purse
from orchestrator.agents.registry import Runtimes
from orchestrator.core.admission import Ceilings
from orchestrator.core.model import AgentId, AgentStatus, Phase, Reason
from sandbox.base import User
from tests.kit.asking import AskingRuntime
from tests.kit.messages_api import ScriptedApi, script, scripted_api
from tests.kit.plane import Plane, open_plane
from tests.kit.remote import make_remote
from tests.kit.until import seen

STEPS = ({"say": "one"}, {"say": "two"}, {"say": "done"})
WRITE = "echo 7 > value"


def tools_of(api: ScriptedApi, *, concurrency: int = 4) -> dict[str, object]:
    return {
        "runtimes": Runtimes([AskingRuntime(api.url)]),
        "provider": Provider(Ceilings(concurrency)),
        "purse": Purse(read_prices()),
    }


async def submit(plane: Plane, remote: Path, name: str, *steps: object, **options: object) -> str:
    return await plane.submit(
        remote,
        script(*(steps or STEPS), agent=name),  # type: ignore[arg-type]
        name,
        runtime="asking",
        command=["sh", "-c", WRITE],
        **options,
    )


async def until_state(plane: Plane, what: Callable[[], bool]) -> None:
    while not what():
        await plane.store.wait_past(plane.store.state.seq)


def phase(plane: Plane, agent: str) -> Phase | None:
    found = plane.store.state.agents.get(AgentId(agent))
    return found.phase if found else None


@pytest.fixture
def remote(reachable_path: Path) -> Path:
    """Return a remote with one file."""
    return make_remote(reachable_path)


async def test_a_storm_ends_and_every_agent_lands(
    reachable_path: Path, ordinary_user: User, remote: Path
) -> None:
    faults = [
        {"p": 0.15, "status": 429, "retry_after": 1},
        {"p": 0.15, "status": 529},
        {"p": 0.1, "kind": "reset"},
        {"p": 0.1, "kind": "cut"},
    ]
    storm = {"seed": 3, "most_in_a_row": 2, "faults": faults}
    with scripted_api(storm=storm, ceiling=3) as api, trio.fail_after(120):
        async with open_plane(
            reachable_path / "home",
            user=ordinary_user,
            roots=reachable_path,
            slots=6,
            **tools_of(api, concurrency=3),
        ) as plane:
            agents = [await submit(plane, remote, f"t{number}") for number in range(6)]
            ended = [await plane.over(agent) for agent in agents]
        assert [(agent.status, agent.attempt) for agent in ended] == [(AgentStatus.COMPLETED, 1)] * 6
        assert api.most_at_once() <= 3


async def test_a_usage_limit_parks_all_and_a_restart_in_it_loses_nothing(
    reachable_path: Path, ordinary_user: User, remote: Path
) -> None:
    home = reachable_path / "home"
    with scripted_api(fault={"limit_resets_in_s": 3600}) as api, trio.fail_after(120):
        async with open_plane(home, user=ordinary_user, roots=reachable_path, **tools_of(api)) as plane:
            agents = [await submit(plane, remote, name) for name in ("a", "b", "c")]
            await until_state(plane, lambda: all(phase(plane, agent) is Phase.PARKED for agent in agents))
            parked = plane.store.state.agents[AgentId(agents[0])].parked
            assert parked is not None
            assert parked.reason == "usage_limit"
            assert len(api.messages()) == 1  # the others learned from the first
        api.change(fault=None)
        async with open_plane(home, user=ordinary_user, roots=reachable_path, **tools_of(api)) as plane:
            ended = [await plane.over(agent) for agent in agents]
        assert [(agent.status, agent.attempt) for agent in ended] == [(AgentStatus.COMPLETED, 1)] * 3
        assert [agent.usage.turns for agent in ended] == [3] * 3


async def test_who_is_parked_is_killed_at_once_and_can_be_frozen(
    reachable_path: Path, ordinary_user: User, remote: Path
) -> None:
    with scripted_api(fault={"status": 429, "retry_after": 3600}) as api, trio.fail_after(60):
        async with open_plane(
            reachable_path / "home", user=ordinary_user, roots=reachable_path, **tools_of(api)
        ) as plane:
            agent = await submit(plane, remote, "a", timeout=3600)
            await until_state(plane, lambda: phase(plane, agent) is Phase.PARKED)
            live = plane.supervisor.live(agent)
            assert live is not None
            stood = live.run.tree.clock.now()
            await plane.supervisor.switches.freeze(actor="tester")
            await plane.supervisor.switches.thaw(actor="tester")
            assert live.run.tree.clock.now() == stood
            report = await plane.supervisor.kill(agent, actor="tester")
            assert report.remaining == 0
            assert report.elapsed_ms < 5000
            assert (await plane.over(agent)).reason is Reason.OPERATOR


async def test_what_a_request_cost_that_a_kill_cut_off_is_counted_with_the_end(
    reachable_path: Path, ordinary_user: User, remote: Path
) -> None:
    with scripted_api(fault={"kind": "hang"}) as api, trio.fail_after(60):
        async with open_plane(
            reachable_path / "home", user=ordinary_user, roots=reachable_path, **tools_of(api)
        ) as plane:
            agent = await submit(plane, remote, "a")
            await seen(api.messages, "the provider is asked")
            await plane.supervisor.kill(agent, actor="tester")
            killed = await plane.over(agent)
            assert killed.status is AgentStatus.KILLED
            assert killed.usage.input_tokens > 0
            assert plane.store.state.spend.total.cost_usd == killed.usage.cost_usd > 0
            events = await plane.store.events_after(0, types=["agent.usage", "agent.killed"])
            assert [recorded.event.name for recorded in events] == ["agent.usage", "agent.killed"]


async def test_a_budget_stops_an_agent_and_keeps_its_work(
    reachable_path: Path, ordinary_user: User, remote: Path
) -> None:
    with scripted_api() as api, trio.fail_after(60):
        async with open_plane(
            reachable_path / "home", user=ordinary_user, roots=reachable_path, **tools_of(api)
        ) as plane:
            agent = await submit(plane, remote, "a", budget={"turns": 2}, maxRetries=3)
            ended = await plane.over(agent)
            [cleanup] = await plane.store.events_after(0, types=["agent.cleanup"])
        assert (ended.reason, ended.usage.turns) == (Reason.BUDGET_EXCEEDED, 2)
        assert ended.next_agent_id is None
        assert len(api.messages()) == 2
        assert cleanup.event.salvage == f"refs/salvage/{agent}"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"keys": ["another"]}, "CLAUDE_API_KEY"), ({"models": ["another"]}, "options.model")],
)
async def test_a_refused_key_or_model_is_one_line_for_everybody(
    reachable_path: Path, ordinary_user: User, remote: Path, settings: dict[str, object], named: str
) -> None:
    with scripted_api(**settings) as api, trio.fail_after(60):
        async with open_plane(
            reachable_path / "home", user=ordinary_user, roots=reachable_path, **tools_of(api)
        ) as plane:
            agents = [await submit(plane, remote, name, maxRetries=3) for name in ("a", "b", "c")]
            ended = [await plane.over(agent) for agent in agents]
        assert [agent.reason for agent in ended] == [Reason.PROVIDER_UNAVAILABLE] * 3
        assert all(named in (agent.error or "") and "\n" not in (agent.error or "") for agent in ended)
        assert len(api.messages()) == 1
