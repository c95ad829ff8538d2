"""A stage for this room's tests: a state directory, real remotes and sandboxes, agents that are scripts."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.core.model import PushIntent
from orchestrator.repo.bare import Identity
from orchestrator.repo.landing import land
from orchestrator.repo.policy import Policy
from orchestrator.repo.repositories import Repositories
from orchestrator.repo.url import UrlRules
from orchestrator.repo.worktree import Worktree
from sandbox.base import Backend, Limits, Spec
from tests.kit.remote import git, make_remote
from tests.kit.sandboxes import Outcome, run_in

IDENTITY = Identity('The "Only" Committer', "orc@example.org")
COLLECT_S = 20.0


@dataclass
class Stage:
    """Everything between a remote and an agent."""

    root: Path
    backend: Backend
    policy: Policy = field(default_factory=Policy)

    def __post_init__(self) -> None:
        self.remotes = self.root / "remotes"
        self.remotes.mkdir()
        self.home = self.root / "home"
        self.home.mkdir(mode=0o711)
        self.bare = make_remote(self.remotes)
        self.url = f"file://{self.bare}"
        self.repositories = self.open_repositories()

    def open_repositories(self) -> Repositories:
        """Return what a freshly started process would have."""
        return Repositories(
            self.home,
            user=self.backend.user,
            layered=self.backend.layered,
            rules=UrlRules((self.remotes,)),
            identity=IDENTITY,
            policy=self.policy,
        )

    @property
    def main(self) -> str:
        """The commit that the remote has under main."""
        return git("rev-parse", "main", cwd=self.bare).strip()

    def advance(self, text: str = "more\n", branch: str = "main") -> str:
        """Let somebody else push a commit to the remote, and return it."""
        seed = self.remotes / "repo.seed"
        git("checkout", "-q", "-B", branch, cwd=seed)
        (seed / "elsewhere.txt").write_text(text)
        git("add", "-A", cwd=seed)
        git("commit", "-qm", "somebody else", cwd=seed)
        git("push", "-q", "-f", str(self.bare), branch, cwd=seed)
        return git("rev-parse", "HEAD", cwd=seed).strip()

    @asynccontextmanager
    async def open_worktree(
        self, agent_id: str = "a1", task_id: str = "T-1"
    ) -> AsyncGenerator[Worktree, None]:
        """Give a worktree on main."""
        base = await self.repositories.resolve(self.url, "main")
        async with self.repositories.open_worktree(
            base, agent_id=agent_id, task_id=task_id, backend=self.backend
        ) as worktree:
            yield worktree

    async def act(self, worktree: Worktree, script: str, **env: str) -> Outcome:
        """Let the agent run a shell script in its worktree."""
        spec = Spec("agent", ("sh", "-c", script), worktree.workspace, env=env, binds=worktree.binds)
        return await run_in(self.backend, spec)

    async def must(self, worktree: Worktree, script: str) -> str:
        """Let the agent run a script that has to succeed, and return its output."""
        outcome = await self.act(worktree, "set -e\n" + script)
        assert outcome.exit.ok, outcome
        return outcome.stdout

    async def collect(self, worktree: Worktree, deadline_s: float = COLLECT_S) -> str | None:
        """Collect the agent's work."""
        return await worktree.collect(limits=Limits(), deadline_s=deadline_s, message="Left over")

    async def deliver(self, worktree: Worktree, ref: str = "refs/heads/agent/T-1") -> str:
        """Take the agent's work the whole way to the remote and return the commit."""
        candidate = await self.collect(worktree)
        assert candidate is not None
        assert await worktree.quarantine.judge(candidate) == []
        sealed = await worktree.quarantine.seal(candidate, "Do it\n\nTask: T-1\nAgent: a1")
        await land(worktree.base, worktree.quarantine, intent(self.url, ref, sealed.commit))
        return sealed.commit

    async def look(self, worktree: Worktree, commit: str, script: str) -> str:
        """Run a script on a fresh checkout of a commit, as a gate would."""
        async with worktree.quarantine.open_checkout(commit, backend=self.backend) as checkout:
            spec = Spec("gate", ("sh", "-c", "set -e\n" + script), checkout.workspace, binds=checkout.binds)
            outcome = await run_in(self.backend, spec)
            assert outcome.exit.ok, outcome
            assert outcome.stderr == ""
            return outcome.stdout


def intent(url: str, ref: str, new: str, old: str = "") -> PushIntent:
    """Return a push as it would be journaled."""
    return PushIntent(remote=url, ref=ref, old=old, new=new)
