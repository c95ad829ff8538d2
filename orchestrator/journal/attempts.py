"""How many attempts a task has had, as far as memory can tell: none, so many lately, or ask the tables.

A Bloom filter over the ids of all tasks, and the numbers of those that left the state last. Invariant: a
task that was ever submitted is never said to be new, so an attempt's number never repeats. The filter is
made from the tables at a start, before anything is submitted; where they hold more tasks than are worth
reading then, every task may be an old one. Its memory is fixed. The store asks it before a submission and
tells it of every event.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import apsw

from orchestrator.core.events import TaskSubmitted
from orchestrator.core.model import State, TaskId, TaskStatus
from orchestrator.journal.group import Step
from orchestrator.journal.recent import Recent

#: Ids that a start reads: half a second's worth.
MOST = 250_000
#: 512 KiB: with as many ids, one new task in 400 is taken for one that may be old.
_BITS = 1 << 22
_PROBES = 4


class Attempts:
    """What is remembered of the tasks that the state has forgotten."""

    def __init__(self, connection: apsw.Connection, most: int = MOST) -> None:
        """Read the ids that the tables hold."""
        self._bits = bytearray(_BITS // 8)
        self._recent: Recent[TaskId, tuple[int, TaskStatus]] = Recent()
        found = [task_id for (task_id,) in connection.execute("SELECT id FROM tasks LIMIT ?", (most + 1,))]
        self._too_many = len(found) > most
        for task_id in found:
            self._put(task_id)

    def may_have(self, task_id: str) -> bool:
        """Return whether the tables may hold the task; False where it was never submitted."""
        return self._too_many or all(self._bits[at >> 3] >> (at & 7) & 1 for at in _places(task_id))

    def lately(self, task_id: TaskId) -> int:
        """Return the number of the latest attempt of a task that has just left the state; else 0."""
        recent = self._recent.get(task_id)
        return recent[0] if recent else 0

    def statuses(
        self, stored: Mapping[TaskId, TaskStatus], task_ids: Iterable[str]
    ) -> dict[TaskId, TaskStatus]:
        """Return how tasks out of the state stand, of whom the tables told what is `stored`."""
        names = map(TaskId, task_ids)
        return {**stored, **{name: recent[1] for name in names if (recent := self._recent.get(name))}}

    def remember(self, step: Step, head: State) -> None:
        """Take in an event that was appended, and the state after all that came with it."""
        event = step.recorded.event
        task_id = event.task_id
        if isinstance(event, TaskSubmitted):
            self._put(event.task_id)
        if task_id is not None and task_id not in head.tasks and (task := step.after.tasks.get(task_id)):
            self._recent.put(task_id, (task.attempt, task.status))

    def _put(self, task_id: str) -> None:
        for at in _places(task_id):
            self._bits[at >> 3] |= 1 << (at & 7)


def _places(task_id: str) -> Iterator[int]:
    # The two halves of one hash make all probes; each process hashes by a key of its own, so nobody can aim.
    mixed = hash(task_id)
    first, stride = mixed & 0xFFFFFFFF, (mixed >> 32) & 0xFFFFFFFF | 1
    return ((first + number * stride) % _BITS for number in range(_PROBES))
