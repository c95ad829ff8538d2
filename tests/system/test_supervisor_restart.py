"""Ends of the supervisor itself: in good order, by SIGKILL, and what the next start makes of it."""

from __future__ import annotations

import pytest

from orchestrator.core.intensity import MAX_CRASHED_STARTS
from tests.kit.processes import fresh_mark, marked
from tests.kit.remote import branches, git, hook, make_remote
from tests.kit.service import Service
from tests.kit.until import until


def wait_gone(marker: str, within_s: float) -> None:
    """Wait until no process carries the marker."""
    until(lambda: not marked(marker), f"no process carries {marker}", within_s)


def test_stop_interrupts_agents_and_the_next_start_resumes_them(own_service: Service) -> None:
    mark = fresh_mark("stop-mark")
    service = own_service
    service.start()
    remote = make_remote(service.remotes)
    script = 'if [ "$ORCHESTRATOR_RESUMED" = 1 ]; then echo again > again.txt; else sleep 1000; fi'
    agent = service.spawn(remote, script, "stop-1", options={"env": {"MARK": mark}})
    service.wait_phase(agent, "working")
    assert service.stop() == 0
    assert not marked(mark)
    assert len(service.agent_directories()) == 1, "its worktree waits for it"
    assert not (service.home / "orchestrator.sock").exists()
    service.start()
    end = service.wait(agent)
    assert (end["status"], end["attempt"]) == ("completed", 1), end
    assert git("show", "agent/stop-1:again.txt", cwd=remote) == "again\n"
    assert not service.agent_directories()


def test_sigkill_leaves_no_process_and_the_next_start_resumes(own_service: Service) -> None:
    mark = fresh_mark("crash-mark")
    service = own_service
    service.start()
    remote = make_remote(service.remotes)
    script = '[ "$ORCHESTRATOR_RESUMED" = 1 ] && echo again > again && exit; setsid sleep 1000 & sleep 1000'
    agents = [service.spawn(remote, script, f"crash-{n}", options={"env": {"MARK": mark}}) for n in range(5)]
    for agent in agents:
        service.wait_phase(agent, "working")
    service.kill9()
    wait_gone(mark, 2)
    service.start()
    for agent in agents:
        assert service.wait(agent)["status"] == "completed"
    assert len(branches(remote)) == 6
    assert not service.agent_directories()
    assert "system.recovered" in recorded(service)


def recorded(service: Service) -> list[str]:
    """Return the types of the events up to the recovery, read from the stream's replay."""
    found: list[str] = []
    with service.http.stream("GET", "/events", headers={"Last-Event-ID": "0"}) as answer:
        for line in answer.iter_lines():
            if line.startswith("event:"):
                found.append(line.removeprefix("event:").strip())
            if found[-1:] == ["system.recovered"]:
                break
    return found


def test_push_that_arrived_before_the_crash_is_not_done_again(own_service: Service) -> None:
    service = own_service
    service.start()
    remote = make_remote(service.remotes)
    waits = f"while [ ! -e {service.root}/go ]; do sleep 0.05; done"
    hook(remote, "post-receive", f"touch {service.root}/arrived; {waits}")
    agent = service.spawn(remote, "echo 1 >> pushed.txt", "push-1")
    until((service.root / "arrived").exists, "the push arrived")
    service.kill9()
    landed = branches(remote)["agent/push-1"]
    (service.root / "go").touch()
    service.start()
    state = service.wait(agent)
    assert (state["status"], state["commit"]) == ("completed", landed), state
    assert branches(remote)["agent/push-1"] == landed
    assert [event["type"] for event in service.task_events("push-1")].count("push.completed") == 1


def test_three_crashes_in_a_row_end_the_agent(own_service: Service) -> None:
    service = own_service
    service.start()
    remote = make_remote(service.remotes)
    agent = service.spawn(remote, "sleep 1000", "loop-1")
    for _ in range(3):
        service.wait_phase(agent, "working")
        service.kill9()
        service.start()
    end = service.wait(agent)
    assert (end["status"], end["reason"]) == ("failed", "crash_loop"), end


def test_second_supervisor_on_the_same_home_is_refused(own_service: Service) -> None:
    service = own_service
    service.start()
    twin = Service(service.root)
    with pytest.raises(AssertionError, match=r"state directory|in use|pid \d+"):
        twin.start()
    twin.http.close()


def test_pause_survives_a_restart(own_service: Service) -> None:
    service = own_service
    service.start()
    assert service.call("POST", "/queue/pause")[0] == 200
    service.kill9()
    service.start()
    assert service.call("GET", "/queue/stats")[1]["paused"] is True
    remote = make_remote(service.remotes)
    agent = service.spawn(remote, "true")
    assert service.status(agent)["phase"] == "queued"
    assert service.call("POST", "/queue/resume")[0] == 200
    assert service.wait(agent)["status"] == "completed"


def told_of_restarts(service: Service) -> list[str]:
    """Return what all starts so far said of holds after many crashes."""
    return [line for line in service.log.read_text().splitlines() if "held back after many crashes" in line]


@pytest.mark.timeout(120)  # seven starts
def test_crash_after_crash_keeps_the_queue_for_a_while_and_lets_it_go(own_service: Service) -> None:
    service = own_service
    remote = make_remote(service.remotes)
    for _ in range(MAX_CRASHED_STARTS):
        service.start()
        service.kill9()
    assert not told_of_restarts(service)
    service.start()
    assert len(told_of_restarts(service)) == 1
    assert service.wait(service.spawn(remote, "true"))["status"] == "completed", "nobody had to lift it"
    assert service.stop() == 0
    service.start()
    assert len(told_of_restarts(service)) == 1, "a stop in good order breaks the row"
