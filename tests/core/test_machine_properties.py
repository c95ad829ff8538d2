"""Whatever is asked, in whatever order, the state machine keeps its invariants; and a crash anywhere heals.

A random client, dispatcher and worker drive `decide` and `evolve` beside a model of a few plain dictionaries.
"""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orchestrator.core import commands as c
from orchestrator.core import events as e
from orchestrator.core.machine import evolve
from orchestrator.core.model import Agent, AgentId, Phase, PushIntent, Reason, State, TaskId
from orchestrator.core.policy import (
    MAX_CRASHES,
    Standing,
    backoff_s,
    free_slots,
    is_due,
    may_run_beside,
    standing,
    worst_active,
)
from orchestrator.core.recovery import (
    Complete,
    FinishCleanup,
    Reap,
    Resume,
    directory_of,
    may_hold,
    remedies,
)
from orchestrator.errors import (
    AgentUnknown,
    AlreadyEnded,
    CommandRefused,
    Draining,
    Frozen,
    IllegalTransition,
    NoSlot,
    QueueFull,
    TaskActive,
    TaskUnknown,
)
from tests.core.ledger import PUSH, VERDICT, Ledger, assert_sound, task_spec

TASKS = st.sampled_from(["t1", "t2", "t3", "t4", "t5"])
PICKS = st.integers(0, 30)
#: Why runs fail: for want of what it depends on fails only who has not begun.
OF_RUNS = st.sampled_from([reason for reason in Reason if reason is not Reason.DEPENDENCY_FAILED])
MAX_QUEUED = 4
TERMINAL = (e.AgentCompleted, e.AgentFailed, e.AgentKilled)


def has_live(lives: Lives) -> bool:
    return bool(lives.holder)


def has_waiting(lives: Lives) -> bool:
    return len(lives.holder) > len(lives.slotted)


def has_active(lives: Lives) -> bool:
    return bool(lives.slotted)


def has_dirty(lives: Lives) -> bool:
    return any(not agent.live for agent in lives.state.agents.values())


class Lives(RuleBasedStateMachine):
    """The machine under random commands, with what a plain reader of the commands would expect."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.count = 0
        #: The model: the live agent of each task, whether it has a slot, and all that have ended.
        self.holder: dict[str, AgentId] = {}
        self.slotted: set[AgentId] = set()
        self.ended: set[AgentId] = set()
        self.accepted: set[str] = set()
        self.over: set[str] = set()

    @initialize(agents=st.integers(1, 3), at_once=st.integers(1, 3), early=st.integers(1, MAX_QUEUED))
    def begin(self, agents: int, at_once: int, early: int) -> None:
        self.ledger.open(agents=agents, at_once=at_once, queued=MAX_QUEUED)
        for number in range(early):  # some runs are given no rule that submits, others nothing else
            self.submit(f"t{number}", 5, 1, False)

    @property
    def state(self) -> State:
        return self.ledger.state

    def new_id(self) -> AgentId:
        self.count += 1
        return AgentId(f"a{self.count}")

    def pick(self, number: int, *, active: bool | None = None) -> Agent | None:
        found = [a for a in self.state.agents.values() if a.live and active in {None, a.active}]
        found.sort(key=lambda agent: agent.id)
        return found[number % len(found)] if found else None

    def end(self, agent: Agent) -> None:
        self.ended.add(agent.id)
        self.slotted.discard(agent.id)
        del self.holder[agent.task_id]

    # --- the client

    @rule(task_id=TASKS, priority=st.integers(1, 10), retries=st.integers(0, 2), at_once=st.booleans())
    def submit(self, task_id: str, priority: int, retries: int, at_once: bool) -> None:
        agent_id = self.new_id()
        spec = task_spec(task_id, priority=priority, maxRetries=retries)
        earlier = self.ledger.attempts.get(task_id, 0)
        command = c.SubmitTask(spec, agent_id, "command", earlier, at_once=at_once)
        queued = len(self.holder) - len(self.slotted)
        free = free_slots(self.state)
        if task_id in self.holder:
            refusal: type[Exception] | None = TaskActive
        elif self.state.control.frozen:
            refusal = Frozen
        elif self.state.control.draining:
            refusal = Draining
        elif queued >= MAX_QUEUED:
            refusal = QueueFull
        else:
            refusal = None
        if refusal is not None:
            with pytest.raises(refusal):
                self.ledger.submit(command)
            return
        self.ledger.submit(command)
        if at_once and free and not queued:  # it overtakes nobody
            self.slotted.add(agent_id)
        self.holder[task_id] = agent_id
        self.accepted.add(task_id)
        self.over.discard(task_id)

    @rule(task_id=TASKS)
    def cancel(self, task_id: str) -> None:
        holder = self.holder.get(task_id)
        command = c.CancelTask(TaskId(task_id))
        if holder is None:
            with pytest.raises((TaskUnknown, AlreadyEnded)):
                self.ledger.submit(command)
        elif holder in self.slotted:
            with pytest.raises(CommandRefused, match="kill it"):
                self.ledger.submit(command)
        else:
            agent = self.state.agents[holder]
            self.ledger.submit(command)
            self.end(agent)
            self.over.add(task_id)

    @precondition(has_live)
    @rule(number=PICKS)
    def kill(self, number: int) -> None:
        if agent := self.pick(number):
            self.ledger.submit(c.KillAgent(agent.id, Reason.OPERATOR))
            assert (agent.id in self.state.agents) == may_hold(agent), "what holds nothing is gone at once"
            self.end(agent)
            self.over.add(agent.task_id)

    @rule(number=PICKS)
    def ask_for_what_has_ended(self, number: int) -> None:
        for agent_id in sorted(self.ended)[number : number + 1]:
            at, other = self.ledger.now, self.new_id()
            for command in (
                c.AssignAgent(agent_id),
                c.StartAgent(agent_id, "bubblewrap"),
                c.CompleteAgent(agent_id, Reason.DONE),
                c.FailAgent(agent_id, Reason.TIMEOUT, "", True, other, at),
                c.KillAgent(agent_id, Reason.OPERATOR),
                c.ResumeAgent(agent_id, crashed=True),
            ):
                with pytest.raises((AgentUnknown, AlreadyEnded)):
                    self.ledger.submit(command)

    # --- the operator

    @rule(paused=st.booleans())
    def pause_or_resume(self, paused: bool) -> None:
        self.ledger.submit(c.PauseQueue() if paused else c.ResumeQueue())
        assert self.state.control.paused is paused

    @rule(most=st.none() | st.integers(-1, 4), stop=st.none() | st.booleans())
    def change_settings(self, most: int | None, stop: bool | None) -> None:
        command = c.ChangeQueueSettings(most, stop)
        if most is not None and most < 1:
            with pytest.raises(CommandRefused, match="max_concurrent must be 1 to"):
                self.ledger.submit(command)
            return
        self.ledger.submit(command)
        assert most is None or self.state.control.queue_concurrency == most
        assert stop is None or self.state.control.stop_on_failure is stop

    @precondition(lambda self: self.count > 20)
    @rule()
    def drain(self) -> None:
        self.ledger.submit(c.Drain())
        assert self.state.control.draining

    @rule(frozen=st.booleans())
    def freeze_or_thaw(self, frozen: bool) -> None:
        was_frozen, was_draining = self.state.control.frozen, self.state.control.draining
        self.ledger.submit(c.Freeze() if frozen else c.Thaw())
        assert self.state.control.frozen is frozen
        ended = not frozen and not was_frozen
        assert self.state.control.draining is (was_draining and not ended)

    # --- the dispatcher and the workers

    @precondition(has_waiting)
    @rule(number=PICKS)
    def assign(self, number: int) -> None:
        agent = self.pick(number, active=False)
        if agent is None:
            return
        may = free_slots(self.state) and is_due(agent, self.ledger.now)
        command = c.AssignAgent(agent.id)
        if may and may_run_beside(agent, worst_active(self.state.agents.values())):
            self.ledger.submit(command)
            self.slotted.add(agent.id)
        else:
            with pytest.raises((NoSlot, Draining, Frozen)):
                self.ledger.submit(command)

    @precondition(has_active)
    @rule(number=PICKS)
    def start(self, number: int) -> None:
        if agent := self.pick(number, active=True):
            self.ledger.submit(c.StartAgent(agent.id, "bubblewrap"))
            assert self.state.agents[agent.id].status == "running"

    @precondition(has_waiting)
    @rule(number=PICKS, resumed=st.booleans())
    def go_straight_to_work(self, number: int, resumed: bool) -> None:
        """Shorten the way to where most happens."""
        self.pause_or_resume(False)
        if self.state.control.frozen:
            self.ledger.submit(c.Thaw())
        self.wait(600)
        self.assign(number)
        self.start(number)
        if resumed:
            self.resume(number, True)

    @precondition(has_active)
    @rule(number=PICKS)
    def work(self, number: int) -> None:
        if agent := self.pick(number, active=True):
            ids: dict[str, Any] = {"task_id": agent.task_id, "agent_id": agent.id}
            self.ledger.record(
                e.AgentTurn(**ids, turn=1, stop_reason="end", duration_ms=1.0),
                e.GateRejected(**ids, verdict=VERDICT),
                e.AgentPhase(**ids, phase=Phase.LANDING, push=PUSH),
            )

    @precondition(has_live)
    @rule(number=PICKS)
    def complete(self, number: int) -> None:
        agent = self.pick(number)
        if agent is None:
            return
        command = c.CompleteAgent(agent.id, Reason.DONE, "c0ffee", "agent/x")
        if agent.active and agent.status == "running":
            self.ledger.submit(command)
            self.end(agent)
            self.over.add(agent.task_id)
        else:
            with pytest.raises(CommandRefused):
                self.ledger.submit(command)

    @precondition(has_active)
    @rule(number=PICKS, reason=OF_RUNS, retryable=st.booleans(), chance=st.floats(0, 0.999))
    def fail(self, number: int, reason: Reason, retryable: bool, chance: float) -> None:
        agent = self.pick(number, active=True)
        if agent is None:
            return
        next_id = self.new_id()
        due = self.ledger.now + timedelta(seconds=backoff_s(agent.attempt, chance))
        self.ledger.submit(c.FailAgent(agent.id, reason, "no", retryable, next_id, due))
        self.end(agent)
        if next_id in self.state.agents:
            assert retryable
            assert agent.retries_left > 0
            self.holder[agent.task_id] = next_id
            assert self.state.agents[next_id].attempt == agent.attempt + 1
        else:
            self.over.add(agent.task_id)
            assert not self.state.control.stop_on_failure or self.state.control.paused

    @precondition(has_live)
    @rule(number=PICKS, crashed=st.booleans())
    def resume(self, number: int, crashed: bool) -> None:
        agent = self.pick(number)
        if agent is None:
            return
        command = c.ResumeAgent(agent.id, crashed)
        if not agent.active:
            with pytest.raises(CommandRefused, match="waits in the queue"):
                self.ledger.submit(command)
            return
        self.ledger.submit(command)
        if agent.crashes + crashed < MAX_CRASHES or agent.push is not None:  # whose push is asked for first
            self.slotted.discard(agent.id)
            assert self.state.agents[agent.id].queued_seq == agent.queued_seq, (
                "it keeps its place in the line"
            )
        else:
            self.end(agent)
            self.over.add(agent.task_id)

    @precondition(has_dirty)
    @rule(number=PICKS)
    def clean_up(self, number: int) -> None:
        dirty = sorted(agent.id for agent in self.state.agents.values() if not agent.live)
        if dirty:
            self.ledger.clean(dirty[number % len(dirty)])

    @rule(seconds=st.integers(0, 120))
    def wait(self, seconds: int) -> None:
        self.ledger.pass_s(seconds)

    # --- what always holds

    @invariant()
    def the_state_is_sound(self) -> None:
        assert_sound(self.state)

    @invariant()
    def nobody_on_its_last_chance_runs_beside_another_suspect(self) -> None:
        suspects = [agent for agent in self.state.agents.values() if agent.active and agent.crashes]
        assert len(suspects) < 2 or Standing.LAST_CHANCE not in map(standing, suspects)

    @invariant()
    def the_state_is_what_the_model_says(self) -> None:
        live = {agent.task_id: agent.id for agent in self.state.agents.values() if agent.live}
        assert live == self.holder
        assert {agent.id for agent in self.state.agents.values() if agent.active} == self.slotted
        assert self.accepted == self.holder.keys() | self.over, (
            "every accepted task is queued, active or ended"
        )

    @invariant()
    def nothing_live_or_unclean_was_pruned(self) -> None:
        events = [entry.event for entry in self.ledger.entries]
        cleaned = {event.agent_id for event in events if isinstance(event, e.AgentCleanup)}
        spawned = {event.agent_id for event in events if isinstance(event, e.AgentSpawning)}
        assert set(self.state.agents) == spawned - cleaned

    def teardown(self) -> None:
        """Check what needs the whole history, once it is complete."""
        entries = self.ledger.entries
        ends = [entry.event.agent_id for entry in entries if isinstance(entry.event, TERMINAL)]
        assert len(ends) == len(set(ends)), "J6: an attempt ended twice"
        assert set(ends) == self.ended
        assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
        self.refuse_every_event_that_cannot_follow()
        for state in self.ledger.commits:
            assert_heals(state)

    def refuse_every_event_that_cannot_follow(self) -> None:
        """Try to record again all that happened to those who have ended."""
        state = self.state
        for entry in self.ledger.entries:
            again = dataclasses.replace(entry, seq=state.seq + 1)
            agent = state.agents.get(AgentId(entry.event.agent_id or ""))
            if isinstance(entry.event, e.AgentEvent) and (agent is None or not agent.live):
                if entry.event.name in {"agent.cleanup", "agent.spawning"}:
                    continue  # the one event that an end leaves, and the one that makes a new agent
                with pytest.raises(IllegalTransition):
                    evolve(state, again)


def carry_out(ledger: Ledger, agent_id: AgentId, push: PushIntent | None) -> None:
    """Do as the reaper does; `push` is one that is known to have arrived."""
    if push is not None:
        ledger.submit(c.CompleteAgent(agent_id, Reason.DONE, push.new))
    else:
        ledger.submit(c.ResumeAgent(agent_id, crashed=True))


def assert_heals(state: State) -> None:
    """Crash after this commit: the remedies leave no agent active, no directory, and nothing to clean up."""
    ledger = Ledger(state)
    open_tasks = {task.id for task in state.tasks.values() if not task.status.ended}
    names = {agent.id: directory_of(agent.id, agent.task_id) for agent in state.agents.values()}
    directories = {*names.values(), "stray"}
    for remedy in remedies(state, directories):
        match remedy:
            case Reap(name=name):
                directories.remove(name)
            case Complete(agent_id=agent_id, push=push):
                carry_out(ledger, agent_id, push)
            case Resume(agent_id=agent_id):
                carry_out(ledger, agent_id, None)
            case FinishCleanup(agent_id=agent_id):
                finish(ledger, agent_id, directories)
        assert_sound(ledger.state)
    for remedy in remedies(ledger.state, directories):  # of those that ended by their remedy
        assert isinstance(remedy, FinishCleanup)
        finish(ledger, remedy.agent_id, directories)
    waiting = {names[agent.id] for agent in ledger.state.agents.values() if may_hold(agent)}
    assert directories == waiting, "J8: what is left belongs to an agent that goes on"
    assert ledger.state.active == 0, "J7: nothing runs without a live process"
    assert all(agent.live for agent in ledger.state.agents.values())
    ended = {
        entry.event.task_id
        for entry in ledger.entries
        if entry.event.name in {"task.completed", "task.failed"}
    }
    assert open_tasks == set(ledger.state.tasks) | ended, "J7: a task is queued or has ended"
    assert not remedies(ledger.state, directories), "two passes are enough"


def finish(ledger: Ledger, agent_id: AgentId, directories: set[str]) -> None:
    """Remove what an ended agent holds, as the reaper does."""
    agent = ledger.agent(agent_id)
    directories.discard(directory_of(agent.id, agent.task_id))
    ledger.clean(agent_id)


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
