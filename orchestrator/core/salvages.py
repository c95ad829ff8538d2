"""What is kept of agents that did not land, as values: found by `supervise.keepsakes`, answered by `api`.

Names on the wire are camelCase. Lenient where a client reads: a newer version may answer with more fields.
"""

from __future__ import annotations

from orchestrator.core.answer import Answer
from orchestrator.core.model import Reason
from orchestrator.core.moment import Moment


class Salvage(Answer):
    """The work of one agent; its task is null where the journal knows the agent no more."""

    agent_id: str
    task_id: str | None = None
    repository: str | None = None
    reason: Reason | None = None
    ref: str
    commit: str
    kept_at: Moment


class SalvageList(Answer):
    """All that is kept, the newest first; `more` counts what is not told."""

    salvages: tuple[Salvage, ...]
    more: int = 0
    #: After how many days each goes; 0 is never.
    keep_days: int


class SalvagedFile(Answer):
    """One file of it; no counts for what is no text."""

    path: str
    additions: int | None = None
    deletions: int | None = None


class SalvageDetail(Salvage):
    """One of them, with its files, and how to get at it on this host."""

    base: str
    files: tuple[SalvagedFile, ...]
    more: int = 0
    #: The command that brings it into a clone, run by who may read the state directory.
    fetch: str


class SalvageDropped(Answer):
    """It is kept no more."""

    agent_id: str
    commit: str
    dropped: bool = True
