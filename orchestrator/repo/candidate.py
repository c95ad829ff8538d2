"""A candidate as it is sent to a judge who does not see this host.

The invariant: it is bounded, and made from objects of our own repository that the policy has judged.
Caller: `supervise.consulting`.
"""

from __future__ import annotations

from orchestrator.errors import GitFailed
from orchestrator.repo.compare import checked_commit
from orchestrator.repo.git import BOUNDED, Extra, complaint
from orchestrator.repo.quarantine import Quarantine

#: What the candidate is called in a bundle.
REF = "refs/heads/candidate"


async def bundle(quarantine: Quarantine, commit: str, *, max_bytes: int) -> bytes | None:
    """Return the candidate as a git bundle that stands on the base, or None where it is larger."""
    commit = checked_commit(commit)
    head = f"# v2 git bundle\n-{quarantine.base} base\n{commit} {REF}\n\n".encode()
    packed = await quarantine.git.attempt(
        *("pack-objects", "--revs", "--thin", "--stdout", "--delta-base-offset", "-q"),
        stdin=f"{commit}\n^{quarantine.base}\n".encode(),
        max_bytes=max_bytes - len(head),
        extra=Extra(prefix=BOUNDED),
    )
    if not packed.exit.ok:
        raise GitFailed(f"git pack-objects ended with {packed.exit}: {complaint(packed.stderr)}")
    return None if packed.truncated else head + packed.stdout
