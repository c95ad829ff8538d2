"""The share of agents in a branch, counted by git from histories with people's and agents' commits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.core.share import Share
from orchestrator.repo import share as subject
from orchestrator.repo.git import Git
from orchestrator.repo.quarantine import Sealed
from orchestrator.repo.share import count_share
from tests.kit.remote import git

OURS = "\n\nTask-Id: T\nAgent-Id: 1f\n"


@dataclass
class History:
    """A repository that grows commit by commit."""

    place: Path

    @property
    def git(self) -> Git:
        return Git(self.place / ".git")

    def commit(self, message: str, **files: str) -> str:
        for name, text in files.items():
            (self.place / name).write_text(text)
        git("add", "-A", cwd=self.place)
        git("commit", "-qm", message, "--allow-empty", cwd=self.place)
        return self.head()

    def head(self) -> str:
        return git("rev-parse", "HEAD", cwd=self.place).strip()

    async def share(self, base: str, target: str, *chain: str, additions: int = 7) -> Share | str:
        """Return the share where HEAD is the candidate, or the last of a chain of commits of one agent."""
        sealed = Sealed(self.head(), 1, additions=additions, deletions=0, base=base, chain=chain)
        return await count_share(self, sealed, base, target)  # type: ignore[arg-type] - all it asks for


@pytest.fixture
def history(tmp_path: Path) -> History:
    git("init", "-q", "-b", "main", cwd=tmp_path)
    made = History(tmp_path)
    made.commit("base", old="1\n2\n3\n4\n")
    return made


async def test_candidate_alone_over_its_target_is_wholly_an_agents(history: History) -> None:
    base = history.head()
    history.commit("work", new="x\n" * 7)
    assert await history.share(base, base) == Share(7, 7)


async def test_binary_file_is_written_by_its_agent_and_one_that_goes_by_nobody(history: History) -> None:
    before = history.commit("a binary", blob="\0\n")
    (history.place / "blob").unlink()
    base = history.commit("it goes, with a line", old="1\n2\n3\n")
    assert await history.share(before, before, additions=0) == Share(0, 0)
    history.commit("code that looks like data", code="\0\n" * 9)
    assert await history.share(base, base, additions=0) == Share(1, 1)
    assert await history.share(base, before, additions=0) == Share(9, 9)


async def test_target_that_went_on_meanwhile_changes_nothing(history: History) -> None:
    base = history.head()
    target = history.commit("theirs", other="1\n2\n")
    git("checkout", "-q", base, cwd=history.place)
    history.commit("work", new="x\n" * 7)
    assert await history.share(base, target) == Share(7, 7)


async def test_lines_of_people_and_of_earlier_agents_are_told_apart(history: History) -> None:
    target = history.head()
    history.commit("a person's", old="0\n1\n2\n3\n4\n", mine="a\nb\nc\n")
    base = history.commit("an agent's" + OURS, mine="a\nB\nc\nd\n")  # one rewritten, one new
    history.commit("work", mine="a\nB\nc\nD\n", new="x\n")  # one rewritten, one new
    # What is left: a person's 0, a, c; agents' B, D, x.
    assert await history.share(base, target) == Share(3, 6)


async def test_all_commits_that_an_agent_kept_are_its_own(history: History) -> None:
    target = history.head()
    base = history.commit("a person's", mine="m\n")
    first = history.commit("kept", new="x\n" * 8)
    last = history.commit("and the last", new="x\n" * 8 + "y\n")
    assert await history.share(base, target, first, last) == Share(9, 10)


async def test_what_a_merge_brings_from_the_target_is_nobodys_and_from_a_side_branch_its_authors(
    history: History,
) -> None:
    start = history.head()
    git("checkout", "-qb", "side", cwd=history.place)
    history.commit("an agent's" + OURS, side="1\n2\n")
    git("checkout", "-q", "main", cwd=history.place)
    target = history.commit("target goes on", target="t\n" * 50)
    git("checkout", "-qb", "feature", start, cwd=history.place)
    history.commit("a person's", mine="m\n" * 5)
    for other in ("side", "main"):
        git("merge", "-q", "--no-ff", "-m", f"merge {other}", other, cwd=history.place)
    base = history.head()
    history.commit("work", new="x\n" * 3)
    assert await history.share(base, target) == Share(5, 10)


async def test_odd_names_are_names(history: History) -> None:
    target = history.head()
    base = history.commit("a person's", **{":(glob)*": "1\n", "-x": "1\n", 'q"\tü': "1\n"})
    history.commit("work", **{":(glob)*": "1\n2\n"})
    assert await history.share(base, target) == Share(1, 4)


async def test_too_much_to_count_is_not_known(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    target = history.head()
    base = history.commit("a person's", a="1\n", b="1\n")
    history.commit("work", c="1\n")
    monkeypatch.setattr(subject, "MAX_FILES", 2)
    assert await history.share(base, target) == "the branch changes more than 2 files"
    monkeypatch.setattr(subject, "MAX_COMMITS", 0)
    assert await history.share(base, target) == "the branch is more than 0 commits ahead of its target"


async def test_target_without_a_common_beginning_is_told(history: History) -> None:
    base = history.head()
    git("checkout", "-q", "--orphan", "other", cwd=history.place)
    target = history.commit("another beginning")
    git("checkout", "-q", "main", cwd=history.place)
    history.commit("work", new="x\n")
    assert await history.share(base, target) == "the branch and its target have no common beginning"
