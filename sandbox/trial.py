"""Try what the kernel is said to enforce through cgroups, and believe only what it counted as refused.

The invariant: a ceiling is called enforced here only after the kernel's own counter said, just now, that it
held one. Caller: `sandbox.probe`.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from sandbox.base import Limits, SandboxError
from sandbox.cgroup import CONTROLLERS, Cgroups
from sandbox.layout import SYSTEM_PATH
from sandbox.leaf import Leaf
from sandbox.process import open_child

Counter = Callable[[Leaf], int]

_TRIAL_S = 10.0
#: For each controller: a ceiling, a script that wants more, and the counter that tells.
_TRIALS: dict[str, tuple[Limits, str, Counter]] = {
    "memory": (Limits(memory_mb=32), "head -c 134217728 /dev/zero | tail >/dev/null", Leaf.oom_kills),
    "cpu": (Limits(cpus=0.05), "timeout 0.5 sh -c 'while :; do :; done'", Leaf.throttled),
    "pids": (Limits(pids=4), "for i in 1 2 3 4 5 6 7 8; do sleep 1 & done", Leaf.refused_forks),
}


async def enforced_by(cgroups: Cgroups, refusals: dict[str, str]) -> frozenset[str]:
    """Return the fields of `Limits` that the kernel keeps for a leaf; `refusals` gets the rest."""
    held = set()
    for controller, field in CONTROLLERS.items():
        if controller not in cgroups.controllers:
            refusals[field] = cgroups.refusals[controller]
            continue
        limits, script, counter = _TRIALS[controller]
        try:
            refused = await _counted(cgroups, limits, script, counter)
        except SandboxError as error:
            refusals[field] = str(error)
            continue
        if refused:
            held.add(field)
        else:
            refusals[field] = f"the controller {controller!r} is there, but did not hold its ceiling just now"
    return frozenset(held)


async def _counted(cgroups: Cgroups, limits: Limits, script: str, counter: Counter) -> int:
    """Run the script in a leaf of its own; return what the counter says then."""
    leaf = cgroups.open_leaf("trial", limits)
    try:
        with trio.move_on_after(_TRIAL_S):
            async with open_child(("/bin/sh", "-c", script), env={"PATH": SYSTEM_PATH}, leaf=leaf) as child:
                await child.wait()
        return counter(leaf)
    finally:
        cgroups.close_leaf_nowait(leaf)
