"""The invariants J1 to J15 as far as they can be seen from outside, over the evidence of a run.

Independent of the product's own state machine on purpose, but for J3 and J4, which are about its bytes. Every
check names its invariant and what breaks it; `tests/faults/test_checker.py` breaks each. J13 is not in this
version.
"""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from orchestrator.core import events as e
from orchestrator.core.model import PushIntent
from orchestrator.core.policy import MAX_ERROR
from orchestrator.errors import JournalError, OrchestratorError
from orchestrator.journal import logs
from orchestrator.journal.database import WAL_BYTES
from orchestrator.journal.place import MIB
from orchestrator.journal.verify import verify_file
from tests.kit.evidence import Evidence
from tests.kit.refold import refold, tables

Findings = Iterator[str]
T = TypeVar("T", bound=e.Event)

AGENT_ENDS = (e.AgentCompleted, e.AgentFailed, e.AgentKilled)
TASK_ENDS = (e.TaskCompleted, e.TaskFailed, e.TaskCancelled)
#: What may still be said of an agent that has ended.
AFTERWARDS = (*TASK_ENDS, e.TaskRetryScheduled, e.PushCompleted, e.PushRejected, e.AgentCleanup)
#: The write-ahead log: its limit, the ballast, and the one checkpoint that is always late.
MOST_WAL = WAL_BYTES + 72 * MIB
MOST_EVENT = 4 * MIB


def check(evidence: Evidence) -> None:
    """Assert every invariant."""
    found = findings(evidence)
    assert not found, "the checker found:\n  " + "\n  ".join(found)


def findings(evidence: Evidence) -> list[str]:
    """Return what breaks an invariant, each with its number first."""
    return [
        f"{kept.__name__.partition('_')[0].upper()}: {found}"
        for kept in INVARIANTS
        for found in kept(evidence)
    ]


def j1_intent_before_effect(evidence: Evidence) -> Findings:
    """No program ran before its sandbox was announced."""
    announced: set[str] = set()
    for recorded in evidence.events:
        event = recorded.event
        agent = event.agent_id or ""
        if isinstance(event, e.AgentPhase) and event.sandbox:
            announced.add(agent)
        elif isinstance(event, e.TaskQueued):
            announced.discard(agent)
        elif isinstance(event, e.AgentRunning | e.TaskExecuting | e.AgentTurn) and agent not in announced:
            yield f"event {recorded.seq}: {event.name} of {agent} without a sandbox that was announced"


def j1_pushes_are_announced(evidence: Evidence) -> Findings:
    """No push arrived, and no branch moved, that no intent names."""
    intents: set[PushIntent] = set()
    for recorded in evidence.events:
        event = recorded.event
        if isinstance(event, e.AgentPhase) and event.push:
            intents.add(event.push)
        elif isinstance(event, e.PushCompleted) and event.push not in intents:
            yield f"event {recorded.seq}: a push of {event.agent_id} without an intent"
    named = {(intent.ref, intent.new) for intent in intents}
    for remote, moves in evidence.pushes.items():
        for push in moves:
            if push.ref != "refs/heads/main" and (push.ref, push.new) not in named:
                yield f"{remote}: {push.ref} moved to {push.new[:12]}, which no intent names"


def j2_nothing_acknowledged_is_lost(evidence: Evidence) -> Findings:
    """Find in the journal what clients were told: spawns, kills and who asked for them."""
    spawned = {(event.task_id, event.agent_id) for event in _all(evidence, e.AgentSpawning)}
    killed = {event.agent_id for event in _all(evidence, e.AgentKilled)}
    said = {(event.number, event.agent_id) for event in _all(evidence, e.AgentMessage) if event.text}
    for told in evidence.told:
        if told.outcome != "ok":
            continue
        if told.kind == "spawn" and (told.about, told.answer["agentId"]) not in spawned:
            yield f"the spawn of {told.about} was acknowledged and is not in the journal"
        if told.kind == "message" and (number := told.answer["message"], told.about) not in said:
            yield f"message {number} to {told.about} was acknowledged and is not in the journal"
        if told.kind == "kill" and told.about not in killed:
            yield f"the kill of {told.about} was acknowledged and is not in the journal"
        if told.kind == "kill" and told.about not in evidence.audited_kills:
            yield f"the kill of {told.about} is not in the audit trail"


def j2_nothing_said_is_passed_over(evidence: Evidence) -> Findings:
    """See work land once its agent had heard all that was said to it, and who was not heard be told so."""
    unheard: dict[str, int] = {}
    for recorded in evidence.events:
        event = recorded.event
        agent = event.agent_id or ""
        if isinstance(event, e.AgentMessage) and event.delivered is not None:
            unheard.pop(agent, None)
        elif isinstance(event, e.AgentMessage) and event.sender:
            unheard[agent] = event.number
        elif isinstance(event, e.PushCompleted) and agent in unheard:
            number = unheard[agent]
            yield f"event {recorded.seq}: the work of {agent} landed, and message {number} was not heard"
        elif isinstance(event, e.AgentCompleted | e.AgentFailed | e.AgentKilled) and agent in unheard:
            yield f"event {recorded.seq}: {agent} ended, and nobody was told of message {unheard[agent]}"


def j3_chain_and_numbers(evidence: Evidence) -> Findings:
    """Both chains hold, and the numbers have no gap."""
    try:
        verify_file(evidence.database)
    except JournalError as error:
        yield error.detail
    numbers = [recorded.seq for recorded in evidence.events]
    if numbers != list(range(1, len(numbers) + 1)):
        yield f"the numbers of the events are not 1 to {len(numbers)}"


def j4_tables_are_the_fold(evidence: Evidence) -> Findings:
    """Fold the same events anew: they make the same tables."""
    with tempfile.TemporaryDirectory() as directory:
        again = Path(directory) / "again.db"
        try:
            refold(evidence.events, again, random.Random(len(evidence.events)))
        except (OrchestratorError, AssertionError) as error:
            yield f"the events cannot be folded: {error}"
            return
        made, kept = tables(again), tables(evidence.database)
    newest = len(evidence.events)
    if kept["events"][newest:]:
        return  # written meanwhile: the tables are of a later moment
    yield from (
        f"the table {name} is not the fold of the journal" for name in kept if kept[name] != made[name]
    )


def j5_one_live_attempt(evidence: Evidence) -> Findings:
    """See that a task has one live attempt at a time."""
    live: dict[str | None, str] = {}
    for recorded in evidence.events:
        event = recorded.event
        if isinstance(event, e.AgentSpawning):
            if event.task_id in live:
                yield f"event {recorded.seq}: {event.agent_id} begins while {live[event.task_id]} lives"
            live[event.task_id] = event.agent_id
        elif isinstance(event, AGENT_ENDS):
            live.pop(event.task_id, None)


def j6_one_end(evidence: Evidence) -> Findings:
    """See every agent and every submission end once, and the dead do nothing more."""
    ended: set[str] = set()
    ends: Counter[str] = Counter()
    for recorded in evidence.events:
        event = recorded.event
        if isinstance(event, e.TaskSubmitted):
            ends[event.task_id] = 0
        elif isinstance(event, TASK_ENDS):
            ends[event.task_id] += 1
            if ends[event.task_id] > 1:
                yield f"event {recorded.seq}: task {event.task_id} ends again"
        if isinstance(event, AGENT_ENDS):
            if event.agent_id in ended:
                yield f"event {recorded.seq}: {event.agent_id} ends again"
            ended.add(event.agent_id)
        elif event.agent_id in ended and not isinstance(event, AFTERWARDS):
            yield f"event {recorded.seq}: {event.name} of {event.agent_id}, which had ended"


def j7_nobody_is_forgotten(evidence: Evidence) -> Findings:
    """Every accepted task waits, runs or has ended; at rest nobody runs, and once settled all have ended."""
    open_tasks: set[str] = set()
    live: dict[str, str] = {}  # agent to task
    active: set[str] = set()
    for recorded in evidence.events:
        event = recorded.event
        agent = event.agent_id or ""
        if isinstance(event, e.TaskSubmitted):
            open_tasks.add(event.task_id)
        elif isinstance(event, TASK_ENDS):
            open_tasks.discard(event.task_id)
        elif isinstance(event, e.AgentSpawning):
            live[agent] = event.task_id
        elif isinstance(event, e.TaskAssigned):
            active.add(agent)
        elif isinstance(event, e.TaskQueued):
            active.discard(agent)
        elif isinstance(event, AGENT_ENDS):
            live.pop(agent, None)
            active.discard(agent)
    yield from (
        f"task {task} is open and nobody is at it" for task in sorted(open_tasks - set(live.values()))
    )
    if evidence.settled:
        yield from (f"task {task} never ended" for task in sorted(open_tasks))
    if evidence.at_rest:
        yield from (f"agent {agent} runs, and no supervisor does" for agent in sorted(active))


def j8_nothing_is_left(evidence: Evidence) -> Findings:
    """Every process and directory belongs to an agent that is not over; at rest there is none at all."""
    over = {event.agent_id for event in _all(evidence, e.AgentCleanup)}
    known = {event.agent_id for event in _all(evidence, e.AgentSpawning)} - over
    for place, names in evidence.host.directories.items():
        for name in names:
            if evidence.at_rest or not any(agent in name for agent in known):
                yield f"{place}/{name} belongs to no agent that is at work"
    for agent, pids in evidence.host.processes.items():
        if (agent in over or evidence.at_rest) and (agent in over | known):
            yield f"processes {pids} of agent {agent} are left"
    if evidence.at_rest and evidence.host.git:
        yield f"processes {evidence.host.git} of our git are left"


def j9_a_kill_is_proven(evidence: Evidence) -> Findings:
    """Who was told that nothing remains was told the truth."""
    for told in evidence.told:
        if told.kind == "kill" and told.outcome == "ok":
            if told.answer["remaining"] != 0:
                yield f"the kill of {told.about} left {told.answer['remaining']} processes"
            if pids := evidence.host.processes.get(told.about):
                yield f"{told.about} was killed, and processes {pids} of it live"
    for event in _all(evidence, e.AgentKilled):
        if event.remaining:
            yield f"{event.remaining} processes of {event.agent_id} outlived its kill"


def j10_one_key_one_task(evidence: Evidence) -> Findings:
    """Whoever repeats a request under its key gets the same agent, and none twice."""
    submissions = Counter(event.task_id for event in _all(evidence, e.TaskSubmitted))
    agents: dict[str, set[str]] = {}
    keys: dict[str, set[str]] = {}
    for told in evidence.told:
        if told.kind == "spawn" and told.key:
            keys.setdefault(told.about, set()).add(told.key)
            if told.outcome == "ok":
                agents.setdefault(told.key, set()).add(told.answer["agentId"])
                if not any(told.key in receipt for receipt in evidence.receipts):
                    yield f"the key {told.key} was answered and is not kept"
    yield from (
        f"the key {key} made the agents {sorted(made)}" for key, made in agents.items() if len(made) > 1
    )
    yield from (
        f"task {task} was submitted {submissions[task]} times under {len(mine)} keys"
        for task, mine in keys.items()
        if submissions[task] > len(mine)
    )


def j11_no_push_twice(evidence: Evidence) -> Findings:
    """See a commit reach its branch once, by one push an agent, and what is said to be there be there."""
    by_commit: dict[str, str] = {}
    arrivals: Counter[str] = Counter()
    landed: dict[tuple[str, str], list[str]] = {}
    for event in _all(evidence, e.AgentPhase):
        if event.push:
            by_commit[event.push.new] = event.agent_id
    for event in _all(evidence, e.PushCompleted):
        arrivals[event.agent_id] += 1
        landed.setdefault((event.push.remote, event.push.ref), []).append(event.push.new)
    yield from (f"{agent} says {n} times that its push arrived" for agent, n in arrivals.items() if n > 1)
    for remote, moves in evidence.pushes.items():
        there = Counter((push.ref, push.new) for push in moves)
        yield from (
            f"{remote}: {ref} was moved {n} times to {new}" for (ref, new), n in there.items() if n > 1
        )
        pushers = Counter(by_commit[push.new] for push in moves if push.new in by_commit)
        yield from (f"{remote}: agent {agent} pushed {n} times" for agent, n in pushers.items() if n > 1)
        for (url, ref), commits in landed.items():
            if url == f"file://{remote}":
                missing = [commit for commit in commits if (ref, commit) not in there]
                yield from (f"{remote}: {commit} is said to have landed on {ref}" for commit in missing)


def j12_no_time_runs_backwards(evidence: Evidence) -> Findings:
    """Durations are by the monotonic clock: whatever the wall clock did, none is negative."""
    for event in _all(evidence, e.AgentTurn):
        if event.duration_ms < 0:
            yield f"a turn of {event.agent_id} took {event.duration_ms} ms"
    for event in _all(evidence, e.AgentKilled):
        if event.elapsed_ms < 0:
            yield f"the kill of {event.agent_id} took {event.elapsed_ms} ms"


def j14_no_secret_is_written(evidence: Evidence) -> Findings:
    """No byte below the state directory, nor of the log, is a secret's."""
    yield from evidence.betrayals


def j15_everything_is_bounded(evidence: Evidence) -> Findings:
    """Rows, logs and the write-ahead log have ceilings."""
    sizes = evidence.sizes
    for name, size, most in (
        ("the write-ahead log", sizes.log_of_writes, MOST_WAL),
        ("an event", sizes.longest_event, MOST_EVENT),
        ("an error", sizes.longest_error, MAX_ERROR),
    ):
        if size > most:
            yield f"{name} has {size} bytes, more than {most}"
    for agent, (size, lines) in sizes.logs.items():
        if size > logs.MAX_BYTES + MIB or lines > logs.MAX_LINES + 10:  # and our own marks
            yield f"the log of {agent} has {size} bytes, {lines} lines"


def _all(evidence: Evidence, kind: type[T]) -> list[T]:
    return [recorded.event for recorded in evidence.events if isinstance(recorded.event, kind)]


INVARIANTS: tuple[Callable[[Evidence], Findings], ...] = (
    j1_intent_before_effect,
    j1_pushes_are_announced,
    j2_nothing_acknowledged_is_lost,
    j2_nothing_said_is_passed_over,
    j3_chain_and_numbers,
    j4_tables_are_the_fold,
    j5_one_live_attempt,
    j6_one_end,
    j7_nobody_is_forgotten,
    j8_nothing_is_left,
    j9_a_kill_is_proven,
    j10_one_key_one_task,
    j11_no_push_twice,
    j12_no_time_runs_backwards,
    j14_no_secret_is_written,
    j15_everything_is_bounded,
)
