"""The checker of the invariants can fail: each is broken here once, in one thing, and is named."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import apsw
import pytest

from orchestrator.core import events as e
from orchestrator.core.commands import AssignAgent, CompleteAgent, KillAgent, SubmitTask, TellAgent
from orchestrator.core.model import AgentId, Phase, PushIntent, Reason, TaskId
from orchestrator.journal.store import AuditEntry, Receipt, Store, utc_now
from tests.journal.rig import running_store, spec, work
from tests.kit.checker import findings
from tests.kit.evidence import Evidence, Told, gather
from tests.kit.processes import fresh_mark
from tests.kit.remote import Push, count_pushes, git, make_remote, pushes
from tests.kit.until import until

CANARY = "canary-93b1f0a7c2d4"


async def land(store: Store, remote: Path) -> None:
    """Let agent `a` do task `t` from its submission to a landed branch."""
    receipt = Receipt("admin:key-1", "f", 201, "{}", utc_now())
    await store.submit(SubmitTask(spec("t"), AgentId("a"), "command"), receipt=receipt)
    await store.submit(AssignAgent(AgentId("a")))
    ids: dict[str, Any] = {"task_id": TaskId("t"), "agent_id": AgentId("a")}
    await store.record(e.AgentPhase(**ids, phase=Phase.STARTING, sandbox="none"))
    await store.record(e.AgentRunning(**ids, sandbox="none", runtime="command"), e.TaskExecuting(**ids))
    await store.submit(TellAgent(AgentId("a"), "hello", "admin"))
    await store.record(e.AgentTurn(**ids, turn=1, stop_reason="exit", duration_ms=1.0))
    await store.record(e.AgentMessage(**ids, number=1, delivered=True))
    commit = git("rev-parse", "main", cwd=remote).strip()
    push = PushIntent(remote=f"file://{remote}", ref="refs/heads/agent/t", old="", new=commit)
    await store.record(e.AgentPhase(**ids, phase=Phase.LANDING, push=push))
    git("push", "-q", str(remote), "main:agent/t", cwd=remote.with_suffix(".seed"))
    await store.record(e.PushCompleted(**ids, push=push))
    await store.submit(CompleteAgent(AgentId("a"), Reason.DONE, commit, "agent/t"))
    await store.record(e.AgentCleanup(**ids))


async def kill(store: Store) -> None:
    """Let agent `b` at task `u` be killed in the midst."""
    await store.submit(SubmitTask(spec("u"), AgentId("b"), "command"))
    await store.submit(AssignAgent(AgentId("b")))
    entry = AuditEntry("tester", "agent.kill", "b", "killed")
    await store.submit(KillAgent(AgentId("b"), Reason.OPERATOR, elapsed_ms=1.0), audit=entry)
    await store.record(e.AgentCleanup(task_id=TaskId("u"), agent_id=AgentId("b")))


TOLD = (
    Told("spawn", "t", "ok", {"agentId": "a"}, "key-1"),
    Told("spawn", "u", "ok", {"agentId": "b"}),
    Told("kill", "b", "ok", {"remaining": 0}),
    Told("message", "a", "ok", {"message": 1}),
    Told("spawn", "v", "unknown", key="key-2"),
)


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    """Return a remote that writes down what is pushed."""
    bare = make_remote(tmp_path)
    count_pushes(bare)
    return bare


@pytest.fixture
async def good(tmp_path: Path, remote: Path) -> Evidence:
    """Return the evidence of a run in which nothing went wrong."""
    async with running_store(tmp_path / "home") as store:
        await land(store, remote)
        await kill(store)
    return gather(tmp_path / "home", told=TOLD, remotes=[remote], secrets=[CANARY], at_rest=True)


def without(evidence: Evidence, name: str, agent: str) -> Evidence:
    """Return the evidence without one event, as if it had never been."""
    events = [one for one in evidence.events if (one.event.name, one.event.agent_id) != (name, agent)]
    assert len(events) == len(evidence.events) - 1
    return replace(evidence, events=tuple(events))


def again(evidence: Evidence, name: str, agent: str) -> Evidence:
    """Return the evidence with one event said once more at the end."""
    one = next(one for one in evidence.events if (one.event.name, one.event.agent_id) == (name, agent))
    return replace(evidence, events=(*evidence.events, replace(one, seq=len(evidence.events) + 1)))


def altered(evidence: Evidence, name: str, **fields: object) -> Evidence:
    """Return the evidence with other fields in every event of a name."""
    return replace(
        evidence,
        events=tuple(
            replace(one, event=one.event.model_copy(update=fields)) if one.event.name == name else one
            for one in evidence.events
        ),
    )


def told(evidence: Evidence, *more: Told) -> Evidence:
    """Return the evidence with more of what clients were told."""
    return replace(evidence, told=(*evidence.told, *more))


def moved(evidence: Evidence, ref: str, new: str) -> Evidence:
    """Return the evidence with one more push on the remote."""
    ((remote, moves),) = evidence.pushes.items()
    return replace(evidence, pushes={remote: [*moves, Push(ref, "0" * 40, new)]})


def seen(evidence: Evidence, **host: object) -> Evidence:
    """Return the evidence with something else found on the host."""
    return replace(evidence, host=replace(evidence.host, **host))  # type: ignore[arg-type]


def sized(evidence: Evidence, **sizes: object) -> Evidence:
    """Return the evidence with other sizes."""
    return replace(evidence, sizes=replace(evidence.sizes, **sizes))  # type: ignore[arg-type]


def doubled(evidence: Evidence) -> Evidence:
    """Return the evidence with the task of key-1 submitted twice."""
    one = next(one for one in evidence.events if one.event.name == "task.submitted")
    return replace(evidence, events=(*evidence.events, one))


def twice(evidence: Evidence) -> Evidence:
    """Return the evidence with every push done twice."""
    return replace(evidence, pushes={remote: moves * 2 for remote, moves in evidence.pushes.items()})


BREAKS: list[tuple[str, Callable[[Evidence], Evidence]]] = [
    ("J1: .* without a sandbox", lambda v: altered(v, "agent.phase", sandbox=None)),
    ("J1: .* which no intent names", lambda v: moved(v, "refs/heads/agent/w", "f" * 40)),
    ("J1: .* without an intent", lambda v: altered(v, "agent.phase", push=None)),
    ("J2: the spawn of w was", lambda v: told(v, Told("spawn", "w", "ok", {"agentId": "c"}))),
    ("J2: the kill of b was", lambda v: without(v, "agent.killed", "b")),
    ("J2: message 2 to a was", lambda v: told(v, Told("message", "a", "ok", {"message": 2}))),
    ("J2: .* message 1 was not heard", lambda v: altered(v, "agent.message", delivered=None, sender="admin")),
    ("J2: .* audit trail", lambda v: replace(v, audited_kills=frozenset())),
    ("J3: the numbers", lambda v: without(v, "agent.turn", "a")),
    ("J5: .* begins while b lives", lambda v: again(without(v, "agent.killed", "b"), "agent.spawning", "b")),
    ("J6: .* b ends again", lambda v: again(v, "agent.killed", "b")),
    ("J6: .* task u ends again", lambda v: again(v, "task.cancelled", "b")),
    ("J6: .* which had ended", lambda v: again(v, "agent.turn", "a")),
    ("J7: task t is open and nobody", lambda v: without(v, "task.completed", "a")),
    ("J7: task u never ended", lambda v: without(v, "task.cancelled", "b")),
    ("J7: agent b runs", lambda v: without(v, "agent.killed", "b")),
    ("J8: quarantine/agent-x", lambda v: seen(v, directories={"quarantine": ["agent-x"]})),
    ("J8: processes .7. of agent a", lambda v: seen(v, processes={"a": [7]})),
    ("J8: .* of our git", lambda v: seen(v, git=[7])),
    ("J9: the kill of b left 2", lambda v: told(v, Told("kill", "b", "ok", {"remaining": 2}))),
    ("J9: b was killed, and", lambda v: seen(v, processes={"b": [7]})),
    ("J9: 3 processes of b outlived", lambda v: altered(v, "agent.killed", remaining=3)),
    ("J10: the key key-1 made", lambda v: told(v, Told("spawn", "t", "ok", {"agentId": "z"}, "key-1"))),
    ("J10: task t was submitted 2 times", doubled),
    ("J10: .* is not kept", lambda v: replace(v, receipts=frozenset())),
    ("J11: a says 2 times", lambda v: again(v, "push.completed", "a")),
    ("J11: .* was moved 2 times", twice),
    ("J11: .* agent a pushed 2 times", twice),
    ("J11: .* said to have landed", lambda v: replace(v, pushes={key: [] for key in v.pushes})),
    ("J12: a turn", lambda v: altered(v, "agent.turn", duration_ms=-1.0)),
    ("J12: the kill", lambda v: altered(v, "agent.killed", elapsed_ms=-1.0)),
    ("J15: the write-ahead log", lambda v: sized(v, log_of_writes=2**30)),
    ("J15: an event", lambda v: sized(v, longest_event=2**30)),
    ("J15: an error", lambda v: sized(v, longest_error=2**30)),
    ("J15: the log of a", lambda v: sized(v, logs={"a": (2**30, 1)})),
]


async def test_a_good_run_has_no_findings(good: Evidence) -> None:
    assert findings(good) == []
    assert len(good.events) > 15
    assert [len(moves) for moves in good.pushes.values()] == [1]


async def test_every_break_of_an_invariant_is_found(good: Evidence) -> None:
    for pattern, broken in BREAKS:
        found = findings(broken(good))
        assert any(re.match(pattern, one) for one in found), (pattern, found)


async def test_a_table_that_is_no_fold_is_found(good: Evidence) -> None:
    connection = apsw.Connection(str(good.database))
    connection.execute("UPDATE agents SET error = 'x'")
    connection.close()
    assert findings(good) == ["J4: the table agents is not the fold of the journal"]


async def test_a_changed_event_is_found(good: Evidence) -> None:
    connection = apsw.Connection(str(good.database))
    connection.execute("UPDATE events SET time = '2026-01-01T00:00:00.000Z' WHERE seq = 3")
    connection.close()
    assert any(one.startswith("J3: events: entry 3") for one in findings(good))


async def test_a_secret_is_found_in_each_disguise(tmp_path: Path) -> None:
    home = tmp_path / "home"
    async with running_store(home) as store:
        await work(store, "t", "a")
        (home / "note").write_text(f"at {CANARY.encode().hex()}")
        (home / "token").write_text(CANARY)  # where one belongs
        found = gather(home, secrets=[CANARY]).betrayals
    assert found == ("note: hex of secret 0",)
    (tmp_path / "serve.log").write_text(CANARY)
    assert (
        gather(home, secrets=[CANARY], files=[tmp_path / "serve.log"]).betrayals[-1].startswith("serve.log")
    )


async def test_a_process_and_a_directory_of_an_agent_that_is_over_are_found(good: Evidence) -> None:
    home = good.database.parent
    mark = fresh_mark("agent")
    (home / "workspaces" / f"agent-{mark}-t").mkdir(parents=True)
    with subprocess.Popen(["sleep", "1000"], env={"ORCHESTRATOR_AGENT_ID": mark}) as stray:  # noqa: ASYNC220 - it returns at once
        try:
            until(lambda: mark in gather(home).host.processes, "it runs")
            host = gather(home).host
        finally:
            stray.kill()
    assert host.processes[mark] == [stray.pid]
    assert f"J8: workspaces/agent-{mark}-t belongs to no agent that is at work" in findings(
        replace(good, host=host)
    )


def test_a_push_that_was_cut_before_it_moved_the_branch_is_none(remote: Path) -> None:
    commit = git("rev-parse", "main", cwd=remote).strip()
    git("push", "-q", str(remote), "main:agent/t", cwd=remote.with_suffix(".seed"))
    log = remote / "logs/refs/heads/agent/t"
    line = log.read_text()
    log.write_text(line.replace(commit, "e" * 40) + line)
    assert pushes(remote) == [Push("refs/heads/agent/t", "0" * 40, commit)]
