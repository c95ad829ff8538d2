"""Agents, tasks and the queue over HTTP: what is answered, what is durable, and once only."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from orchestrator.core import commands as c
from orchestrator.core import events as e
from orchestrator.core.model import AgentId, Reason, TaskId, Verdict
from orchestrator.errors import TaskActive
from orchestrator.journal.store import utc_now
from tests.kit.served import Served, serve_api, task

MOSAIC = {"agentId", "taskId", "status", "spawnedAt"}
OURS = {
    *("phase", "role", "runtime", "attempt", "reason", "usage", "resources", "branch", "commit"),
    *("pullRequest", "gates", "nextAgentId"),
}


async def spawn(served: Served, task_id: str = "T-1", **over: object) -> str:
    answer = await served.ask("POST", "/agents/spawn", body=task(task_id, **over))
    assert answer.status == 201, answer.body
    return str(answer.json["agentId"])


async def test_spawn_answers_as_the_contract_says(served: Served) -> None:
    answer = await served.ask("POST", "/agents/spawn", body=task())
    assert answer.status == 201
    assert answer.json.keys() == {"agentId", "taskId", "status", "queuePosition"}
    assert (answer.json["taskId"], answer.json["status"], answer.json["queuePosition"]) == (
        "T-1",
        "spawning",
        1,
    )
    submitted = await served.ask("POST", "/tasks", body=task("T-2"))
    assert (submitted.json["status"], submitted.json["queuePosition"]) == ("pending", 2)


async def test_status_tells_everything_about_an_agent(served: Served) -> None:
    agent_id = await spawn(served)
    queued = (await served.ask("GET", f"/agents/{agent_id}/status")).json
    assert queued.keys() >= MOSAIC | OURS
    assert (queued["status"], queued["phase"], queued["queuePosition"]) == ("spawning", "queued", 1)
    assert "startedAt" not in queued
    await served.start(agent_id)
    running = (await served.ask("GET", f"/agents/{agent_id}/status")).json
    assert (running["status"], running["phase"]) == ("running", "working")
    assert running["resources"] == {
        "memoryBytes": 1024, "cpuSeconds": 0.5, "processes": 3,
        "enforced": ["pids"], "watched": ["memory_mb"],
    }  # fmt: skip
    assert running["startedAt"].endswith("Z")
    assert running["usage"].keys() == {
        *("inputTokens", "outputTokens", "cacheReadTokens", "cacheWriteTokens"),
        *("costUsd", "turns", "toolCalls", "cacheWrite1HTokens"),
    }
    await served.finish(agent_id)
    ended = (await served.ask("GET", f"/agents/{agent_id}/status")).json
    assert (ended["status"], ended["reason"], ended["phase"]) == ("completed", "done", None)
    assert ended["resources"]["processes"] == 0


async def test_live_task_is_not_spawned_twice(served: Served) -> None:
    await spawn(served)
    answer = await served.ask("POST", "/agents/spawn", body=task())
    assert (answer.status, answer.problem()["code"]) == (409, TaskActive.code)


async def test_task_id_may_be_used_again_after_its_end(served: Served) -> None:
    first = await spawn(served)
    await served.start(first)
    await served.finish(first)
    second = await spawn(served)
    attempts = (await served.ask("GET", "/tasks/T-1")).json["attempts"]
    assert [(a["agentId"], a["attempt"]) for a in attempts] == [(first, 1), (second, 2)]


async def test_kill_answers_with_the_proof_and_names_the_actor(served: Served) -> None:
    agent_id = await spawn(served)
    answer = await served.ask("POST", f"/agents/{agent_id}/kill")
    assert answer.json == {
        "agentId": agent_id, "status": "killed", "killedProcesses": 7, "remaining": 0, "elapsedMs": 14.2,
        "tier": "subreaper",
    }  # fmt: skip
    assert served.kill_switch.actors == ["admin"]
    again = await served.ask("POST", f"/agents/{agent_id}/kill")
    assert (again.status, again.problem()["code"]) == (409, "already_ended")


async def test_kill_all_answers_as_mosaic_does(served: Served) -> None:
    for number in range(3):
        await spawn(served, f"T-{number}")
    answer = (await served.ask("POST", "/agents/kill-all")).json
    assert answer["message"] == "Kill all completed: 3 killed, 0 failed"
    assert (answer["total"], answer["killed"], answer["failed"], answer["errors"]) == (3, 3, 0, [])
    assert answer["remaining"] == 0
    assert (await served.ask("POST", "/agents/kill-all")).json["total"] == 0


async def test_retry_gives_the_same_task_to_a_new_agent(served: Served) -> None:
    first = await spawn(served, context={"repository": "https://x.example/y", "branch": "dev"})
    early = await served.ask("POST", f"/agents/{first}/retry")
    assert early.problem()["code"] == "not_ended"
    await served.start(first)
    await served.finish(first)
    answer = await served.ask("POST", f"/agents/{first}/retry", body={})
    assert (answer.status, answer.json["taskId"]) == (201, "T-1")
    shown = (await served.ask("GET", "/tasks/T-1")).json
    assert (shown["branch"], shown["attempt"]) == ("dev", 2)
    assert shown["agentId"] == answer.json["agentId"] != first
    ended = (await served.ask("GET", f"/agents/{first}/status")).json
    assert ended["nextAgentId"] == answer.json["agentId"]
    assert (await served.ask("GET", f"/agents/{answer.json['agentId']}/status")).json["nextAgentId"] is None


async def test_a_list_and_a_task_name_the_agent_of_a_retry_by_hand_as_the_status_does(served: Served) -> None:
    first = await spawn(served)
    await served.start(first)
    await served.finish(first)
    second = (await served.ask("POST", f"/agents/{first}/retry", body={})).json["agentId"]
    listed = (await served.ask("GET", "/agents")).json["agents"]
    attempts = (await served.ask("GET", "/tasks/T-1")).json["attempts"]
    for agents in (listed, attempts):
        assert {agent["agentId"]: agent["nextAgentId"] for agent in agents} == {first: second, second: None}


async def test_lists_are_paged_newest_first(served: Served) -> None:
    agents = [await spawn(served, f"T-{number}") for number in range(5)]
    seen: list[str] = []
    path = "/agents?limit=2"
    while path:
        page = (await served.ask("GET", path)).json
        seen += [agent["agentId"] for agent in page["agents"]]
        path = f"/agents?limit=2&after={page['next']}" if page["next"] else ""
    assert seen == agents[::-1]
    only = (await served.ask("GET", "/agents?taskId=T-3&status=spawning&role=worker")).json["agents"]
    assert [agent["agentId"] for agent in only] == [agents[3]]
    listed = (await served.ask("GET", "/tasks?status=pending&limit=3")).json
    assert [each["taskId"] for each in listed["tasks"]] == ["T-4", "T-3", "T-2"]


async def test_task_shows_its_spec_attempts_and_events(served: Served) -> None:
    await spawn(served, priority=9)
    shown = (await served.ask("GET", "/tasks/T-1")).json
    assert shown["spec"]["priority"] == 9
    assert [event["type"] for event in shown["events"]] == ["task.submitted", "agent.spawning", "task.queued"]
    assert shown["events"][0].keys() == {"seq", "id", "type", "time", "agentId", "taskId", "data"}


@pytest.mark.parametrize("running", [False, True], ids=["queued", "running"])
async def test_cancelled_task_has_no_live_agent(served: Served, *, running: bool) -> None:
    agent_id = await spawn(served)
    if running:
        await served.start(agent_id)
    answer = await served.ask("DELETE", "/tasks/T-1")
    assert (answer.status, answer.json["status"], answer.json["agentId"]) == (200, "cancelled", agent_id)
    assert answer.json["remaining"] == 0
    assert bool(served.kill_switch.actors) is running
    shown = (await served.ask("GET", "/tasks/T-1")).json
    assert shown["status"] == "cancelled"
    assert (await served.ask("DELETE", "/tasks/T-1")).problem()["code"] == "already_ended"


async def test_gates_and_diff_show_the_evidence_as_text(served: Served) -> None:
    agent_id = await spawn(served)
    await served.start(agent_id)
    assert (await served.ask("GET", f"/agents/{agent_id}/diff")).problem()["code"] == "no_candidate"
    verdict = Verdict(
        gate="tests", approved=False, message="1 failed", commit="a" * 40, command=("pytest",), exit_code=1,
        tests=3, output_tail="<script>alert(1)</script>",
    )  # fmt: skip
    await served.store.record(e.GateRejected(task_id="T-1", agent_id=agent_id, verdict=verdict))
    shown = (await served.ask("GET", f"/agents/{agent_id}/gates")).json
    assert shown["gates"][0]["outputTail"] == "<script>alert(1)</script>"
    brief = (await served.ask("GET", f"/agents/{agent_id}/status")).json["gates"][0]
    assert (brief["gate"], brief["approved"], brief["exitCode"], brief["tests"]) == ("tests", False, 1, 3)
    served.diffs[agent_id] = b"+<script>\xff\n"
    diff = await served.ask("GET", f"/agents/{agent_id}/diff")
    assert diff.body == b"+<script>\xff\n"
    assert diff.headers["content-type"] == "text/plain; charset=utf-8"


async def test_queue_is_paused_resumed_and_counted(served: Served) -> None:
    agent_id = await spawn(served)
    await spawn(served, "T-2")
    await served.start(agent_id)
    assert (await served.ask("POST", "/queue/pause")).json == {"paused": True}
    stats = (await served.ask("GET", "/queue/stats")).json
    assert stats == {
        "pending": 1, "active": 1, "completed": 0, "failed": 0, "delayed": 0, "paused": True,
        "concurrency": 10,
    }  # fmt: skip
    assert (await served.ask("POST", "/queue/pause")).json == {"paused": True}
    assert (await served.ask("POST", "/queue/resume")).json == {"paused": False}


async def test_queue_settings_are_changed_one_by_one_and_refused_by_the_value(served: Served) -> None:
    async def change(key: str, value: object) -> object:
        answer = await served.ask("POST", "/api/queue/settings", body={"key": key, "value": value})
        return answer.json if answer.status == 200 else answer.problem()["errors"][0]["field"]

    before = (await served.ask("GET", "/api/queue/settings")).json
    assert before.keys() == {"paused", "stop_on_failure", "max_concurrent"}
    assert (before["paused"], before["stop_on_failure"]) == (False, False)
    assert await change("max_concurrent", 7) == {**before, "max_concurrent": 7}
    assert await change("max_concurrent", "8") == {**before, "max_concurrent": 8}
    assert await change("stop_on_failure", "true") == {**before, "max_concurrent": 8, "stop_on_failure": True}
    await change("paused", True)
    after = (await served.ask("GET", "/api/queue/settings")).json
    assert after == {"paused": True, "stop_on_failure": True, "max_concurrent": 8}
    stats = (await served.ask("GET", "/queue/stats")).json
    assert (stats["paused"], stats["concurrency"]) == (True, 8)
    wrong = [
        ("paused", 1),
        ("paused", "yes"),
        *(("max_concurrent", each) for each in (0, -1, True, "x", 10**9)),
    ]
    assert [await change(key, value) for key, value in wrong] == ["value"] * len(wrong)
    assert await change("colour", True) == "key"
    assert (await served.ask("GET", "/api/queue/settings")).json == after


async def test_what_failed_is_listed_and_queued_once_more_by_its_own_spec(served: Served) -> None:
    for number in range(3):
        agent_id = AgentId(await spawn(served, f"T-{number}", priority=7))
        await served.start(agent_id)
        reason = Reason.TIMEOUT if number else Reason.CONFLICT
        await served.store.submit(c.FailAgent(agent_id, reason, "x", False, AgentId("-"), utc_now()))
        await served.store.record(e.AgentCleanup(task_id=TaskId(f"T-{number}"), agent_id=agent_id))
    failed = (await served.ask("GET", "/tasks?status=failed&reason=timeout")).json["tasks"]
    assert [each["taskId"] for each in failed] == ["T-2", "T-1"]

    key = {"Idempotency_Key": "k"}
    first = await served.ask("POST", "/tasks/T-0/requeue", **key)
    again = await served.ask("POST", "/tasks/T-0/requeue", **key)
    assert (first.status, first.body) == (201, again.body)
    shown = (await served.ask("GET", "/tasks/T-0")).json
    assert (shown["status"], shown["attempt"], shown["priority"]) == ("pending", 2, 7)
    assert (await served.ask("POST", "/tasks/T-0/requeue")).problem()["code"] == "task_active"
    assert (await served.ask("POST", "/tasks/none/requeue")).problem()["code"] == "task_not_found"

    ask = {"reason": "timeout", "limit": 1}
    found = [(await served.ask("POST", "/tasks/requeue", body=ask)).json for _ in range(3)]
    assert [[each["taskId"] for each in one["requeued"]] for one in found] == [["T-2"], ["T-1"], []]
    assert [one["more"] for one in found] == [True, False, False]
    await served.start(first.json["agentId"])
    await served.finish(first.json["agentId"])
    assert (await served.ask("POST", "/tasks/T-0/requeue")).problem()["code"] == "already_ended"
    assert (await served.ask("POST", "/tasks/requeue", body={"status": "completed"})).status == 422


async def test_the_event_driven_queue_is_the_same_queue(served: Served) -> None:
    async def queue() -> tuple[list[object], list[object]]:
        found = (await served.ask("GET", "/api/queue")).json
        assert found["settings"] == (await served.ask("GET", "/api/queue/settings")).json
        assert found["stats"] == (await served.ask("GET", "/queue/stats")).json
        statuses = [each["status"] for each in found["items"]]
        stats = found["stats"]
        assert statuses.count("queued") == stats["pending"] + stats["delayed"]
        assert statuses.count("processing") == stats["active"]
        lists = (found["items"], found["completed"])
        items, completed = ([(each["taskId"], each["status"]) for each in of] for of in lists)
        return items, completed

    agent_id = await spawn(served, "T-1")
    await spawn(served, "T-2", priority=1)
    await spawn(served, "T-3", priority=9)
    await served.start(agent_id)
    waiting = [("T-3", "queued"), ("T-2", "queued")]
    assert await queue() == ([("T-1", "processing"), *waiting], [])
    assert len((await served.ask("GET", "/api/queue?limit=1")).json["items"]) == 1
    assert (await served.ask("DELETE", "/api/queue/T-1")).problem()["code"] == "refused"
    await served.finish(agent_id)
    assert (await served.ask("DELETE", "/api/queue/T-2")).json["status"] == "cancelled"
    assert await queue() == ([("T-3", "queued")], [("T-2", "failed"), ("T-1", "completed")])
    assert (await served.ask("DELETE", "/api/queue/T-2")).problem()["code"] == "already_ended"
    assert (await served.ask("POST", "/api/queue/clear")).json == {"cleared": 2}
    assert await queue() == ([("T-3", "queued")], [])
    assert (await served.ask("POST", "/api/queue/clear")).json == {"cleared": 0}
    assert (await served.ask("POST", "/api/queue/add/T-3")).problem()["code"] == "task_active"
    assert (await served.ask("POST", "/api/queue/add/T-9")).problem()["code"] == "task_not_found"
    assert (await served.ask("POST", "/api/queue/add/T-1")).json["status"] == "pending"
    assert await queue() == ([("T-3", "queued"), ("T-1", "queued")], [])


async def test_a_task_waits_for_those_that_it_depends_on(served: Served) -> None:
    first = await spawn(served, "T-1")
    waiting = await served.ask("POST", "/tasks", body=task("T-2", dependsOn=["T-1"]))
    assert (waiting.status, waiting.json["queuePosition"]) == (201, None)
    path = f"/agents/{waiting.json['agentId']}/status"
    told = (await served.ask("GET", path)).json
    assert (told["phase"], told["waitsFor"], told["queuePosition"]) == ("queued", ["T-1"], None)
    for wrong in (["T-1", "never"], ["T-1", "T-3"]):
        refused = await served.ask("POST", "/tasks", body=task("T-3", dependsOn=wrong))
        assert (refused.status, refused.problem()["errors"][0]["field"]) == (422, "dependsOn.1")
    assert (await served.ask("POST", "/tasks", body=task("T-3", dependsOn=["T-1"] * 65))).status == 422
    await served.start(first)
    await served.finish(first)
    told = (await served.ask("GET", path)).json
    assert (told["phase"], told["waitsFor"], told["queuePosition"]) == ("queued", [], 1)
    assert (await served.ask("GET", "/tasks/T-2")).json["spec"]["dependsOn"] == ["T-1"]


async def test_full_queue_says_when_to_come_back(served: Served) -> None:
    await served.store.record(
        e.SystemStarted(version="1", sandbox="process", max_agents=1, queue_concurrency=1, max_queued=1)
    )
    await spawn(served)
    answer = await served.ask("POST", "/tasks", body=task("T-2"))
    assert (answer.status, answer.problem()["code"]) == (429, "queue_full")
    assert int(answer.headers["retry-after"]) > 0


async def test_ready_fails_only_for_what_work_needs(tmp_path: Path) -> None:
    checks = {"journal": "ok", "valkey": "degraded: away"}

    async def readiness() -> dict[str, str]:
        await trio.lowlevel.checkpoint()
        return checks

    async with serve_api(tmp_path, readiness=readiness) as served:
        assert (await served.ask("GET", "/health/ready")).json == {"status": "ready", "checks": checks}
        checks["disk"] = "failed: only 1 MB is free"
        answer = await served.ask("GET", "/health/ready")
        assert (answer.status, answer.json["status"]) == (503, "not_ready")


async def test_changes_stand_in_the_audit_trail(served: Served) -> None:
    agent_id = await spawn(served)
    await served.ask("POST", "/queue/pause")
    rows = await served.store.read(
        lambda db: list(db.execute("SELECT actor, action, target, detail FROM audit ORDER BY seq"))
    )
    assert rows == [("admin", "agent.spawn", "T-1", agent_id), ("admin", "queue.pause", "queue", "")]


@pytest.mark.parametrize("path", ["/agents/spawn", "/tasks"])
async def test_repeated_key_makes_one_task_and_gets_the_same_answer(served: Served, path: str) -> None:
    first = await served.ask("POST", path, body=task(), Idempotency_Key="k-1")
    again = await served.ask("POST", path, content=b' {"context":{"repository":"https://git.example.com/r.git"},'
                             b'"taskId": "T-1"}', Idempotency_Key="k-1")  # fmt: skip
    assert (first.status, again.status) == (201, 201)
    assert again.body == first.body
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert served.store.state.queued == 1


async def test_key_with_another_body_or_path_is_refused(served: Served) -> None:
    await served.ask("POST", "/tasks", body=task(), Idempotency_Key="k-1")
    for path, body in (("/tasks", task("T-2")), ("/agents/spawn", task())):
        answer = await served.ask("POST", path, body=body, Idempotency_Key="k-1")
        assert (answer.status, answer.problem()["code"]) == (422, "idempotency_key_reused")
    assert served.store.state.queued == 1


async def test_refused_request_leaves_its_key_free(served: Served) -> None:
    bad = await served.ask("POST", "/tasks", body=task(priority=99), Idempotency_Key="k-1")
    assert bad.status == 422
    good = await served.ask("POST", "/tasks", body=task(), Idempotency_Key="k-1")
    assert good.status == 201


async def test_many_at_once_with_one_key_make_one_task(served: Served) -> None:
    answers: list[tuple[int, bytes]] = []

    async def post() -> None:
        answer = await served.ask("POST", "/tasks", body=task(), Idempotency_Key="k-1")
        answers.append((answer.status, answer.body))

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(post)
    accepted = {body for status, body in answers if status == 201}
    assert len(accepted) == 1
    assert {status for status, _ in answers} <= {201, 409}
    assert served.store.state.queued == 1


async def test_key_is_remembered_across_a_restart_to_the_byte(tmp_path: Path) -> None:
    async with serve_api(tmp_path) as served:
        await spawn(served, "T-0")
        first = await served.ask("POST", "/tasks", body=task(), Idempotency_Key="k-1")
        urgent = await served.ask("POST", "/tasks", body=task("T-2", priority=9), Idempotency_Key="k-2")
        assert [answer.json["queuePosition"] for answer in (first, urgent)] == [2, 1]
        await served.start(first.json["agentId"])
    async with serve_api(tmp_path) as served:
        again = await served.ask("POST", "/tasks", body=task(), Idempotency_Key="k-1")
        assert again.body == first.body
        assert again.headers["idempotency-replayed"] == "true"
        other = await served.ask("POST", "/tasks", body=task("T-2"), Idempotency_Key="k-1")
        assert other.problem()["code"] == "idempotency_key_reused"


async def test_keyed_spawns_at_once_get_a_place_each(served: Served) -> None:
    places: list[int] = []

    async def post(number: int) -> None:
        answer = await served.ask("POST", "/tasks", body=task(f"T-{number}"), Idempotency_Key=f"k-{number}")
        places.append(answer.json["queuePosition"])

    async with trio.open_nursery() as nursery:
        for number in range(12):
            nursery.start_soon(post, number)
    assert sorted(places) == list(range(1, 13))


async def test_agent_that_gets_a_slot_at_once_has_no_place_with_a_key_or_without(served: Served) -> None:
    served.store.dispatched = lambda _repository: True
    keyed = [
        await served.ask("POST", "/agents/spawn", body=task("T-1"), Idempotency_Key="k") for _ in range(2)
    ]
    assert keyed[0].json["queuePosition"] is None
    assert keyed[0].body == keyed[1].body
    assert served.store.state.active == 1
    plain = await served.ask("POST", "/agents/spawn", body=task("T-2"))
    assert (plain.status, plain.json["queuePosition"]) == (201, None if served.store.state.active == 2 else 1)


async def test_retry_with_a_key_is_done_once(served: Served) -> None:
    first = await spawn(served)
    await served.start(first)
    await served.finish(first)
    answers = [await served.ask("POST", f"/agents/{first}/retry", Idempotency_Key="r") for _ in range(2)]
    assert answers[0].body == answers[1].body


async def test_answer_comes_only_after_the_commit(served: Served) -> None:
    agent_id = await spawn(served)
    stored = await served.store.stored_agent(agent_id)
    assert stored is not None
    await served.store.submit(c.AssignAgent(AgentId(agent_id)))
