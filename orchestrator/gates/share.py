"""The gate `ai-share`: no more of what would land than the operator allows was written by agents (ORCH-116).

The invariant: where the share is not known, it is too high for any ceiling but 1. Only where
AI_SHARE_MAX is set; caller: `gates.base`.
"""

from __future__ import annotations

import trio

from orchestrator.core.model import Verdict
from orchestrator.core.share import Share, allowed
from orchestrator.gates.base import AI_SHARE
from orchestrator.gates.exhibit import Exhibit


class ShareGate:
    """See `gates.exhibit.Gate`."""

    name = AI_SHARE

    def __init__(self, most: float) -> None:
        """Take the share that is allowed, 0.0 to 1.0."""
        self._most = most

    async def judge(self, exhibit: Exhibit, *, deadline_s: float) -> Verdict:
        """Compare what was counted with what is allowed."""
        await trio.lowlevel.checkpoint()
        share = exhibit.share
        approved = allowed(share, self._most)
        if isinstance(share, str):
            told, lasting = f"how much agents wrote is not known: {share}", True
        elif isinstance(share, Share):
            told, lasting = f"{share}", share.value == 1.0
        else:
            told, lasting = f"agents wrote {share:.0%} of the lines it adds", share == 1.0
        return Verdict(
            gate=self.name,
            approved=approved,
            lasting=lasting and not approved,
            message=f"{told}; AI_SHARE_MAX allows {self._most:.0%}",
            commit=exhibit.commit,
            round=exhibit.round,
        )
