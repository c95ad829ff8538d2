"""F7: the wall clock is set forward or back while agents run: nothing fires early, nothing never."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio

from orchestrator.core.model import AgentStatus
from sandbox.base import User
from tests.kit.checker import check
from tests.kit.evidence import gather
from tests.kit.plane import open_plane
from tests.kit.remote import count_pushes, make_remote

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

#: Fails once, and lands at its second attempt; and what runs across the jump.
RETRIED = '[ "$ORCHESTRATOR_ATTEMPT" = 2 ] || exit 3; echo 1 > a'
ACROSS = "sleep 0.5; echo 2 > b"


class WallClock:
    """The host's wall clock, as far as somebody has set it."""

    def __init__(self) -> None:
        self.set_by = timedelta()

    def __call__(self) -> datetime:
        """Return what it shows."""
        return datetime.now(UTC) + self.set_by


@pytest.mark.parametrize("jump", [timedelta(days=1), timedelta(days=-1)], ids=["forward", "back"])
async def test_f07_a_jump_of_the_wall_clock_ends_no_agent_and_keeps_no_retry_waiting(
    reachable_path: Path, ordinary_user: User, jump: timedelta
) -> None:
    clock, remote = WallClock(), make_remote(reachable_path)
    count_pushes(remote)
    async with open_plane(
        reachable_path / "home", user=ordinary_user, roots=reachable_path, clock=clock
    ) as plane:
        across = await plane.submit(remote, ACROSS, "across")
        first = await plane.submit(remote, RETRIED, "retried", retries=1)
        with trio.fail_after(60):
            failed = await plane.over(first)
            assert failed.next_agent_id is not None
            clock.set_by = jump  # while the second attempt waits for its time
            second = await plane.over(failed.next_agent_id)
            assert second.status is AgentStatus.COMPLETED
            assert (await plane.over(across)).status is AgentStatus.COMPLETED
    evidence = gather(reachable_path / "home", remotes=[remote], at_rest=True)
    check(evidence)
    assert [one.seq for one in evidence.events] == sorted(one.seq for one in evidence.events)
