"""What is left of a sandbox once its processes are gone: the launcher, which unmounts its file systems.

`unshare` is the last in the mount namespace, so its end unmounts the overlay, and for that the kernel writes
to the disk what was written there: 170 ms for 600 MB, and no limit. The invariant: who waits for a proof
never waits for that, for the end of the namespace's init is the proof; and who starts anything else on a
workspace, or removes it, waits here first. `confined` adds, the owner of the workspace waits.
"""

from __future__ import annotations

import trio

from sandbox.spawn import Spawned

#: How long who says that nothing is left waits for a launcher: it ends at once, or the disk holds up its
#: unmounting, and then nothing of it is left to see.
LINGER_S = 0.02


class Departures:
    """The launchers of one workspace that have yet to end."""

    def __init__(self) -> None:
        self._going: list[Spawned] = []

    def add(self, main: Spawned) -> None:
        """Take over a launcher whose sandbox is proven empty."""
        self._going.append(main)

    async def wait(self, deadline_s: float) -> None:
        """Wait until all have ended, and collect them; past the deadline they are given up."""
        with trio.move_on_after(deadline_s) as patience:
            while self._going:
                main = self._going[-1]
                await main.wait()
                self._let_go(main)
        if patience.cancelled_caught:
            for main in list(self._going):
                self._let_go(main)

    async def linger(self) -> None:
        """Wait a moment for those that end at once; whoever looks for himself finds nothing then."""
        with trio.move_on_after(LINGER_S):
            for main in list(self._going):
                await main.wait()

    def _let_go(self, main: Spawned) -> None:
        if main in self._going:  # who waits at the same time may have been quicker
            self._going.remove(main)
            main.close_nowait()
