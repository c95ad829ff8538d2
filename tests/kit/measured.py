"""Which of the processes that tests start are measured for coverage: that doubles what a start takes.

Of services, the first of a file of tests that `FILES` names: all run nearly the same, and of the lines that
any ran these ran more than 95 in 100. Of commands, the first of its name in each file. Others are not.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

#: By which coverage measures a process that a measured one starts.
_NAMES = ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG")
#: Whose services run what those of no other file do: the widest, and what each adds to those above it.
FILES = frozenset(
    f"tests/{room}/test_{name}.py"
    for room, names in {
        "system": (
            "podman_agents", "two_processes", "review", "setup", "freeze", "coordinator", "terminal",
            "dead_provider", "results", "resume",
        ),
        "faults": ("soak",),
        "cli": ("commands",),
    }.items()
    for name in names
)  # fmt: skip
_seen: set[str] = set()


def measured(command: str = "serve") -> dict[str, str]:
    """Return what the environment of a new process gets: see the module."""
    file = os.environ.get("PYTEST_CURRENT_TEST", "").partition("::")[0]
    key = f"{file} {command}"
    if key in _seen or (command == "serve" and file not in FILES):
        return {}
    _seen.add(key)
    return {name: os.environ[name] for name in _NAMES if name in os.environ}


def unmeasured(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return an environment, by default this one, for a process that is not measured."""
    return {name: value for name, value in environment.items() if name not in _NAMES}
