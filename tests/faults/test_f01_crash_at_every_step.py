"""F1: SIGKILL of the supervisor at every commit of its journal; the next start finishes what was begun.

A plain run dies at some of the commits, evenly over the whole life; `FAULT_STEPS=all` at each, on every side.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from sandbox.base import User
from sandbox.process import run_child
from tests.faults.deadly import SIDES
from tests.kit.checker import check
from tests.kit.evidence import Told, gather
from tests.kit.plane import GATED
from tests.kit.remote import count_pushes, make_remote

ROOT = Path(__file__).parents[2]
EVERY = os.environ.get("FAULT_STEPS") == "all"
#: Deaths of a plain run: in the life of a task, and in a recovery.
DEATHS, RECOVERIES = 5, 1
#: A commit near the end of the life, where a push may be under way.
LATE = 13

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600 if EVERY else 300)]


async def crash(root: Path, user: User, lines: list[str]) -> list[list[str]]:
    """Let a supervisor die at each of the lines; return what was said, word by word."""
    done = await run_child(
        (sys.executable, "-m", "tests.faults.crashing", str(root), str(user.uid), str(user.gid)),
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join([str(ROOT), *filter(None, sys.path)])},
        stdin="".join(f"{line}\n" for line in lines).encode(),
        deadline_s=3000 if EVERY else 200,
    )
    said = [line.split() for line in done.stdout.decode().splitlines()]
    ends = [words for words in said if words[0] == "end"]
    assert [f"{number} {side}" for _, number, side, _, _ in ends] == lines, done.stderr.decode()[-4000:]
    assert {status for *_, status, _ in ends} <= {"0", "-9"}, done.stderr.decode()[-4000:]
    assert [words for words in ends if words[-1] != "0"] == [], "processes outlived their supervisor"
    return said


def commits_of(said: list[list[str]]) -> int:
    """Return how many commits the last whole life took."""
    return int(next(words[1] for words in reversed(said) if words[0] == "commits"))


def chosen(total: int) -> list[str]:
    """Return at which commits, and on which side of them, to die."""
    if EVERY:
        return [f"{number} {side}" for number in range(1, total + 1) for side in SIDES]
    places = sorted({1 + round(number * (total - 1) / (DEATHS - 1)) for number in range(DEATHS)})
    return [f"{number} {SIDES[at % 3]}" for at, number in enumerate(places)]


async def test_f01_a_task_ends_once_and_lands_once_whichever_commit_the_supervisor_died_at(
    reachable_path: Path, ordinary_user: User
) -> None:
    remote = make_remote(reachable_path, files=GATED)
    count_pushes(remote)
    total = commits_of(await crash(reachable_path, ordinary_user, ["9999 after"]))
    assert total >= LATE
    lines = chosen(total)
    said = await crash(reachable_path, ordinary_user, [*lines, "9999 after"])
    died = [words for words in said if words[0] == "end" and words[3] == "-9"]
    assert len(died) >= len(lines) * 3 // 4, said
    told = [Told("spawn", words[2], "ok", {"agentId": words[3]}) for words in said if words[0] == "told"]
    evidence = gather(reachable_path / "home", told=told, remotes=[remote], at_rest=True)
    check(evidence)
    ends = [one.event for one in evidence.events if one.event.name == "task.completed"]
    submitted = [one.event for one in evidence.events if one.event.name == "task.submitted"]
    assert len(ends) == len(submitted) == len({event.task_id for event in ends})
    assert len(evidence.pushes[str(remote)]) == len(ends)


async def test_f01_a_recovery_that_is_cut_is_done_by_the_next_one(
    reachable_path: Path, ordinary_user: User
) -> None:
    remote = make_remote(reachable_path, files=GATED)
    count_pushes(remote)
    numbers = range(1, 9 if EVERY else RECOVERIES + 1)
    # Cut late; then cut the recovery itself; then let all be done.
    lines = [line for n in numbers for line in (f"{LATE - n % 4} after", f"{n} recovery")]
    await crash(reachable_path, ordinary_user, [*lines, "9999 after"])
    check(gather(reachable_path / "home", remotes=[remote], at_rest=True))
