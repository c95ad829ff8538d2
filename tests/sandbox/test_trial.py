"""A ceiling is called enforced only where the kernel counted a refusal: shown on look-alikes of its files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from sandbox.base import Limits, SandboxLaunchFailed
from sandbox.cgroup import CONTROLLERS, Cgroups
from sandbox.leaf import Leaf
from sandbox.trial import enforced_by

#: What the kernel's files say after a refusal, and after none.
HELD = {
    "memory": ("memory.events", "low 0\nmax 4\noom 1\noom_kill 1\n"),
    "cpu": ("cpu.stat", "usage_usec 25000\nnr_periods 5\nnr_throttled 5\n"),
    "pids": ("pids.events", "max 3\n"),
}
NOT_HELD = {
    "memory": ("memory.events", "low 0\nmax 0\noom 0\noom_kill 0\n"),
    "cpu": ("cpu.stat", "usage_usec 500000\nnr_periods 5\nnr_throttled 0\n"),
    "pids": ("pids.events", "max 0\n"),
}


class LookAlike(Cgroups):
    """Cgroups of plain files, in which every leaf counts the same."""

    def __init__(self, place: Path, counts: Mapping[str, str], controllers: frozenset[str]) -> None:
        self._place, self._counts = place, counts
        self.controllers = controllers
        self.refusals = {name: f"{name} is elsewhere" for name in CONTROLLERS.keys() - controllers}
        self.opened: list[Limits] = []

    def open_leaf(self, label: str, limits: Limits, extra_pids: int = 0) -> Leaf:
        leaf = Leaf(self._place / f"{label}.{len(self.opened)}")
        self.opened.append(limits)
        leaf.path.mkdir()
        for name, text in {"cgroup.procs": "", **self._counts}.items():
            (leaf.path / name).write_text(text)
        return leaf

    def close_leaf_nowait(self, leaf: Leaf) -> None:
        assert (leaf.path / "cgroup.procs").read_text(), "what was tried had entered it"


@pytest.mark.parametrize("held", [(), ("memory",), ("cpu",), ("pids",), tuple(CONTROLLERS)])
async def test_controller_is_enforced_only_where_its_own_counter_tells_of_a_refusal(
    tmp_path: Path, held: tuple[str, ...]
) -> None:
    files = dict((HELD if name in held else NOT_HELD)[name] for name in CONTROLLERS)
    cgroups, refusals = LookAlike(tmp_path, files, frozenset(CONTROLLERS)), dict[str, str]()
    assert await enforced_by(cgroups, refusals) == {CONTROLLERS[name] for name in held}
    assert len(cgroups.opened) == len(CONTROLLERS)
    assert refusals.keys() == {field for name, field in CONTROLLERS.items() if name not in held}
    assert all("did not hold its ceiling" in why for why in refusals.values())


async def test_controller_whose_counter_is_missing_is_not_believed(tmp_path: Path) -> None:
    refusals: dict[str, str] = {}
    assert await enforced_by(LookAlike(tmp_path, {}, frozenset(CONTROLLERS)), refusals) == frozenset()
    assert refusals.keys() == set(CONTROLLERS.values())


async def test_controller_that_is_not_ours_is_not_tried(tmp_path: Path) -> None:
    cgroups, refusals = LookAlike(tmp_path, dict(HELD.values()), frozenset({"cpu"})), dict[str, str]()
    assert await enforced_by(cgroups, refusals) == {"cpus"}
    assert refusals == {"memory_mb": "memory is elsewhere", "pids": "pids is elsewhere"}
    assert [limits.cpus for limits in cgroups.opened] == [0.05]


class Unmakeable(LookAlike):
    """One in which no leaf can be made."""

    def open_leaf(self, label: str, limits: Limits, extra_pids: int = 0) -> Leaf:
        raise SandboxLaunchFailed(f"cannot make {label}")


async def test_trial_that_cannot_be_made_proves_nothing(tmp_path: Path) -> None:
    refusals: dict[str, str] = {}
    cgroups = Unmakeable(tmp_path, dict(HELD.values()), frozenset(CONTROLLERS))
    assert await enforced_by(cgroups, refusals) == frozenset()
    assert set(refusals.values()) == {"cannot make trial"}
