"""How many a kill ends: one look into the /proc inside says what a walk from parent to child says."""

from __future__ import annotations

import os

from sandbox.base import Layers, Spec
from sandbox.bubblewrap import BubblewrapBackend
from sandbox.census import count_inside
from sandbox.procfs import children
from tests.kit.until import seen

CROWD = """
(setsid sleep 1000 &) ; sleep 1000 &
sh -c 'sleep 1000 & exit 0'
sh -c 'true & exec sleep 1000' &
sh -c 'kill -STOP $$' &
exec sleep 1000
"""
LIVING = 6


async def test_one_look_counts_orphans_and_the_stopped_and_nobody_who_is_dead(
    bubblewrap: BubblewrapBackend, layers: Layers
) -> None:
    before = set(children(os.getpid()))
    async with bubblewrap.open(Spec("crowd", ("sh", "-c", CROWD), layers)) as sandbox:
        await seen(lambda: len(sandbox.processes()) == LIVING, "the crowd lives")
        [launcher] = set(children(os.getpid())) - before
        [outer] = children(launcher)
        assert count_inside(outer) == LIVING
        assert count_inside(launcher) is None, "the /proc that its child sees is ours"
    assert sandbox.proof is not None
    assert (sandbox.proof.killed, sandbox.proof.remaining) == (LIVING, 0)
