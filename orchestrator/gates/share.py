"""The gate `ai-share`: no more of what would land than the operator allows was written by agents (ORCH-116).

The invariant: where the share is not known, it is too high. Only where AI_SHARE_MAX is set; caller:
`gates.base`.
"""

from __future__ import annotations

import trio

from orchestrator.core.model import Verdict
from orchestrator.core.share import Share
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
        share, allowed = exhibit.share, f"AI_SHARE_MAX allows {self._most:.0%}"
        if isinstance(share, str):
            approved, lasting = False, True
            message = f"how much agents wrote is not known: {share}; {allowed}"
        else:
            value = share.value if isinstance(share, Share) else share
            approved, lasting = value <= self._most, value == 1.0
            told = (
                f"{share}" if isinstance(share, Share) else f"agents wrote {value:.0%} of the lines it adds"
            )
            message = f"{told}; {allowed}"
        return Verdict(
            gate=self.name,
            approved=approved,
            lasting=lasting and not approved,
            message=message,
            commit=exhibit.commit,
            round=exhibit.round,
        )
