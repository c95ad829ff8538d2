"""F2 to F6: power loss, failed syncs, a full or read-only disk, a slow or locked one."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random

import apsw
import httpx2
import pytest
import trio

from orchestrator.journal import database
from sandbox.base import User
from tests.journal.powerloss import Acknowledged, Recording, crashes
from tests.kit.checker import check
from tests.kit.evidence import Told, gather
from tests.kit.inject import injected, small_disk, without_blocks, without_names
from tests.kit.plane import GATED, SECOND_THOUGHTS, open_plane
from tests.kit.remote import branches, count_pushes, make_remote
from tests.kit.service import ENDED, Service
from tests.kit.until import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

END_S = 60.0


def pid_of(service: Service) -> int:
    """Return the supervisor's process."""
    assert service.process is not None
    return service.process.pid


async def test_f02_power_loss_at_any_moment_of_an_agents_life_takes_nothing_acknowledged(
    reachable_path: Path, ordinary_user: User
) -> None:
    remote, recording = make_remote(reachable_path, files=GATED), Recording()
    home = reachable_path / "home"
    async with (
        open_plane(
            home, user=ordinary_user, roots=reachable_path, connect=recording.connector("FULL")
        ) as plane,
        trio.open_nursery() as nursery,
    ):

        async def acknowledge() -> None:
            while True:
                seq = plane.store.state.seq
                recording.operations.append(Acknowledged(seq))
                await plane.store.wait_past(seq)

        nursery.start_soon(acknowledge)
        with trio.fail_after(END_S):
            await plane.over(await plane.submit(remote, SECOND_THOUGHTS, "t", gated=True))
        nursery.cancel_scope.cancel()
    place = reachable_path / "crashed"
    place.mkdir()
    for files, acknowledged in crashes(recording, Random(7), 100):
        for name, content in files.items():
            (place / name).write_bytes(content)
        path = place / "orchestrator.db"
        connection = database.configured(apsw.Connection(str(path)), "OFF")
        try:
            assert database.check(connection, path).seq >= acknowledged
        finally:
            connection.close()
        for left in place.iterdir():
            left.unlink()


@pytest.mark.parametrize(
    ("calls", "error"), [("fdatasync", "EIO"), ("pwrite64", "EROFS")], ids=["fsync EIO", "write EROFS"]
)
def test_f03_f05_a_disk_that_fails_ends_the_process_and_loses_nothing_acknowledged(
    own_service: Service, calls: str, error: str
) -> None:
    service = own_service
    service.start()
    remote = make_remote(service.remotes)
    count_pushes(remote)
    agents = [service.spawn(remote, f"sleep 1; echo {n} > n", f"t{n}") for n in range(3)]
    told = [Told("spawn", f"t{n}", "ok", {"agentId": agent}) for n, agent in enumerate(agents)]
    with injected(pid_of(service), calls, f"error={error}"):
        body = service.request_body(remote, "true", "late")
        try:
            status, _ = service.call("POST", "/agents/spawn", body)
        except httpx2.TransportError:
            status = 0
        assert status not in range(200, 300), "a task was acknowledged that cannot be durable"
        until(lambda: service.process and service.process.poll() is not None, "the process ends", END_S)
    assert service.process is not None
    assert service.process.returncode not in {0, -9, -15}
    assert "outcome is unknown" in service.log.read_text()
    service.start()
    for agent in agents:
        assert service.wait(agent)["status"] == "completed"
    status, _ = service.call("GET", "/tasks/late")
    if status == 200:  # the outcome was unknown, and it had arrived
        service.wait(service.call("GET", "/tasks/late")[1]["attempts"][-1]["agentId"])
    service.stop()
    check(gather(service.home, told=told, remotes=[remote], at_rest=True))


def test_f05_a_state_directory_that_is_read_only_is_refused_at_the_start(own_service: Service) -> None:
    service = own_service
    with ExitStack() as stack:
        if os.geteuid() == 0:
            stack.enter_context(small_disk(service.home, "size=1m"))
            subprocess.run(["mount", "-o", "remount,ro", service.home], check=True)
        else:
            (service.root / "closed").mkdir(mode=0o500)
            service.env["ORCHESTRATOR_HOME"] = str(service.root / "closed/home")
        with pytest.raises(AssertionError, match=r"(?s)the supervisor ended: .*(Read-only|Permission)"):
            service.start()
        assert service.process is not None
        assert service.process.returncode == 1
        assert "Traceback" not in service.log.read_text()


@pytest.fixture
def on_small_disk(own_service: Service) -> Iterator[Service]:
    """Return a running supervisor whose state directory has a small disk of its own."""
    with small_disk(own_service.home, "size=160m,nr_inodes=4000"):
        own_service.start()
        yield own_service
        assert own_service.stop() == 0


def test_f04_a_full_disk_refuses_work_and_kills_until_there_is_room_again(on_small_disk: Service) -> None:
    service = on_small_disk
    remote = make_remote(service.remotes)
    agent = service.spawn(remote, "sleep 1000", "sleeps")
    service.wait_phase(agent, "working")
    with without_blocks(service.home):
        status, problem = service.call("POST", "/agents/spawn", service.request_body(remote, "true", "new"))
        assert (status, problem["code"]) == (507, "disk_full")
        assert service.call("GET", "/health/ready")[0] == 503
        status, answer = service.call("POST", f"/agents/{agent}/kill")
        assert (status, answer["remaining"]) == (200, 0)
    end = service.wait(service.spawn(remote, "echo 1 > a", "new"))
    assert (end["status"], end["reason"]) == ("completed", "done"), end
    told = [Told("kill", agent, "ok", answer)]
    check(gather(service.home, told=told))


def test_f04_a_supervisor_killed_on_a_full_disk_starts_there_and_its_switches_work(
    on_small_disk: Service,
) -> None:
    service = on_small_disk
    remote = make_remote(service.remotes)
    agent = service.spawn(remote, "sleep 1000", "sleeps")
    service.wait_phase(agent, "working")
    assert service.call("POST", "/queue/pause")[0] == 200
    waiting = [service.spawn(remote, "true", f"waits{number}") for number in range(3)]
    with without_blocks(service.home):
        for switch in ("/freeze", "/thaw"):
            assert service.call("POST", switch)[0] == 200, switch
        service.kill9()
        service.launch()
        until(lambda: service.answers("/health"), "it answers", END_S)
        for switch in ("/freeze", "/thaw", "/drain", "/queue/resume", "/queue/pause"):
            assert service.call("POST", switch)[0] == 200, switch
        status, answer = service.call("POST", "/agents/kill-all")
        assert (status, answer["killed"], answer["remaining"]) == (200, 4, 0), answer
    for switch in ("/thaw", "/queue/resume"):
        assert service.call("POST", switch)[0] == 200, switch
    assert all(service.status(each)["status"] == "killed" for each in (agent, *waiting))
    end = service.wait(service.spawn(remote, "echo 1 > a", "new"))
    assert (end["status"], end["reason"]) == ("completed", "done"), end
    check(gather(service.home))


def test_f04_a_disk_without_inodes_fails_agents_and_not_the_supervisor(on_small_disk: Service) -> None:
    service = on_small_disk
    remote = make_remote(service.remotes)
    sleeps = service.spawn(remote, "sleep 1000", "sleeps")
    service.wait_phase(sleeps, "working")
    with without_names(service.home):
        status, answer = service.call("POST", "/agents/spawn", service.request_body(remote, "true", "new"))
        if status == 201:
            assert service.wait(answer["agentId"], until=(*ENDED, "running"))["status"] == "failed"
        else:
            assert status == 507, answer
        status, answer = service.call("POST", f"/agents/{sleeps}/kill")
        assert (status, answer["remaining"]) == (200, 0)
    end = service.wait(service.spawn(remote, "echo 1 > a", "later"))
    assert (end["status"], end["reason"]) == ("completed", "done"), end
    until(lambda: not service.agent_directories(), "all is cleaned up after")
    check(gather(service.home))


def test_f06_a_slow_disk_and_a_lock_held_elsewhere_delay_and_lose_nothing(own_service: Service) -> None:
    service = own_service
    service.start()
    remote = make_remote(service.remotes)
    count_pushes(remote)
    with injected(pid_of(service), "fdatasync", "delay_enter=50000"):
        agents = [service.spawn(remote, f"echo {n} > n", f"slow{n}") for n in range(3)]
        sleeps = service.spawn(remote, "sleep 1000", "sleeps")
        service.wait_phase(sleeps, "working")
        assert service.call("POST", f"/agents/{sleeps}/kill")[1]["remaining"] == 0
        assert [service.wait(agent)["status"] for agent in agents] == ["completed"] * 3
    locked, release = threading.Event(), threading.Event()
    holder = threading.Thread(target=hold_lock, args=(service.home / "orchestrator.db", locked, release))
    holder.start()
    try:
        assert locked.wait(END_S)
        threading.Timer(1.0, release.set).start()
        agents.append(service.spawn(remote, "echo 4 > n", "locked"))
        assert release.is_set(), "it was acknowledged while nothing could be written"
    finally:
        release.set()
        holder.join()
    assert service.wait(agents[-1])["status"] == "completed"
    service.stop()
    told = [Told("spawn", f"slow{n}", "ok", {"agentId": agent}) for n, agent in enumerate(agents[:3])]
    check(gather(service.home, told=told, remotes=[remote], at_rest=True))
    assert len(branches(remote)) == 5


def hold_lock(path: Path, locked: threading.Event, release: threading.Event) -> None:
    """Hold the journal's write lock as a backup tool would."""
    connection = apsw.Connection(str(path))
    connection.set_busy_timeout(5000)
    connection.execute("BEGIN IMMEDIATE")
    locked.set()
    release.wait(END_S)
    connection.execute("ROLLBACK")
    connection.close()
