"""The commit that an agent's work stands on.

The invariant: its objects are in the mirror. Made by `repositories`, handed on by all others.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.repo.mirrors import Mirror


@dataclass(frozen=True, slots=True)
class Base:
    """The commit that an agent starts from, and the mirror that has it."""

    url: str
    branch: str
    commit: str
    mirror: Mirror
    #: The commit whose checkout lies below the files, where the work was brought onto another since.
    floor: str = ""

    @property
    def files(self) -> str:
        """The commit whose checkout lies below the files."""
        return self.floor or self.commit
