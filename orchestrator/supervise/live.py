"""One agent that runs now, as its killers see it.

Invariant: the first cut decides why it ends, and a cut reaches every process before anything is written.
Made and dropped by `supervisor`; the API's side looks at it through `desk`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from orchestrator.core.reports import KillReport
from orchestrator.supervise.ending import Failed, Interrupted, Killed
from orchestrator.supervise.gear import Run
from orchestrator.supervise.resources import Gauge


@dataclass(slots=True, eq=False)
class Live:
    """One agent that runs now, or is being tidied up after."""

    run: Run
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    #: Set by the first who ends it from outside.
    end: Killed | Interrupted | None = None
    cut_at: float = 0.0
    #: Set where it had to be ended for the host's sake: a failure, which a kill or a stop still overtakes.
    failure: Failed | None = None
    #: Whether its run is over: what runs in its name then is ours.
    over: bool = False
    #: Around a salvage. The first kill of a run that failed by itself is answered before it, and salvages
    #: anew; a stop leaves it to the next start.
    salvaging: trio.CancelScope = field(default_factory=trio.CancelScope)
    #: What its kill came to, and the same once that is durable.
    verdict: KillReport | None = None
    report: KillReport | None = None
    gauge: Gauge = field(default_factory=Gauge)
    #: Set when its end is durable (or, for an interruption, its return to the queue).
    ended: trio.Event = field(default_factory=trio.Event)

    def cut(self, end: Killed | Interrupted) -> None:
        """End it now: cancel, then SIGKILL, without a checkpoint; the first cut decides why."""
        first = self.end is None
        if first:
            self.end = end
            self.cut_at = trio.current_time()
        if not self.over:
            self.scope.cancel(reason=str(end))
            self.run.tree.kill_nowait()
        elif first or isinstance(end, Interrupted):
            self.salvaging.cancel(reason=str(end))

    def fail(self, failure: Failed) -> None:
        """End it now as a failure, as `cut` does; nothing happens where its run is over or was cut."""
        if self.end is None and self.failure is None and not self.over:
            self.failure = failure
            self.scope.cancel(reason=failure.error)
            self.run.tree.kill_nowait()
