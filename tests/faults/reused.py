"""A process number that is given out again: run in a PID namespace of its own, where nobody else takes one.

Prints `stranger lives` where nothing that was meant for the dead reached whoever has its number now.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from sandbox.procfs import open_pidfd, read_stat, same, signal_process
from tests.kit.until import pause


def main() -> None:
    """See the module."""
    dead = subprocess.Popen(["sleep", "1000"])
    stat = read_stat(dead.pid)
    assert stat is not None
    dead.kill()
    dead.wait()
    pause(0.05)  # a start is known to a hundredth of a second
    Path("/proc/sys/kernel/ns_last_pid").write_text(str(dead.pid - 1))
    stranger = subprocess.Popen(["sleep", "1000"])
    assert stranger.pid == dead.pid, f"{dead.pid} was not given out again, but {stranger.pid}"
    signal_process(stat, signal.SIGKILL)
    assert open_pidfd(stat) is None
    assert not same(stat)
    pause(0.05)
    sys.stdout.write("stranger lives\n" if stranger.poll() is None else "stranger was killed\n")
    stranger.kill()
    stranger.wait()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
