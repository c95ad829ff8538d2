"""Stop a tree of processes where no cgroup holds it, and let it go on: SIGSTOP, again and again.

The invariant: `freeze_nowait` returns when two looks in a row found every member at rest, all its threads
included, so that one which forked or lost its parent between two looks is not missed. Only what this
stopped is let go on. Parents stand still before their children are stopped, and go on after them: so a
shell with job control never sees that its foreground job was stopped, and no process group is orphaned in
between, which the kernel would hang up. Callers: `sandbox.confined` and `sandbox.process`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from sandbox.procfs import Meet, Stat, children, read_stat, signal_process, thread_states

#: Rounds before it gives up chasing; each stops all that the former left moving.
_ROUNDS = 1000
#: Looks in a row that must find everything at rest, and those that wait for what cannot stop yet:
#: one in the midst of `vfork` stops only once its child, which may be stopped already, has gone on.
_CALM = 2
_PATIENT = 20
#: How often, in one freeze, it looks whether a parent stands still before it goes on to the children;
#: in a crowd that fights for the processor, being whole comes before being unnoticed.
_POLITE = 2000
_POLITE_EACH = 200
_AT_REST = frozenset("TtZXx")


class Stopped:
    """What was stopped of one tree."""

    def __init__(self) -> None:
        self._stopped: dict[tuple[int, int], Stat] = {}
        self._polite = 0
        #: What the current look has met: anything that moved, and nothing but what waits to stop.
        self._moved = False
        self._waits = True

    def freeze_nowait(self, look: Callable[[Meet], object]) -> None:
        """Stop everything alive that `look` meets, parents first, until it meets nothing that moves.

        It is stopped as it is met, before its children are looked for: a fork loop is not chased, but cut.
        """
        calm = stuck = 0
        self._polite = _POLITE
        for _ in range(_ROUNDS):
            self._moved, self._waits = False, True
            look(self._meet)
            calm = 0 if self._moved else calm + 1
            stuck = stuck + 1 if self._moved and self._waits else 0
            if calm == _CALM or stuck == _PATIENT:
                return
            os.sched_yield()

    def _meet(self, stat: Stat) -> None:
        """Stop a process that moves; a parent is waited for, as far as there is patience."""
        if not (states := _moving(stat)):
            return
        self._moved = True
        if stat.name not in self._stopped or states != {"D"}:
            self._waits = False
        signal_process(stat, signal.SIGSTOP)
        self._stopped.setdefault(stat.name, stat)
        if self._polite and children(stat.pid):
            self._polite -= _await_rest(stat, min(self._polite, _POLITE_EACH))

    def thaw_nowait(self) -> None:
        """Let everything that was stopped here go on, children first."""
        while self._stopped:
            _, stat = self._stopped.popitem()
            signal_process(stat, signal.SIGCONT)


def _moving(stat: Stat) -> set[str]:
    return thread_states(stat) - _AT_REST


def _await_rest(stat: Stat, looks: int) -> int:
    """Look until a process that was sent SIGSTOP stands still; return how often, at most `looks`."""
    for look in range(looks):
        now = read_stat(stat.pid)
        if now is None or now.start != stat.start or not _moving(now):
            return look
        os.sched_yield()
    return looks
