"""Who judges a candidate: the gates of this host, a coordinator, or both.

The invariant: where both are asked, both must approve; this host's gates come first, as they are cheaper, and
a candidate that they reject is shown to nobody. Made at assembly from `GATES` and `COORDINATOR_URL`; asked by
`supervise.judging`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.config import Settings
from orchestrator.gates.base import KNOWN_GATES, Plan
from orchestrator.gates.coordinator import Coordinator
from orchestrator.settings.reader import is_encrypted_or_local


@dataclass(frozen=True, slots=True)
class Judges:
    """The judges in force."""

    #: Whether the gates of this host are run.
    local: bool = True
    coordinator: Coordinator | None = None
    #: How long finished work waits for a coordinator that is away, beyond the tries that it gets each time.
    patience_s: int = 0

    def names(self, plan: Plan) -> tuple[str, ...]:
        """Return the gates that will judge a task; a coordinator may have those that this host lacks."""
        if self.coordinator is None:
            return plan.run
        return plan.run + tuple(omitted.gate for omitted in plan.skipped)

    async def lacking(self, named: Iterable[str]) -> tuple[str, ...]:
        """Return which of the gates that a task names the coordinator, by its own word, does not have."""
        if self.coordinator is None or (gates := (await self.coordinator.health()).gates) is None:
            return ()
        return tuple(name for name in named if name in KNOWN_GATES and name not in gates)

    async def go_by_base(self) -> bool:
        """Return whether what the base cannot define, as this host reads it, no judge would approve."""
        coordinator = self.coordinator
        return self.local or coordinator is None or (await coordinator.health()).gates is not None

    async def condition(self) -> str:
        """Return how the coordinator is, for the readiness check; one that is away only degrades."""
        if self.coordinator is None:
            return "off"
        trouble = (await self.coordinator.health()).trouble
        return f"degraded: {trouble}" if trouble else "ok"


def make_judges(settings: Settings) -> Judges:
    """Return the judges that the settings name."""
    url = settings.coordinator_url
    if url is None or settings.judges == "local":
        return Judges()
    token = settings.coordinator_token.get_secret_value() if settings.coordinator_token else None
    patience_s = settings.coordinator_patience_s
    coordinator = Coordinator(
        url, token, confidential=is_encrypted_or_local(url), patience_s=float(patience_s)
    )
    return Judges(settings.judges == "both", coordinator, patience_s)
