"""What a gate runs is found as its agent's."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import trio

from orchestrator.gates.mechanical import MechanicalGate
from sandbox.base import Limits, User
from sandbox.strays import find_labelled
from tests.gates.conftest import Toolchain, bubblewrap_with, exhibit_of
from tests.kit.processes import fresh_mark
from tests.kit.until import seen


async def test_a_gate_that_runs_is_found_by_the_label_of_its_agent(
    reachable_path: Path, ordinary_user: User
) -> None:
    base = {"Makefile": "test:\n\tsleep 1000\n"}
    backend = bubblewrap_with(Toolchain(), ordinary_user)
    exhibit = exhibit_of(base, base, reachable_path / "checkout", backend, Limits())
    agent_id = fresh_mark("judged")
    assert agent_id not in find_labelled()
    async with trio.open_nursery() as nursery:
        judge = partial(MechanicalGate("tests").judge, replace(exhibit, agent_id=agent_id), deadline_s=60)
        nursery.start_soon(judge)
        await seen(lambda: agent_id in find_labelled(), "its processes carry the label")
        nursery.cancel_scope.cancel()
    assert agent_id not in find_labelled()
