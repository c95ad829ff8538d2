"""The writer thread: where the journal's commits wait for the disk, so that the event loop does not.

One thread for the whole life of the writer. `trio.to_thread` would do, but a call to it costs half as much
again, and every step of every agent pays it. Started and ended by `Store.run` only.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue

import trio

_Job = tuple[Callable[[], None], "trio.lowlevel.Task", list[Exception]]


class WriterThread:
    """A thread that runs one job after the other."""

    def __init__(self, jobs: SimpleQueue[_Job | None]) -> None:
        self._jobs = jobs

    async def run(self, job: Callable[[], None]) -> None:
        """Run the job in the thread and raise what it raises; once begun it cannot be cancelled."""
        await trio.lowlevel.checkpoint_if_cancelled()
        errors: list[Exception] = []
        self._jobs.put((job, trio.lowlevel.current_task(), errors))
        await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)
        for error in errors:
            raise error


@contextmanager
def writer_thread() -> Iterator[WriterThread]:
    """Own a thread; it has ended on return."""
    jobs: SimpleQueue[_Job | None] = SimpleQueue()
    loop = trio.lowlevel.current_trio_token()

    def work() -> None:
        while (entry := jobs.get()) is not None:
            job, waiting, errors = entry
            try:
                job()
            except Exception as error:  # raised again where the job came from
                errors.append(error)
            loop.run_sync_soon(trio.lowlevel.reschedule, waiting)

    thread = threading.Thread(target=work, name="journal")
    thread.start()
    try:
        yield WriterThread(jobs)
    finally:
        jobs.put(None)
        thread.join()
