"""What lands: one commit or the agent's own, on branches that nobody protects, with honest trailers."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.core import events as e
from orchestrator.core.model import Reason
from sandbox.base import User
from tests.kit.plane import GATED, open_plane
from tests.kit.remote import branches, git, make_remote
from tests.kit.until import seen
from tests.supervise.test_landing_together import let_go, others_commit, planed, told

KEEP = {"landing": {"commits": "keep"}}
TWO = (
    "git add -A; echo 1 > a; git add a; git -c user.name=Eve commit -qm 'Add a' -m 'Gates: all of them';"
    "echo 2 > b; git add b; git commit -qm 'Add b'; echo 3 > c"
)


def subjects(remote: Path, branch: str) -> list[str]:
    """Return the subjects of a branch's commits over the first one, the oldest first."""
    return git("log", "--reverse", "--format=%s", branch, cwd=remote).splitlines()[1:]


async def test_an_agents_commits_are_kept_where_asked_each_made_anew(
    reachable_path: Path, ordinary_user: User
) -> None:
    remote = make_remote(reachable_path, files={"x": "1\n"})
    async with planed(reachable_path, ordinary_user) as plane:
        end = await plane.over(await plane.submit(remote, TWO, "t", **KEEP))
    assert end.reason is Reason.DONE, end
    assert subjects(remote, "agent/t")[:2] == ["Add a", "Add b"]
    assert len(subjects(remote, "agent/t")) == 3  # the last is what was left uncommitted
    assert set(git("log", "--format=%an %cn", "main..agent/t", cwd=remote).split()) == {"Orchestrator"}
    assert "all of them" not in git("log", "-1", "--format=%B", "agent/t~2", cwd=remote)
    told = git("log", "--format=%B", "main..agent/t", cwd=remote)
    assert told.count("Task: t\n") == told.count("Gates: none") == told.count("Role: worker") == 3


async def test_kept_commits_are_brought_onto_a_moved_base_one_by_one(
    reachable_path: Path, ordinary_user: User
) -> None:
    remote = make_remote(reachable_path, files={"x": "1\n"})
    async with planed(reachable_path, ordinary_user) as plane:
        script = TWO + "; while [ ! -e go ]; do sleep 0.05; done; rm go"
        agent = await plane.submit(remote, script, "t", **KEEP)
        await seen(lambda: list(reachable_path.glob("home/workspaces/*/*/c")), "its work")
        others_commit(remote, "theirs", "x")
        let_go(reachable_path, "c", "go")
        end = await plane.over(agent)
    assert end.reason is Reason.DONE, end
    assert subjects(remote, "agent/t")[:3] == ["theirs", "Add a", "Add b"]
    assert git("diff", "--name-only", "agent/t~3", "agent/t", cwd=remote).split() == ["a", "b", "c"]


@pytest.mark.parametrize("others", [False, True])
async def test_a_further_attempt_takes_the_place_of_its_tasks_own_commits_and_of_nobody_elses(
    reachable_path: Path, ordinary_user: User, others: bool
) -> None:
    remote = make_remote(reachable_path, files={"x": "1\n"})
    together = {"landing": {"commits": "keep", "branch": "together"}}
    async with planed(reachable_path, ordinary_user) as plane:
        await plane.over(await plane.submit(remote, TWO, "t", **together))
        first = branches(remote)["together"]
        if others:
            others_commit(remote, "theirs", "x", branch="together")
        anew = TWO.replace("echo 3 > c", "echo 4 > d")
        end = await plane.over(await plane.submit(remote, anew, "t", **together))
    assert (end.reason, end.turn) == (Reason.DONE, 1), end
    files = git("ls-tree", "--name-only", "together", cwd=remote).split()
    if others:
        git("merge-base", "--is-ancestor", first, "together", cwd=remote)
        assert files == ["a", "b", "c", "d", "theirs", "x"]
    else:
        assert subjects(remote, "together")[:2] == ["Add a", "Add b"]
        assert (len(subjects(remote, "together")), files) == (3, ["a", "b", "d", "x"])


MERGES = (
    "echo 1 > a; git add a; git commit -qm 'Add a'; git checkout -q -b side HEAD^; echo 2 > b; git add b;"
    "git commit -qm 'Add b'; git merge -q -m 'Merge' agent"
)
THOUSAND = r"""
commit='commit refs/heads/many\ncommitter a <a@a> 1700000000 +0000\ndata 0\n\nM 644 inline f\ndata %d\n%s\n'
{ printf 'reset refs/heads/many\nfrom %s\n\n' "$(git rev-parse HEAD)"
  seq 1000 | awk -v "commit=$commit" '{ printf commit, length($0), $0 }'; } | git fast-import --quiet
git checkout -q many
"""


@pytest.mark.parametrize(("script", "count"), [(MERGES, 3), (THOUSAND, 1000)], ids=["merges", "thousand"])
async def test_a_history_that_is_no_short_line_becomes_one_commit_and_the_log_says_so(
    reachable_path: Path, ordinary_user: User, script: str, count: int
) -> None:
    remote = make_remote(reachable_path, files={"x": "1\n"})
    async with planed(reachable_path, ordinary_user) as plane:
        counted = f"{script}\necho made $(git rev-list --count HEAD)"
        end = await plane.over(await plane.submit(remote, counted, "t", **KEEP))
        said = [line.content for line in await plane.store.logs.read(end.id)]
    assert end.reason is Reason.DONE, end
    assert len(subjects(remote, "agent/t")) == 1
    assert f"made {count + 1}" in said
    assert any("land as one" in line for line in said), said


async def test_a_commit_that_the_policy_forbids_is_found_below_one_that_hides_it(
    reachable_path: Path, ordinary_user: User
) -> None:
    remote = make_remote(reachable_path, files={"x": "1\n"})
    hides = (
        "ln -s /etc/passwd link; git add link; git commit -qm 'Add it'; git rm -q link;"
        "echo 1 > a; git add a; git commit -qm 'Hide it'"
    )
    async with planed(reachable_path, ordinary_user) as plane:
        end = await plane.over(await plane.submit(remote, hides, "t", **KEEP))
    assert (end.reason, list(branches(remote))) == (Reason.POLICY_VIOLATION, ["main"])


@pytest.mark.parametrize(("branch", "reason"), [("trunk", Reason.POLICY_VIOLATION), ("other", Reason.DONE)])
async def test_the_remotes_default_branch_is_not_landed_on_whatever_it_is_called(
    reachable_path: Path, ordinary_user: User, branch: str, reason: Reason
) -> None:
    remote = make_remote(reachable_path, files={"x": "1\n"})
    git("branch", "trunk", "main", cwd=remote)
    git("symbolic-ref", "HEAD", "refs/heads/trunk", cwd=remote)
    async with open_plane(
        reachable_path / "home", user=ordinary_user, roots=reachable_path, protected=("HEAD",)
    ) as plane:
        end = await plane.over(await plane.submit(remote, "echo 1 > a", "t", landing={"branch": branch}))
        turns = await told(plane, "agent.turn")
    assert end.reason is reason, end
    assert branches(remote)["trunk"] == branches(remote)["main"]
    assert len(turns) == (reason is Reason.DONE)  # nobody works for what cannot land


async def test_whoever_skips_the_gates_is_audited_shown_and_named_in_the_commit(
    reachable_path: Path, ordinary_user: User
) -> None:
    remote = make_remote(reachable_path, files=GATED)
    async with open_plane(
        reachable_path / "home", user=ordinary_user, roots=reachable_path, yolo=True
    ) as plane:
        end = await plane.over(await plane.submit(remote, "echo -1 > value", "t", gated=True))
        used = await told(plane, "yolo.used")
    assert (end.reason, end.yolo, end.verdicts) == (Reason.DONE, True, ())
    assert "Gates: skipped (YOLO)" in git("log", "-1", "--format=%B", "agent/t", cwd=remote)
    [event] = used
    assert isinstance(event, e.YoloUsed)
    assert (event.commit, event.gates) == (end.commit, ("tests",))
