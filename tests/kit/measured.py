"""Which of the processes that tests start are measured for coverage: that doubles what a start takes.

The first of each file of tests is: it has run what all of them run. The others are told of no coverage.
"""

from __future__ import annotations

import os

#: By which coverage measures a process that a measured one starts.
_NAMES = ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG")
_seen: set[str] = set()


def measured() -> dict[str, str]:
    """Return what the environment of a new process gets: the first of a file of tests is measured."""
    file = os.environ.get("PYTEST_CURRENT_TEST", "").partition("::")[0]
    if file in _seen:
        return {}
    _seen.add(file)
    return {name: os.environ[name] for name in _NAMES if name in os.environ}


def unmeasured() -> dict[str, str]:
    """Return this environment for a process that is not measured."""
    return {name: value for name, value in os.environ.items() if name not in _NAMES}
