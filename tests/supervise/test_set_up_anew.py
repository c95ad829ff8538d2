"""A base that moves on and asks for another set-up: gates and agents stand on what that one made, or end."""

from __future__ import annotations

from pathlib import Path

from orchestrator.core import events as e
from orchestrator.core.model import Reason
from sandbox.base import User
from tests.kit.remote import branches, git, make_remote
from tests.kit.until import seen
from tests.supervise.test_landing_together import let_go, others_commit, planed, told

#: The gate fails on the set-up of any base but the candidate's own.
FILES = {
    "orchestrator.toml": (
        "[setup]\ncommand = 'mkdir .venv && cp wanted .venv/made'\ninputs = ['wanted']\n"
        "[gates.tests]\ncommand = 'echo 1..1; cmp wanted .venv/made && echo ok 1'\n"
    ),
    "wanted": "1\n",
    "log": "one\n",
}
WAITS = "while [ ! -e go ]; do sleep 0.05; done; rm go"


async def test_what_moved_on_is_judged_and_worked_on_upon_the_set_up_of_its_new_base(
    reachable_path: Path, ordinary_user: User
) -> None:
    remote = make_remote(reachable_path, files=FILES)
    root = reachable_path
    async with planed(root, ordinary_user) as plane:
        fits = await plane.submit(remote, f"touch fits; {WAITS}; echo x >fits", "fits", gated=True)
        goes = f"touch mine; {WAITS}; echo mine >log"
        again = f'[ "$ORCHESTRATOR_TURN" = 1 ] && {{ {goes}; }} || cp .venv/made log'
        conflicts = await plane.submit(remote, again, "conflicts", gated=True)
        late = await plane.submit(remote, f"touch late; {WAITS}; echo x >late", "late", gated=True)
        for name in ("fits", "mine", "late"):
            await seen(lambda name=name: list(root.glob(f"home/workspaces/*/*/{name}")), name)
        others_commit(remote, "wanted", "2\n")
        main = others_commit(remote, "log", "theirs\n")
        let_go(root, "fits", "go")
        let_go(root, "mine", "go")
        end = await plane.over(fits)
        assert (end.reason, end.turn, end.base) == (Reason.DONE, 1, main), end
        end = await plane.over(conflicts)
        assert (end.reason, end.turn, end.conflicts, end.base) == (Reason.DONE, 2, 1, main), end
        assert git("show", "agent/conflicts:log", cwd=remote) == "2\n"
        others_commit(remote, "wanted", "3\n")
        broken = FILES["orchestrator.toml"].replace("mkdir .venv", "echo no such package; exit 3")
        others_commit(remote, "orchestrator.toml", broken)
        let_go(root, "late", "go")
        end = await plane.over(late)
        cleanup = await told(plane, "agent.cleanup", late)
        phases = await told(plane, "agent.phase", fits)
    assert (end.reason, end.next_agent_id) == (Reason.REPOSITORY_ERROR, None), end
    assert "exit status 3" in (end.error or "")
    assert "no such package" in (end.error or "")
    assert isinstance(cleanup[0], e.AgentCleanup)
    assert cleanup[0].salvage
    assert "agent/late" not in branches(remote)
    details = [(each.phase, each.detail) for each in phases if isinstance(each, e.AgentPhase) and each.detail]
    assert details == [("preparing", "set-up"), ("checking", "set-up")]
