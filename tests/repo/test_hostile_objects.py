"""T-git-3: objects that git or the policy must refuse, and candidates that would never end."""

from __future__ import annotations

import base64
import hashlib
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from orchestrator.errors import ImportRefused
from orchestrator.repo.policy import Policy, link_trouble
from orchestrator.repo.quarantine import Quarantine
from orchestrator.repo.worktree import Worktree
from sandbox.base import Backend
from tests.kit.remote import git
from tests.repo.stage import Stage

BLOB, TREE, LINK, GITLINK = b"100644", b"40000", b"120000", b"160000"


def write(repository: Path, kind: str, content: bytes) -> bytes:
    """Write an object, however wrong, and return its id in bytes."""
    argv = ["git", "-C", str(repository), "hash-object", "-w", "--literally", "-t", kind, "--stdin"]
    done = subprocess.run(argv, input=content, capture_output=True, check=True)
    return bytes.fromhex(done.stdout.decode())


def tree(*entries: tuple[bytes, bytes, bytes]) -> bytes:
    """Return the content of a tree."""
    return b"".join(mode + b" " + name + b"\0" + oid for mode, name, oid in entries)


@asynccontextmanager
async def open_candidate(stage: Stage) -> AsyncGenerator[tuple[Worktree, Quarantine, Path], None]:
    """Give a quarantine into which the test writes as if an agent had pushed."""
    async with stage.open_worktree() as worktree:
        yield worktree, worktree.quarantine, worktree.quarantine.directory


def commit(repository: Path, root: bytes, base: str) -> str:
    """Return a commit with this tree."""
    return git("commit-tree", root.hex(), "-p", base, "-m", "hostile", cwd=repository).strip()


def count_objects(quarantine: Quarantine) -> int:
    """Return how many files of objects there are."""
    names = [path for path in (quarantine.directory / "objects").rglob("*") if path.is_file()]
    return len([path for path in names if path.name != "alternates"])


#: Trees, as the agent's own git makes them: entries of (mode, name), all of one blob or one tree.
REFUSED_BY_GIT = {
    "dot git": [(TREE, b".git")],
    "dot GIT": [(TREE, b".GIT")],
    "git tilde 1": [(BLOB, b"git~1")],
    "dot dot": [(TREE, b"..")],
    "dot": [(TREE, b".")],
    "slash": [(BLOB, b"../evil")],
    "duplicates": [(BLOB, b"a"), (BLOB, b"a")],
    "unsorted": [(BLOB, b"b"), (BLOB, b"a")],
    "empty name": [(BLOB, b"")],
    "link as modules": [(LINK, b".gitmodules")],
    "hostile modules": [(BLOB, b".gitmodules")],
}

MODULES = b'[submodule "../../x"]\n\tpath = -u./payload\n\turl = --upload-pack=touch\n'
PLANT = """
printf '%s' "$MODULES" | base64 -d | git hash-object -w --stdin
root=$(printf '%s' "$ROOT" | base64 -d | git hash-object -w --literally -t tree --stdin)
git update-ref HEAD "$(git commit-tree "$root" -p HEAD -m evil)"
echo x > work.txt
"""


@pytest.mark.parametrize("name", REFUSED_BY_GIT)
async def test_a_hostile_object_in_the_history_is_refused_and_nothing_is_kept(
    stage: Stage, name: str
) -> None:
    blob = hashlib.sha1(b"blob %d\0" % len(MODULES) + MODULES, usedforsecurity=False).digest()
    below = bytes.fromhex(git("rev-parse", "main:src", cwd=stage.bare).strip())
    root = tree(*((mode, entry, below if mode == TREE else blob) for mode, entry in REFUSED_BY_GIT[name]))
    async with stage.open_worktree() as worktree:
        encoded = {"ROOT": base64.b64encode(root).decode(), "MODULES": base64.b64encode(MODULES).decode()}
        outcome = await stage.act(worktree, "set -e\n" + PLANT, **encoded)
        assert outcome.exit.ok, outcome
        with pytest.raises(ImportRefused, match="refused"):
            await stage.collect(worktree)
        assert count_objects(worktree.quarantine) == 0


async def test_a_push_beyond_the_ceiling_is_refused_and_nothing_is_kept(stage: Stage) -> None:
    small = "[receive]\n\tmaxInputSize = 100000\n"
    async with stage.open_worktree() as worktree:
        with (worktree.quarantine.directory / "config").open("a") as config:
            config.write(small)
        await stage.must(worktree, "head -c 1000000 /dev/urandom > big")
        with pytest.raises(ImportRefused, match="refused"):
            await stage.collect(worktree)
        assert count_objects(worktree.quarantine) == 0


@pytest.mark.parametrize(
    ("mode", "name", "rule"),
    [
        (GITLINK, b"sub", "gitlink"),
        (BLOB, b"new\nline", "name"),
        (BLOB, b"esc\x1b[31m", "name"),
        (BLOB, "bidi\u202egpj.exe".encode(), "name"),
        (BLOB, "zero\u200bwidth".encode(), "name"),
        (BLOB, b"readme.md", "name"),
        (BLOB, b"README.MD", "name"),
        (BLOB, ".g\u200cit".encode(), "name"),
        (BLOB, b".git.", "name"),
        (BLOB, b"n" * 2000, "path"),
    ],
)
async def test_the_policy_names_what_git_lets_through(
    stage: Stage, mode: bytes, name: bytes, rule: str
) -> None:
    async with open_candidate(stage) as (worktree, quarantine, at):
        oid = bytes.fromhex(worktree.base.commit) if mode == GITLINK else write(at, "blob", b"x\n")
        readme = write(at, "blob", b"hello\n")
        entries = sorted([(BLOB, b"README.md", readme), (mode, name, oid)], key=lambda entry: entry[1])
        root = write(at, "tree", tree(*entries))
        found = await quarantine.judge(commit(at, root, worktree.base.commit))
    assert rule in {violation.rule for violation in found}
    assert all(violation.path.isprintable() and len(violation.path) <= 300 for violation in found)


@pytest.mark.parametrize(
    ("path", "target", "fine"),
    [
        (b"link", b"README.md", True),
        (b"a/b/link", b"../../README.md", True),
        (b"a/link", b"./../a/../README.md", True),
        (b"link", b"/etc/passwd", False),
        (b"link", b"..", False),
        (b"a/link", b"../../x", False),
        (b"a/link", b"b/../../../x", False),
        (b"link", b".git/config", False),
        (b"a/link", b"../.GIT/hooks", False),
        (b"link", b"", False),
        (b"link", b"a\0b", False),
        (b".gitattributes", b"README.md", False),
        (b"d/.gitmodules", b"x", False),
    ],
)
def test_a_link_may_only_lead_to_what_is_inside(path: bytes, target: bytes, fine: bool) -> None:
    assert (link_trouble(path, target) is None) is fine


async def test_what_the_base_already_has_is_nobodys_fault(stage: Stage) -> None:
    seed = stage.remotes / "repo.seed"
    (seed / "out").symlink_to("/etc")
    git("update-index", "--add", "--cacheinfo", f"160000,{stage.main},sub", cwd=seed)
    git("add", "out", cwd=seed)
    git("commit", "-qm", "odd", cwd=seed)
    git("push", "-q", str(stage.bare), "main", cwd=seed)
    async with stage.open_worktree() as worktree:
        await stage.must(worktree, "echo x > x")
        candidate = await stage.collect(worktree)
        assert candidate is not None
        assert await worktree.quarantine.judge(candidate) == []


async def test_a_bomb_is_a_violation_within_five_seconds(stage: Stage) -> None:
    async with open_candidate(stage) as (worktree, quarantine, at):
        level = write(at, "blob", b"boom")
        mode = BLOB
        for _ in range(12):
            level = write(at, "tree", tree(*[(mode, b"d%d" % number, level) for number in range(10)]))
            mode = TREE
        bomb = commit(at, level, worktree.base.commit)
        with trio.fail_after(5):
            found = await quarantine.judge(bomb)
        assert [violation.rule for violation in found] == ["size"]
        # Nor may it hold up whoever looks at it unjudged, as a salvaged one is.
        with trio.fail_after(90):
            await quarantine.subject_of(bomb)


async def test_a_bomb_of_nothing_is_a_violation_too(stage: Stage) -> None:
    async with open_candidate(stage) as (worktree, quarantine, at):
        level = write(at, "tree", b"")
        for _ in range(40):
            level = write(at, "tree", tree((TREE, b"a", level), (TREE, b"b", level)))
        with trio.fail_after(5):
            found = await quarantine.judge(commit(at, level, worktree.base.commit))
        assert [violation.rule for violation in found] == ["size"]


async def test_ceilings_on_files_and_their_sum(reachable_path: Path, bubblewrap: Backend) -> None:
    stage = Stage(
        reachable_path, bubblewrap, Policy(max_entries=20, max_file_bytes=1000, max_total_bytes=2500)
    )
    async with stage.open_worktree() as worktree:
        await stage.must(worktree, "head -c 1001 /dev/zero > big")
        found = await worktree.quarantine.judge(await stage.collect(worktree) or "")
        assert [(violation.rule, violation.path) for violation in found] == [("size", "big")]
        await stage.must(worktree, "rm big; for i in 1 2 3; do head -c 900 /dev/urandom > f$i; done")
        found = await worktree.quarantine.judge(await stage.collect(worktree) or "")
        assert [(violation.rule, violation.path) for violation in found] == [("size", "")]
        await stage.must(worktree, "rm f*; seq 30 | xargs touch")
        found = await worktree.quarantine.judge(await stage.collect(worktree) or "")
        assert "more than 20 entries" in found[0].detail
