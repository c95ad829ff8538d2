"""The runtimes of this version, by name.

The invariant: a name that `find_runtime` accepts has a runtime behind it that works. Callers: the API, when
a task is submitted, and `supervise.run`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from orchestrator.agents.base import Runtime
from orchestrator.agents.command import CommandRuntime
from orchestrator.core.spec import TaskSpec
from orchestrator.errors import RuntimeUnknown

RUNTIMES: Mapping[str, Runtime] = MappingProxyType({"command": CommandRuntime()})


def default_runtime(spec: TaskSpec) -> str:
    """Return the name of the runtime that the task asks for, or of the one that it gets."""
    return spec.options.runtime or "command"


def find_runtime(name: str) -> Runtime:
    """Return the runtime of that name, or raise `RuntimeUnknown` with the names that there are."""
    runtime = RUNTIMES.get(name)
    if runtime is None:
        known = ", ".join(sorted(RUNTIMES))
        raise RuntimeUnknown(f"options.runtime: {name!r} is no runtime of this version (known: {known})")
    return runtime
