"""Which commits of a branch are one task's own, told by what was journaled before each push.

The invariant: a commit is the task's own only where this host made it. Its id vouches for all that is below
it, so the line from it down to the commit that it was made over is the task's, however many commits that is.
Pure. Called by `supervise.delivery`.
"""

from __future__ import annotations

from collections.abc import Mapping


def foot_of(tip: str, made: Mapping[str, str]) -> str | None:
    """Return the commit that the task's own commits below a tip stand on; None where the tip is not its own.

    `made` has the commits that the task's attempts made, each with the one it was made over.
    """
    foot, left = tip, dict(made)
    while foot in left:
        foot = left.pop(foot)
    return foot if tip in made else None
