"""F1, F10 to F17: what happens to processes, the supervisor's own and its agents'."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2
import pytest

from tests.kit.checker import check
from tests.kit.evidence import Told, gather
from tests.kit.processes import fresh_mark, marked
from tests.kit.remote import branches, count_pushes, make_remote
from tests.kit.service import Service
from tests.kit.until import pause, until
from tests.kit.zoo import ZOO, ZOO_PROCESSES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]
SETTINGS = {"MAX_CONCURRENT_AGENTS": "24", "ORCHESTRATOR_QUEUE_CONCURRENCY": "24"}
END_S = 60.0
MIB = 1024 * 1024
BOMB = """
import os, time
while True:
    try:
        os.fork()
    except OSError:
        time.sleep(0.1)
"""


def pid_of(service: Service) -> int:
    """Return the supervisor's process."""
    assert service.process is not None
    return service.process.pid


def resident_bytes(pid: int) -> int:
    """Return how much memory a process holds."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def types(service: Service, task: str) -> list[str]:
    """Return the names of a task's events, in order."""
    return [event["type"] for event in service.task_events(task)]


def answers(service: Service) -> bool:
    """Return whether the supervisor says that it is ready."""
    try:
        return service.call("GET", "/health/ready")[0] == 200
    except httpx2.TransportError:
        return False


def name(word: str) -> str:
    """Return a name that no other test uses."""
    return fresh_mark(word)


def test_f01_twenty_live_agents_end_with_their_supervisor_and_land_once_each(own_service: Service) -> None:
    service, mark = own_service, name("twenty")
    service.env.update(SETTINGS)
    service.start()
    remote = make_remote(service.remotes)
    count_pushes(remote)
    script = (
        'if [ "$ORCHESTRATOR_RESUMED" = 1 ]; then echo again > again; else setsid sleep 1000 & sleep 1000; fi'
    )
    agents = [
        service.spawn(remote, script, f"t{number}", options={"env": {"MARK": mark}}) for number in range(20)
    ]
    told = [Told("spawn", f"t{number}", "ok", {"agentId": agent}) for number, agent in enumerate(agents)]
    for agent in agents:
        service.wait_phase(agent, "working")
    until(lambda: len(marked(mark)) >= 40, "all of them run")
    service.kill9()
    until(lambda: not marked(mark), "no process of theirs is alive")
    service.start()
    for agent in agents:
        assert service.wait(agent)["status"] == "completed"
    assert service.stop() == 0
    evidence = gather(service.home, told=told, remotes=[remote], at_rest=True)
    check(evidence)
    assert len(evidence.pushes[str(remote)]) == len(branches(remote)) - 1 == 20


def test_f10_an_agent_or_a_gate_that_the_kernel_kills_is_no_harm_to_the_supervisor(
    service: Service, remotes: Path
) -> None:
    gate = {"a": "1\n", "orchestrator.toml": '[gates.tests]\ncommand = ["sleep", "1000.0875"]\n'}
    remote = make_remote(remotes, name("oom"), gate)
    agent = service.spawn(remote, "sleep 1000.0825", options={"maxRetries": 0})
    judged = service.spawn(remote, "echo 2 > a", gateProfile="minimal", gates=None)
    for word in ("1000.0825", "1000.0875"):  # as the kernel does where memory has run out
        for victim in until(lambda word=word: marked(f"sleep\0{word}"), f"{word} runs", END_S):
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
    end = service.wait(agent)
    assert (end["status"], end["reason"]) == ("failed", "agent_error"), end
    for _ in range(2):  # each turn is judged again
        pids = until(
            lambda: marked("sleep\x001000.0875") or service.status(judged)["status"] == "failed", "next"
        )
        for victim in pids if isinstance(pids, list) else []:
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
    assert service.call("POST", f"/agents/{judged}/kill")[0] in {200, 409}
    assert service.status(judged)["status"] in {"failed", "killed"}
    assert set(branches(remote)) == {"main"}
    assert service.call("GET", "/health/ready")[0] == 200


def test_f11_a_process_number_that_is_given_out_again_is_nobody_we_knew() -> None:
    words = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", sys.executable]
    path = ":".join([str(ROOT), *filter(None, sys.path)])
    done = subprocess.run(
        [*words, "-m", "tests.faults.reused"],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=END_S,
    )
    assert done.stdout == "stranger lives\n", done.stderr


def test_f12_a_fork_bomb_is_bounded_killed_and_hurts_no_sibling(service: Service, remotes: Path) -> None:
    remote, mark = make_remote(remotes, name("bomb")), name("bomb")
    options = {"command": ["python3", "-c", BOMB], "env": {"MARK": mark}, "resources": {"pids": 64}}
    bomb = service.spawn(remote, "", options=options)
    until(lambda: len(marked(mark)) >= 32, "it has grown", END_S)
    sibling = service.wait(service.spawn(remote, "echo 1 > a"))
    assert (sibling["status"], sibling["reason"]) == ("completed", "done"), sibling
    status, answer = service.call("POST", f"/agents/{bomb}/kill")
    assert (status, answer["remaining"]) == (200, 0)
    assert not marked(mark)


def test_f13_a_supervisor_out_of_descriptors_answers_again_once_it_has_some(own_service: Service) -> None:
    service = own_service
    service.start()
    remote = make_remote(service.remotes)
    sleeps = service.spawn(remote, "sleep 1000")
    service.wait_phase(sleeps, "working")
    pid = pid_of(service)
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = max(map(int, os.listdir(f"/proc/{pid}/fd")))  # noqa: PTH208 - numbers
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 3, before[1]))
    try:
        outcomes = []
        for number in range(4):
            try:
                body = service.request_body(remote, "echo 1 > a", f"f{number}")
                outcomes.append(service.call("POST", "/agents/spawn", body, timeout=3))
            except httpx2.TransportError:
                outcomes.append((0, {}))
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    until(lambda: answers(service), "it answers again", END_S)
    for status, answer in outcomes:
        if status == 201:  # without descriptors its agent failed, and said why
            assert service.wait(answer["agentId"])["status"] in {"failed", "completed"}
    end = service.wait(service.spawn(remote, "echo 2 > a", "after"))
    assert (end["status"], end["reason"]) == ("completed", "done"), end
    assert service.call("POST", f"/agents/{sleeps}/kill")[1]["remaining"] == 0
    until(lambda: not service.agent_directories(), "all is cleaned up after")
    service.stop()
    check(gather(service.home, at_rest=True))


def test_f14_a_flood_of_output_is_capped_marked_and_nobody_elses_trouble(own_service: Service) -> None:
    service = own_service
    service.start()
    remote = make_remote(service.remotes)
    warm = service.wait(service.spawn(remote, "echo 1 > a"))
    assert warm["status"] == "completed"
    sleeps = service.spawn(remote, "sleep 1000")
    service.wait_phase(sleeps, "working")
    before = resident_bytes(pid_of(service))
    flood = service.spawn(remote, 'yes "$(head -c 60000 /dev/zero | tr "\\0" x)"', "flood")

    def marks() -> list[str]:
        found = service.http.get(f"/agents/{flood}/logs?stream=system").text
        return [line for line in found.splitlines() if "too long for the log" in line]

    sizes = [before]

    def capped() -> list[str]:
        sizes.append(resident_bytes(pid_of(service)))
        return marks()

    until(capped, "the log has reached its ceiling", 120)
    for _ in range(20):  # and it goes on and on
        sizes.append(resident_bytes(pid_of(service)))
        pause(0.02)
    assert service.call("POST", f"/agents/{sleeps}/kill")[1]["remaining"] == 0
    assert service.call("POST", f"/agents/{flood}/kill")[1]["remaining"] == 0
    assert len(marks()) == 1
    assert max(sizes) - before < 50 * MIB, f"{(max(sizes) - before) / MIB:.0f} MiB more"
    service.stop()
    check(gather(service.home, at_rest=True))


def test_f15_hostile_crowds_are_dead_when_the_kill_answers(service: Service, remotes: Path) -> None:
    remote, mark = make_remote(remotes, name("zoo")), name("zoo")
    agents = [service.spawn(remote, ZOO, options={"env": {"MARK": mark}}) for _ in range(3)]
    until(lambda: len(marked(mark)) >= 3 * ZOO_PROCESSES, "all cages are open", END_S)
    for agent in agents:
        status, answer = service.call("POST", f"/agents/{agent}/kill")
        assert (status, answer["remaining"]) == (200, 0)
        assert isinstance(answer["killedProcesses"], int)
    assert not marked(mark)


def test_f16_a_supervisor_that_was_stopped_for_a_while_goes_on_and_runs_nothing_twice(
    own_service: Service,
) -> None:
    service = own_service
    service.start()
    remote = make_remote(service.remotes)
    count_pushes(remote)
    agents = [service.spawn(remote, f"sleep {n}; echo {n} > n", f"t{n}") for n in range(4)]
    service.wait_phase(agents[3], "working")
    os.kill(pid_of(service), signal.SIGSTOP)
    pause(2)
    os.kill(pid_of(service), signal.SIGCONT)
    for number, agent in enumerate(agents):
        assert service.wait(agent)["status"] == "completed"
        assert types(service, f"t{number}").count("agent.turn") == 1
    service.stop()
    check(gather(service.home, remotes=[remote], at_rest=True))


@contextmanager
def pressure(place: Path) -> Iterator[None]:
    """Keep the processors and the disk busy while the block lasts."""
    writes = f"while :; do dd if=/dev/zero of={place}/load bs=1M count=8 conv=fsync 2>/dev/null; done"
    words = [["sha256sum", "/dev/zero"]] * 2 * (os.cpu_count() or 1) + [["sh", "-c", writes]]
    load = [subprocess.Popen(each, start_new_session=True) for each in words]
    try:
        yield
    finally:
        for process in load:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_f17_busy_processors_and_a_busy_disk_delay_and_lose_nothing(own_service: Service) -> None:
    service = own_service
    service.start()
    remote = make_remote(service.remotes)
    count_pushes(remote)
    with pressure(service.root):
        agents = [service.spawn(remote, f"echo {n} > n", f"t{n}") for n in range(4)]
        sleeps = service.spawn(remote, "sleep 1000", "sleeps")
        service.wait_phase(sleeps, "working")
        assert service.call("POST", f"/agents/{sleeps}/kill")[1]["remaining"] == 0
        assert [service.wait(agent)["status"] for agent in agents] == ["completed"] * 4
        assert service.stop() == 0
    check(gather(service.home, remotes=[remote], at_rest=True))
