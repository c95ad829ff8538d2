"""What gates are shown of a candidate in a quarantine, and what they are planned on.

The invariant: whoever judges, the supervisor or the judge on another machine, shows the gates the same.
Callers: `judging`, and `coordinator.bench`.
"""

from __future__ import annotations

from functools import partial

from orchestrator.core.share import Share
from orchestrator.core.spec import TaskSpec
from orchestrator.gates.base import Base, Exhibit
from orchestrator.gates.exhibit import Ask, Output
from orchestrator.repo.quarantine import Quarantine
from sandbox.base import Backend, Limits

#: Lines around each change where the whole of it is read.
CONTEXT = 10
FEW = 3


async def base_of(quarantine: Quarantine) -> Base:
    """Return the base of a quarantine, as the definitions of gates ask it."""
    return Base(await quarantine.list_base(), quarantine.read_base, quarantine.list_base)


def show(
    quarantine: Quarantine,
    commit: str,
    changed: tuple[str, ...],
    *,
    spec: TaskSpec,
    agent_id: str,
    backend: Backend,
    checkouts: Backend,
    limits: Limits,
    output: Output,
    number: int = 1,
    share: Share | float | str,
    ask: Ask | None = None,
) -> Exhibit:
    """Return a candidate as the gates are shown it, with the paths that it changes.

    What they run may reach what `backend` lets it; the making of their `checkouts` needs nothing.
    """
    base, judged = quarantine.base, quarantine.over(commit)
    return Exhibit(
        agent_id=agent_id,
        spec=spec,
        commit=commit,
        base=base,
        read_base=quarantine.read_base,
        read_candidate=judged.read_plain,
        names_candidate=judged.list_base,
        names_base=quarantine.list_base,
        read_diff=partial(_read_diff, quarantine, commit),
        open_checkout=lambda: quarantine.open_checkout(commit, backend=checkouts),
        backend=backend,
        limits=limits,
        output=output,
        round=number,
        changed=changed,
        open_base=lambda: quarantine.open_checkout(base, backend=checkouts),
        ask=ask,
        share=share,
    )


async def _read_diff(
    quarantine: Quarantine, commit: str, max_bytes: int, *paths: str, text: bool = False
) -> bytes:
    """Return the candidate's change; the whole of it, which is read by a mind, with more around each."""
    context = FEW if paths else CONTEXT
    return await quarantine.diff(commit, max_bytes=max_bytes, paths=paths, context=context, text=text)
