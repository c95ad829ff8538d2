"""What is told of a candidate to a judge who does not see this host: the names, and the commit itself.

The invariant: both are bounded, and made from objects of our own repository that the policy has judged.
Caller: `supervise.consulting`.
"""

from __future__ import annotations

from orchestrator.core.text import escaped
from orchestrator.errors import GitFailed
from orchestrator.repo.git import Extra, complaint
from orchestrator.repo.quarantine import BOUNDED, Quarantine, checked_commit
from sandbox.base import MIB

_NAMES_BYTES = 4 * MIB
#: What the candidate is called in a bundle.
REF = "refs/heads/candidate"


async def changed_files(quarantine: Quarantine, commit: str, *, most: int, chars: int) -> tuple[str, ...]:
    """Return the names that the candidate changes, at most so many; each fit to be shown, and cut."""
    listed, _ = await quarantine.git.read_start(
        *("diff-tree", "-r", "-z", "--name-only", "--no-renames", "--no-ext-diff", "--ignore-submodules=all"),
        *(quarantine.base, checked_commit(commit), "--"),
        max_bytes=_NAMES_BYTES,
        extra=Extra(prefix=BOUNDED),
    )
    names = [name for name in listed.split(b"\0")[:-1] if name][:most]
    return tuple(escaped(name.decode(errors="replace"))[:chars] for name in names)


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
