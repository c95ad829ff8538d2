"""What becomes of finished work whose coordinator is away for a while."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.core import events as e
from orchestrator.gates.coordinator import Coordinator
from orchestrator.gates.judges import Judges
from sandbox.base import User
from tests.kit import coordinator as kit
from tests.kit.coordinator import APPROVES, running
from tests.kit.plane import open_plane
from tests.kit.remote import branches, make_remote

#: Who waits for another machine does so for some seconds.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


async def test_gate_that_no_judge_could_run_is_told_before_the_first_turn(
    reachable_path: Path, ordinary_user: User
) -> None:
    remotes = reachable_path / "remotes"
    remotes.mkdir()
    remote = make_remote(remotes)
    with running(APPROVES) as coordinator:
        coordinator.health["gates"] = ["tests"]
        judges = Judges(local=False, coordinator=Coordinator(coordinator.url))
        async with open_plane(
            reachable_path / "home", user=ordinary_user, roots=remotes, judges=judges
        ) as plane:
            for gate, why in (
                ("ai-review", "the coordinator does not have the gate ai-review"),
                ("smoke", "the base commit does not say how the gate 'smoke' is run"),
            ):
                agent = await plane.over(await plane.submit(remote, "echo a > a", gate, gates=[gate]))
                assert (agent.reason, agent.answered) == ("gate_rejected", 0)
                assert why in (agent.error or "")
    assert not coordinator.asked


async def test_finished_work_waits_for_a_coordinator_and_lands_without_another_turn(
    reachable_path: Path, ordinary_user: User
) -> None:
    remotes = reachable_path / "remotes"
    remotes.mkdir()
    remote = make_remote(remotes)
    with running(kit.hangs_up, APPROVES) as coordinator:
        impatient = Coordinator(coordinator.url, pause=lambda *_: None)
        judges = Judges(local=False, coordinator=impatient, patience_s=60)
        async with open_plane(
            reachable_path / "home", user=ordinary_user, roots=remotes, judges=judges
        ) as plane:
            agent = await plane.over(await plane.submit(remote, "echo a > a", "WAITS", gated=True))
            turns = await plane.store.events_after(0, types=[e.AgentTurn.name], agent_id=agent.id, limit=9)
    assert agent.status == "completed", agent
    assert "agent/WAITS" in branches(remote)
    assert len(turns) == 1
    assert [(verdict.gate, verdict.approved) for verdict in agent.verdicts] == [
        ("coordinator", False),
        ("quality", True),
        ("quality", True),
    ]
