"""What the API answers about what nobody needs on the host; see `core.answer`."""

from __future__ import annotations

from orchestrator.core.answer import Answer


class GarbageItem(Answer):
    """One thing on the host that nobody needs; `name` is seen from the state directory."""

    kind: str
    name: str
    bytes: int
    why: str
    removed: bool = False
    error: str | None = None


class GarbageFound(Answer):
    """What nobody needs, and what became of it."""

    dry_run: bool
    items: tuple[GarbageItem, ...]
    bytes: int
    freed_bytes: int = 0
