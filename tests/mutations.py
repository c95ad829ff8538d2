"""`make mutations`: takes one mitigation out of a copy at a time, and sees the test that holds it fail.

A test that passes without what it is said to hold is no test. Each row of `MUTATIONS` is in
docs/reliability.md; whoever changes the code that a row names changes the row. Not part of the suite: it
takes minutes. Arguments choose rows by their names.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TREES = ("orchestrator", "sandbox", "tests", "migrations")
FILES = ("pyproject.toml", "orchestrator.py")


@dataclass(frozen=True, slots=True)
class Mutation:
    """A text of a file that is replaced once, and the test that must fail then."""

    name: str
    file: str
    old: str
    new: str
    test: str
    #: How many steps of an agent's life are tried, where the sample of a plain run is too coarse.
    steps: str = ""


F1 = "tests/faults/test_f01_crash_at_every_step.py"
CANCEL = "tests/supervise/test_cancel_everywhere.py"
DISK = "tests/faults/test_disk_faults.py"
PROCESS = "tests/faults/test_process_faults.py"
ROOM = "tests/journal/test_room.py"
VALKEY = "tests/mirror/test_valkey_mirror.py"
REMOTE = "tests/faults/test_f09_rude_remotes.py"

MUTATIONS = (
    Mutation(
        "f01-intent",
        "orchestrator/supervise/delivery.py",
        "    await run.record(created, landing)\n",
        "    await run.record(created)\n",
        F1,
    ),
    Mutation(
        "f01-reap",
        "orchestrator/supervise/reaper.py",
        "                    await self._reap(name, done)\n",
        "                    continue\n",
        F1,
    ),
    Mutation(
        "f01-resume",
        "orchestrator/supervise/reaper.py",
        "                    await self._resume(agent_id, done, crashed=crashed)\n",
        "                    continue\n",
        f"{PROCESS}::test_f01_twenty_live_agents_end_with_their_supervisor_and_land_once_each",
    ),
    Mutation(
        "f01-parent-death",
        "sandbox/bubblewrap.py",
        '"--pdeathsig", "KILL", ',
        "",
        f"{PROCESS}::test_f01_twenty_live_agents_end_with_their_supervisor_and_land_once_each",
    ),
    Mutation(
        "f01-receipt",
        "orchestrator/journal/store.py",
        "            group.receipts.append(receipt)\n",
        "",
        "tests/faults/test_soak.py",
    ),
    Mutation(
        "setup-sift",
        "orchestrator/repo/sifting.py",
        "            elif ours is not None or not (",
        "            elif not (",
        "tests/repo/test_setups.py::test_only_plain_files_that_the_repository_has_not_are_left",
    ),
    Mutation(
        "setup-refuse",
        "orchestrator/repo/policy.py",
        "                if path in self._policy.made or (",
        "                if False and (",
        "tests/repo/test_setups.py::test_a_candidate_that_puts_something_in_its_place_is_refused",
    ),
    Mutation(
        "f02-full",
        "orchestrator/journal/database.py",
        '        f"synchronous = {synchronous}",\n',
        '        "synchronous = NORMAL",\n',
        f"{DISK}::test_f02_power_loss_at_any_moment_of_an_agents_life_takes_nothing_acknowledged",
    ),
    Mutation(
        "f03-acknowledge",
        "orchestrator/journal/store.py",
        "        await group.done.wait()\n",
        "        await trio.lowlevel.checkpoint()\n",
        f"{DISK}::test_f03_f05_a_disk_that_fails_ends_the_process_and_loses_nothing_acknowledged",
    ),
    Mutation(
        "f03-end",
        "orchestrator/journal/store.py",
        "            self._stop(broken)\n            raise broken from error\n",
        "",
        f"{DISK}::test_f03_f05_a_disk_that_fails_ends_the_process_and_loses_nothing_acknowledged",
    ),
    Mutation(
        "f04-watermark",
        "orchestrator/journal/store.py",
        "            if self.room.short:\n",
        "            if False:\n",
        f"{DISK}::test_f04_a_full_disk_refuses_work_and_kills_until_there_is_room_again",
    ),
    Mutation(
        "f04-ballast",
        "orchestrator/journal/room.py",
        "            held = self._ballast.stat().st_size\n",
        "            held = 0\n",
        f"{ROOM}::test_ballast_is_kept_while_the_disk_is_short_and_goes_to_the_journal_when_it_is_full",
    ),
    Mutation(
        "f04-grow",
        "orchestrator/journal/room.py",
        "            grown = self._grow(held - min(held, self._ballast_bytes) // _LOG_PART)\n",
        "            grown = 0\n",
        f"{ROOM}::test_thousands_of_waiting_tasks_are_cancelled_on_a_full_disk",
    ),
    Mutation(
        "f04-kept",
        "orchestrator/journal/store.py",
        "        if self.room.scarce and not must_be_written(command, events):\n",
        "        if False:\n",
        f"{ROOM}::test_no_number_of_switches_on_a_full_disk_takes_what_is_kept_for_ends",
    ),
    Mutation(
        "f04-start",
        "orchestrator/journal/database.py",
        "    make_way(database)\n",
        "",
        f"{ROOM}::test_a_start_on_a_full_disk_finds_the_room_that_was_kept",
    ),
    Mutation(
        "f05-refused",
        "orchestrator/journal/database.py",
        "        except (apsw.Error, sqlite3.Error, OSError) as error:\n",
        "        except (apsw.Error, sqlite3.Error) as error:\n",
        f"{DISK}::test_f05_a_state_directory_that_is_read_only_is_refused_at_the_start",
    ),
    Mutation(
        "f06-busy",
        "orchestrator/journal/database.py",
        "BUSY_MS = 5000\n",
        "BUSY_MS = 0\n",
        f"{DISK}::test_f06_a_slow_disk_and_a_lock_held_elsewhere_delay_and_lose_nothing",
    ),
    Mutation(
        "f07-clock",
        "orchestrator/core/policy.py",
        "    return not now < not_before <= now + _CEILING\n",
        "    return not_before <= now\n",
        "tests/faults/test_f07_clock_jumps.py",
    ),
    Mutation(
        "f08-anew",
        "orchestrator/mirror/valkey.py",
        "make_anew(state, self._marker)\n",
        "replace_queue([])\n",
        VALKEY,
    ),
    Mutation(
        "f08-mark",
        "orchestrator/mirror/writing.py",
        "    return found == str(marker).encode()\n",
        "    return True\n",
        VALKEY,
    ),
    Mutation(
        "f09-deadline",
        "orchestrator/repo/mirrors.py",
        "            return await self.git.attempt(*args, extra=extra, deadline_s=deadline_s)\n",
        "            return await self.git.attempt(*args, extra=extra, deadline_s=3600)\n",
        f"{REMOTE}::test_f09_a_remote_that_never_comes_to_an_end_is_given_up",
    ),
    Mutation(
        "f09-memory",
        "orchestrator/repo/access.py",
        "config, fds, prefix=BOUNDED)",
        "config, fds)",
        f"{REMOTE}::test_f09_a_remote_that_says_more_than_fits_is_given_up_before_its_deadline",
    ),
    Mutation(
        "f09-patience",
        "orchestrator/supervise/ending.py",
        "        raise RunPostponed(error.detail, failure_of(error)) from error\n",
        "        raise\n",
        "tests/supervise/test_silent_remote.py"
        "::test_an_agent_whose_remote_vanishes_amid_a_push_waits_for_it_and_lands",
    ),
    Mutation(
        "mirror-blame",
        "orchestrator/supervise/finish.py",
        "        found = await blame(live.run, failed)\n",
        "        await trio.lowlevel.checkpoint()\n",
        "tests/supervise/test_damaged_copy.py"
        "::test_an_agent_whose_copy_is_torn_meanwhile_lands_without_another_attempt",
    ),
    Mutation(
        "mirror-place",
        "orchestrator/repo/mirrors.py",
        "        self._taken = clear_place(self.directory) or self._taken\n",
        "",
        "tests/repo/test_squatters.py",
    ),
    Mutation(
        "salvage-room",
        "orchestrator/repo/worktree.py",
        "        if brought:  # each try",
        "        if not ref:  # each try",
        "tests/repo/test_kept_worktrees.py::test_a_salvage_that_is_tried_again_takes_no_more_room",
    ),
    Mutation(
        "salvage-soon",
        "orchestrator/supervise/backlog.py",
        "        return was_short and free",
        "        return not waiting and free",
        "tests/supervise/test_salvage_later.py"
        "::test_what_was_short_of_room_is_due_as_soon_as_there_is_more_and_not_before",
    ),
    Mutation(
        "salvage-stays",
        "orchestrator/supervise/finish.py",
        "    unkept = live.salvaging.cancelled_caught or aftermath.unsalvaged\n",
        "    unkept = live.salvaging.cancelled_caught\n",
        "tests/supervise/test_salvage_later.py"
        "::test_work_that_could_not_be_salvaged_stays_is_told_of_and_salvaged_later",
    ),
    Mutation(
        "stray-kill",
        "orchestrator/repo/strays.py",
        "signal.SIGTERM if is_asked(stat.pid) else signal.SIGKILL",
        "signal.SIGTERM",
        "tests/repo/test_strays.py"
        "::test_strays_are_ended_with_what_they_start_meanwhile_and_git_is_asked_first",
    ),
    Mutation(
        "f10-files",
        "sandbox/usage.py",
        "measure(stat.pid for stat in inside), held_in_files(inside)\n",
        "measure(stat.pid for stat in inside), 0\n",
        "tests/supervise/test_watchdog.py::test_files_in_memory_beyond_the_ceiling_are_an_oom",
    ),
    Mutation(
        "f10-failed",
        "orchestrator/supervise/conversation.py",
        "    if not result.ok:\n",
        "    if False:\n",
        f"{PROCESS}::test_f10_an_agent_or_a_gate_that_the_kernel_kills_is_no_harm_to_the_supervisor",
    ),
    Mutation(
        "f11-start",
        "sandbox/procfs.py",
        "    if now is None or now.start != stat.start:\n",
        "    if now is None:\n",
        f"{PROCESS}::test_f11_a_process_number_that_is_given_out_again_is_nobody_we_knew",
    ),
    Mutation(
        "f14-cap",
        "orchestrator/agents/lines.py",
        "MAX_LOG_BYTES = 64 * 1024 * 1024\n",
        "MAX_LOG_BYTES = 10**12\n",
        f"{PROCESS}::test_f14_a_flood_of_output_is_capped_marked_and_nobody_elses_trouble",
    ),
    Mutation(
        "cancel-removal",
        "orchestrator/repo/worktree.py",
        "        with trio.move_on_after(REMOVE_S, shield=True):\n",
        "        with trio.move_on_after(REMOVE_S):\n",
        f"{CANCEL}::test_a_kill_at_any_step_leaves_one_end_and_nothing_else",
        steps="60",
    ),
    Mutation(
        "kill-prompt",
        "orchestrator/agents/program.py",
        "        yield path, rewrite\n",
        "        try:\n            yield path, rewrite\n        finally:\n            path.unlink()\n",
        "tests/supervise/test_kill_aftermath.py::test_a_kill_is_answered_while_the_disk_keeps_the_files",
    ),
    Mutation(
        "cancel-why",
        "orchestrator/supervise/live.py",
        "            self.end = end\n",
        "            pass\n",
        CANCEL,
    ),
)


def survives(mutation: Mutation, place: Path) -> str | None:
    """Apply the mutation to a fresh copy and run its test; return what is wrong, or None where it failed."""
    for tree in TREES:
        shutil.copytree(ROOT / tree, place / tree, ignore=shutil.ignore_patterns("__pycache__"))
    for file in FILES:
        shutil.copy(ROOT / file, place / file)
    path = place / mutation.file
    text = path.read_text()
    if mutation.old not in text:
        return f"{mutation.file} does not hold {mutation.old.strip()!r} any more"
    path.write_text(text.replace(mutation.old, mutation.new, 1))
    words = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", mutation.test]
    env = {**os.environ, "PYTHONPATH": str(place)} | (
        {"FAULT_STEPS": mutation.steps} if mutation.steps else {}
    )
    done = subprocess.run(words, cwd=place, env=env, capture_output=True, text=True, check=False)
    if done.returncode == 1 and " skipped" not in done.stdout.splitlines()[-1]:
        return None
    return f"pytest ended with {done.returncode}: {done.stdout.splitlines()[-1:]}"


def main() -> int:
    """See the module."""
    chosen = [each for each in MUTATIONS if not sys.argv[1:] or each.name in sys.argv[1:]]
    survivors = 0
    for mutation in chosen:
        with tempfile.TemporaryDirectory(prefix="mutation-", dir="/tmp") as place:
            Path(place).chmod(0o755)
            wrong = survives(mutation, Path(place))
        survivors += wrong is not None
        sys.stdout.write(f"{mutation.name}: {wrong or 'its test fails, as it should'}\n")
        sys.stdout.flush()
    return min(survivors, 1)


if __name__ == "__main__":
    sys.exit(main())
