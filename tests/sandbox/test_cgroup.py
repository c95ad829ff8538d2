"""Cgroups of our own: found where they are ours, entered before anything runs, and reaped after a crash.

What needs the kernel runs here with the kernel, as root on a host that has a cgroup v2 of some kind. The
controllers themselves (memory, cpu, pids) are seen by the probe on hosts that give them to version 2.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.base import Directory, Exit, Layers, Limits, SandboxLaunchFailed, Spec, Usage, User
from sandbox.bubblewrap import BubblewrapBackend
from sandbox.cgroup import Cgroups, open_leaf, settings
from sandbox.delegation import CgroupsUnavailable, find_delegated, instance_of, own_cgroup
from sandbox.leaf import Leaf
from sandbox.process import open_child, run_child
from sandbox.trusted import ProcessBackend
from tests.kit.processes import fresh_mark, marked
from tests.kit.sandboxes import read_until
from tests.kit.until import seen
from tests.sandbox.supervised import INSTANCE_VARIABLE

ROOT = Path(__file__).parents[2]
HYBRID = """\
30 22 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,size=4096k
31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw
32 30 0:28 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory
"""
UNIFIED = "29 22 0:26 / /sys/fs/cgroup rw,nosuid,nodev shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
INSIDE = r"29 22 0:26 /docker/ab /mnt/a\040b rw - cgroup2 cgroup rw" + "\n"


@pytest.mark.parametrize(
    ("mountinfo", "membership", "directory"),
    [
        (HYBRID, "4:memory:/x\n0::/\n", "/sys/fs/cgroup/unified"),
        (HYBRID, "0::/user.slice/a\n", "/sys/fs/cgroup/unified/user.slice/a"),
        (UNIFIED, "0::/system.slice/o.service\n", "/sys/fs/cgroup/system.slice/o.service"),
        (INSIDE, "0::/docker/ab\n", "/mnt/a b"),
        (INSIDE, "0::/docker/ab/c\n", "/mnt/a b/c"),
    ],
)
def test_own_cgroup_is_where_the_kernel_says(mountinfo: str, membership: str, directory: str) -> None:
    assert own_cgroup(mountinfo, membership) == Path(directory)


@pytest.mark.parametrize(
    ("mountinfo", "membership", "said"),
    [
        (UNIFIED, "4:memory:/x\n", "no cgroup v2"),
        ("", "0::/\n", "mount -t cgroup2"),
        (INSIDE, "0::/docker/abc\n", "that shows ours"),
        (INSIDE, "0::/../..\n", "that shows ours"),
    ],
)
def test_cgroup_that_is_not_shown_cannot_be_used(mountinfo: str, membership: str, said: str) -> None:
    with pytest.raises(CgroupsUnavailable, match=said):
        own_cgroup(mountinfo, membership)


@pytest.mark.skipif(os.geteuid() == 0, reason="needs an ordinary user")
def test_cgroup_of_somebody_else_is_left_alone() -> None:
    place = own_cgroup(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())
    if os.access(place / "cgroup.procs", os.W_OK):
        assert find_delegated() == place
    else:
        with pytest.raises(CgroupsUnavailable, match=r"cannot be written by uid .*Delegate=yes"):
            find_delegated()


def test_instance_is_told_by_its_directory(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    assert instance_of(tmp_path) == instance_of(tmp_path / "other" / "..")
    assert instance_of(tmp_path) != instance_of(tmp_path / "other")


def test_limits_become_settings_of_the_controllers_that_are_there() -> None:
    limits = Limits(memory_mb=256, cpus=0.5, pids=64)
    assert settings(limits, ("memory", "cpu", "pids"), 3) == {
        "memory.max": str(256 << 20),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "cpu.max": "50000 100000",
        "pids.max": "67",
    }
    assert settings(limits, ()) == {}
    assert settings(Limits(), ("memory", "cpu", "pids")) == {}


def test_figures_are_the_kernels_where_it_counts(tmp_path: Path) -> None:
    leaf, summed = Leaf(tmp_path), Usage(10, 1.0, 2)
    assert leaf.usage(summed) == summed
    (tmp_path / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\nnr_throttled 4\n")
    assert leaf.usage(summed) == Usage(10, 2.5, 2)
    (tmp_path / "memory.current").write_text("4096\n")
    (tmp_path / "memory.events").write_text("low 0\nmax 9\noom 2\noom_kill 1\noom_group_kill 1\n")
    (tmp_path / "pids.events").write_text("max 7\n")
    assert leaf.usage(summed) == Usage(4096, 2.5, 2, 1)
    assert (leaf.throttled(), leaf.refused_forks()) == (4, 7)
    assert leaf.explain(Exit(code=0)) == Exit(code=0)
    assert leaf.explain(Exit(signal=9)) == Exit(signal=9, oom_killed=True)
    (tmp_path / "memory.events").unlink()
    assert leaf.explain(Exit(code=137)).oom_killed, "when the cgroup is gone, too"


def test_files_that_are_only_kept_in_memory_make_no_tree_large(tmp_path: Path) -> None:
    reader, holder = tmp_path / "reader", tmp_path / "holder"
    for leaf, anon, shmem, file in ((reader, 40, 0, 900), (holder, 200, 100, 10)):
        leaf.mkdir()
        kept = f"inactive_file {file - 5}\nactive_file 5\nslab_reclaimable 3\n"
        # `file` counts shared memory and what tmpfs holds, too, which goes with the tree.
        (leaf / "memory.stat").write_text(f"anon {anon}\nfile {file + shmem}\nshmem {shmem}\n{kept}")
        (leaf / "memory.current").write_text(f"{anon + shmem + file + 3 + 7}\n")  # 7 of the kernel's own
    summed = Usage(memory_bytes=1)
    assert Leaf(reader).usage(summed).memory_bytes == 47
    assert Leaf(holder).usage(summed).memory_bytes == 307
    (holder / "memory.stat").write_text("inactive_file 9999\n")  # from a moment before
    assert Leaf(holder).usage(summed).memory_bytes == 0
    for unreadable in ("", "anon\n", "anon x\n"):
        (holder / "memory.stat").write_text(unreadable)
        assert Leaf(holder).usage(summed).memory_bytes == 320, "all counts where it is not told apart"
    (holder / "memory.current").unlink()
    assert Leaf(holder).usage(summed) == summed


async def test_leaf_that_is_gone_harms_nothing(tmp_path: Path) -> None:
    leaf = Leaf(tmp_path / "gone")
    leaf.kill_nowait()
    leaf.freeze_nowait()
    leaf.thaw_nowait()
    await leaf.wait_empty()
    assert leaf.pids() == []
    assert leaf.remove_nowait()
    with pytest.raises(SandboxLaunchFailed, match="cannot enter"):
        leaf.add_nowait(os.getpid())


def test_plain_directory_is_no_hierarchy(tmp_path: Path) -> None:
    with pytest.raises(CgroupsUnavailable, match=r"cgroup\.kill is missing"):
        Cgroups(tmp_path, "none")
    assert not list(tmp_path.iterdir())
    with pytest.raises(CgroupsUnavailable, match="cannot make"):
        Cgroups(Path("/proc"), "none")
    with pytest.raises(CgroupsUnavailable, match="instance"):
        Cgroups(tmp_path, "../x")


@pytest.fixture
def crashed(cgroups: Cgroups) -> Iterator[tuple[Cgroups, Cgroups]]:
    """Return the cgroups of a run that crashed, and those of the next start of the same instance."""
    instance = fresh_mark("crashed")
    before, after = (Cgroups(cgroups.home.parent, instance, may_move=False) for _ in range(2))
    yield before, after
    after.close_nowait()
    assert not after.home.exists()


def leaves(cgroups: Cgroups) -> list[str]:
    """Return the names of the leaves that exist."""
    return sorted(entry.name for entry in (cgroups.home / "trees").iterdir() if entry.is_dir())


@pytest.mark.parametrize("kind", [BubblewrapBackend, ProcessBackend])
async def test_tree_is_in_its_leaf_from_its_first_instruction(
    kind: type[BubblewrapBackend | ProcessBackend],
    crashed: tuple[Cgroups, Cgroups],
    workspace: Directory,
    ordinary_user: User,
) -> None:
    cgroups = crashed[1]
    script = "cat /proc/self/cgroup; setsid sleep 1000 & echo up; wait"
    async with kind(ordinary_user, cgroups=cgroups).open(
        Spec("first", ("sh", "-c", script), workspace)
    ) as sandbox:
        text = bytes(await sandbox.stdout.receive_some()).decode()
        while "up\n" not in text:
            text += bytes(await sandbox.stdout.receive_some()).decode()
        (name,) = leaves(cgroups)
        assert name.startswith("first.")
        leaf = Leaf(cgroups.home / "trees" / name)
        (seen_path,) = [line for line in text.splitlines() if line.startswith("0::")]
        # In bubblewrap what the process is in is the root of what it sees.
        assert seen_path == "0::/" if kind is BubblewrapBackend else seen_path.endswith(f"/{name}")
        assert set(sandbox.processes()) <= set(leaf.pids())
        assert len(sandbox.processes()) == 2
        proof = await sandbox.prove_gone(5)
        assert proof.remaining == 0
        assert leaf.pids() == []
    assert leaves(cgroups) == []


async def test_next_start_ends_and_removes_what_a_crash_left(crashed: tuple[Cgroups, Cgroups]) -> None:
    before, after = crashed
    mark = fresh_mark("left-in-cgroup")
    before.open_leaf("empty", Limits())
    leaf = before.open_leaf("agent-1", Limits())
    script = "setsid sh -c 'trap \"\" TERM; while :; do sleep 1; done' & echo up; wait"
    env = {"MARK": mark, "PATH": "/usr/bin:/bin"}
    async with open_child(("sh", "-c", script), env=env, leaf=leaf) as child:
        assert bytes(await child.stdout.receive_some()) == b"up\n"
        leaf.freeze_nowait()
        assert sorted(await after.reap(5)) == ["agent-1", "empty"]
        assert not marked(mark)
    assert await after.reap(5) == []


async def test_leaf_that_could_not_be_removed_goes_with_the_next(crashed: tuple[Cgroups, Cgroups]) -> None:
    cgroups = crashed[1]
    leaf = cgroups.open_leaf("stubborn", Limits())
    async with open_child(("sleep", "1000"), env={"PATH": "/usr/bin:/bin"}, leaf=leaf) as child:
        await seen(leaf.pids, "it is in its leaf")
        cgroups.close_leaf_nowait(leaf)
        assert leaves(cgroups) == [leaf.path.name], "somebody is in it"
        assert (await child.wait()).signal == 9, "but not for long"
    with open_leaf(cgroups, Spec("next", ("true",), Directory(ROOT))):
        pass
    assert leaves(cgroups) == []


async def test_reaping_spares_the_living_and_other_instances(
    crashed: tuple[Cgroups, Cgroups], cgroups: Cgroups, workspace: Directory, ordinary_user: User
) -> None:
    _, after = crashed
    spec = Spec("living", ("sh", "-c", "echo up; read x"), workspace)
    async with (
        BubblewrapBackend(ordinary_user, cgroups=after).open(spec) as ours,
        BubblewrapBackend(ordinary_user, cgroups=cgroups).open(spec) as theirs,
    ):
        await read_until(ours, b"up")
        await read_until(theirs, b"up")
        assert await after.reap(5, everywhere=True) == []
        for sandbox in (ours, theirs):
            await sandbox.stdin.send_all(b"\n")
            assert (await sandbox.wait()).ok


async def test_crash_of_a_run_that_was_started_elsewhere_is_found(cgroups: Cgroups) -> None:
    instance = fresh_mark("moved")
    elsewhere = cgroups.home / "elsewhere"
    elsewhere.mkdir()
    before = Cgroups(elsewhere, instance, may_move=False)
    after = Cgroups(cgroups.home.parent, instance, may_move=False)
    leaf = before.open_leaf("agent-1", Limits())
    async with open_child(("sleep", "1000"), env={"PATH": "/usr/bin:/bin"}, leaf=leaf) as child:
        await seen(leaf.pids, "it is in its leaf")
        assert await after.reap(5) == []
        assert child.processes()
        assert await after.reap(5, everywhere=True) == ["agent-1"]
    assert not before.home.exists()
    elsewhere.rmdir()
    after.close_nowait()


async def test_removed_leaf_fails_the_launch_and_leaves_nothing(
    crashed: tuple[Cgroups, Cgroups], workspace: Directory, ordinary_user: User
) -> None:
    cgroups = crashed[1]
    backend = BubblewrapBackend(ordinary_user, cgroups=cgroups)
    cgroups.close_nowait()
    with pytest.raises(SandboxLaunchFailed, match="cannot make"):
        async with backend.open(Spec("lost", ("true",), workspace)):
            pytest.fail("it started")


@pytest.mark.slow
async def test_nothing_outlives_a_supervisor_with_cgroups_killed_at_any_moment(
    crashed: tuple[Cgroups, Cgroups], layers: Layers, ordinary_user: User
) -> None:
    after = crashed[1]
    moments = [-1, -1, *range(0, 60_000, 3000)]
    done = await run_child(
        (
            *(sys.executable, "-m", "tests.sandbox.supervised", str(layers.lower.parent)),
            *(str(ordinary_user.uid), str(ordinary_user.gid), ordinary_user.name),
        ),
        env={
            INSTANCE_VARIABLE: after.home.name.removeprefix("orchestrator-"),
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": ":".join([str(ROOT), *filter(None, sys.path)]),
        },
        stdin="".join(f"{moment}\n" for moment in moments).encode(),
        deadline_s=50,
    )
    answers = [tuple(map(int, line.split())) for line in done.stdout.decode().splitlines()]
    assert [answer[0] for answer in answers] == moments, done.stderr.decode()
    assert [answer for answer in answers if answer[2]] == []
    assert leaves(after), "a killed supervisor leaves the leaves"
    await after.reap(5)
    assert leaves(after) == []
