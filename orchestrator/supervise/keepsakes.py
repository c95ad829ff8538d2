"""What is kept of agents that did not land: told, shown, dropped by hand, and by time.

Invariant: nothing goes without an entry in the audit trail. Given to `api` at assembly; `reaper` lets go what
is older than `SALVAGE_KEEP_DAYS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from orchestrator.core.salvages import Salvage, SalvageDetail, SalvagedFile, SalvageDropped, SalvageList
from orchestrator.journal.store import AuditEntry, Store, utc_now
from orchestrator.repo import keepsakes
from orchestrator.repo.compare import read_diff
from orchestrator.repo.git import Git
from orchestrator.repo.keepsakes import Kept
from orchestrator.repo.repositories import Repositories

#: What one list tells.
MAX_TOLD = 1000


@dataclass(frozen=True, slots=True)
class Keepsakes:
    """All that is kept."""

    store: Store
    repositories: Repositories
    #: After how many days it goes; 0 is never.
    keep_days: int = 0
    clock: Callable[[], datetime] = utc_now

    async def list(self) -> SalvageList:
        """Tell all that is kept, the newest first."""
        found = keepsakes.find_all(self.repositories.mirrors_at)
        told = tuple([await self._describe(kept) for kept in found[:MAX_TOLD]])
        return SalvageList(salvages=told, more=max(0, len(found) - MAX_TOLD), keep_days=self.keep_days)

    async def show(self, agent_id: str) -> SalvageDetail | None:
        """Tell what is kept of one agent, None for nothing."""
        kept = keepsakes.find(self.repositories.mirrors_at, agent_id)
        if kept is None:
            return None
        base = await self._base_of(kept)
        files, more = await keepsakes.changes(kept, base)
        told = tuple(
            SalvagedFile(path=file.path, additions=file.additions, deletions=file.deletions) for file in files
        )
        return SalvageDetail(
            **dict(await self._describe(kept)),
            base=base,
            files=told,
            more=more,
            fetch=f"git fetch {kept.mirror} {kept.ref}",
        )

    async def patch(self, agent_id: str, *, max_bytes: int) -> bytes | None:
        """Return what is kept of one agent as a patch, cut with a mark; None for nothing."""
        kept = keepsakes.find(self.repositories.mirrors_at, agent_id)
        if kept is None:
            return None
        base = await self._base_of(kept)
        return await read_diff(Git(kept.mirror), base, kept.commit, max_bytes=max_bytes)

    async def drop(self, agent_id: str, *, actor: str) -> SalvageDropped | None:
        """Keep the work of an agent no more; None where there was nothing."""
        kept = keepsakes.find(self.repositories.mirrors_at, agent_id)
        if kept is None or not await keepsakes.drop(kept):
            return None
        await self.store.audit(AuditEntry(actor, "salvage.drop", agent_id, "dropped", kept.commit))
        return SalvageDropped(agent_id=agent_id, commit=kept.commit)

    async def expire(self) -> int:
        """Let go what is older than it may be; return how many."""
        if not self.keep_days:
            return 0
        oldest = self.clock() - timedelta(days=self.keep_days)
        gone = [each for each in keepsakes.find_all(self.repositories.mirrors_at) if each.at < oldest]
        for kept in gone:
            await self.drop(kept.agent_id, actor="SALVAGE_KEEP_DAYS")
        return len(gone)

    async def _base_of(self, kept: Kept) -> str:
        agent = await self.store.find_agent(kept.agent_id)
        return await keepsakes.base_of(kept, agent.base if agent else None)

    async def _describe(self, kept: Kept) -> Salvage:
        agent = await self.store.find_agent(kept.agent_id)
        task = await self.store.find_task(agent.task_id) if agent else None
        return Salvage(
            agent_id=kept.agent_id,
            task_id=agent.task_id if agent else None,
            repository=task.spec.context.repository if task else None,
            reason=agent.reason if agent else None,
            ref=kept.ref,
            commit=kept.commit,
            kept_at=kept.at,
        )
