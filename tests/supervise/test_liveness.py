"""Agents that do nothing, or the same for ever, are nudged, begun anew, ended; others are left alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from orchestrator.agents.base import Answer, Prompt, Request, Session, TurnResult
from orchestrator.agents.command import CommandRuntime
from orchestrator.agents.registry import Runtimes
from orchestrator.core import events as e
from orchestrator.core.liveness import PROTOCOL, Deadlines, Evidence, Patience, Sign, judge, of_tool
from orchestrator.core.model import NO_USAGE, AgentId, AgentStatus, Reason
from orchestrator.core.spec import TaskSpec
from orchestrator.core.words import Concern, Step
from orchestrator.supervise.pulse import Pulse
from orchestrator.supervise.tree import Tree
from sandbox.base import User
from sandbox.clock import StoppableClock
from tests.kit.checker import check
from tests.kit.evidence import gather
from tests.kit.plane import Plane, open_plane
from tests.kit.remote import make_remote

LIFE_S = 60
SOON = Patience(boot_s=60, stall_s=1)
Script = Callable[[Session, Prompt], Awaitable[None]]


class Scripted:
    """A runtime that speaks to us, and does what a function says."""

    name = "claude"

    def __init__(self, script: Script) -> None:
        self.script = script
        #: Whether each conversation was one that goes on.
        self.opened: list[bool] = []

    def check(self, _spec: TaskSpec) -> None:
        """Take any task."""

    @asynccontextmanager
    async def open(self, session: Session) -> AsyncIterator[Scripted.Talk]:
        """Begin a conversation."""
        self.opened.append(session.resumed)
        await session.started()
        yield self.Talk(self, session)

    class Talk:
        """One conversation."""

        def __init__(self, runtime: Scripted, session: Session) -> None:
            self.runtime, self.session = runtime, session

        async def turn(self, prompt: Prompt) -> TurnResult:
            """Do what the script says."""
            await self.runtime.script(self.session, prompt)
            return TurnResult(ok=True, stop_reason="end", exit=None, text="", usage=NO_USAGE, duration_ms=1)


@pytest.fixture
def planes(reachable_path: Path, ordinary_user: User) -> Callable[..., Any]:
    """Return a way to run the agents of this test's home with a runtime of its own."""
    home = reachable_path / "home"
    home.mkdir(exist_ok=True)

    def opened(script: Script | None = None, patience: Patience = SOON) -> Any:  # noqa: ANN401
        runtimes = [CommandRuntime(), *([Scripted(script)] if script else [])]
        return open_plane(
            home, user=ordinary_user, roots=reachable_path, runtimes=Runtimes(runtimes), patience=patience
        )

    return opened


@pytest.fixture
def remote(reachable_path: Path) -> Path:
    """Return a remote to work for."""
    return make_remote(reachable_path)


async def steps(plane: Plane) -> list[tuple[str, str]]:
    """Return what was done about agents, and why."""
    seen = [r.event for r in await plane.store.events_after(0, types=["agent.attention"], limit=1000)]
    return [(str(a.step), str(a.concern)) for a in seen if isinstance(a, e.AgentAttention)]


async def wait_for_step(plane: Plane, agent: str, step: Step) -> None:
    """Wait until this was done about the agent."""
    while (state := plane.store.state).agents[AgentId(agent)].step is not step:
        await plane.store.wait_past(state.seq)


async def test_who_loops_is_nudged_then_begun_anew_then_ended(
    planes: Callable[..., Any], remote: Path, reachable_path: Path
) -> None:
    told: list[str] = []

    async def loop(session: Session, _prompt: Prompt) -> None:
        while True:
            for _ in range(8):
                session.note(of_tool("bash", "make", "no rule"))
            await session.inbox.wait()
            told.append(session.inbox.pending()[-1].text)
            await session.inbox.heard(session.inbox.pending()[-1])

    with trio.fail_after(LIFE_S):
        async with planes(loop, Patience(stall_s=0)) as plane:
            agent = await plane.over(await plane.submit(remote, "", "t", runtime="claude"))
            found = await steps(plane)
    assert (agent.status, agent.reason, agent.crashes) == (AgentStatus.FAILED, Reason.STALLED, 0)
    assert found == [("nudge", "loop"), ("restart", "loop"), ("end", "loop")]
    assert len(told) == 1
    assert "the same tool call came to the same result 8 times" in told[0]
    check(gather(reachable_path / "home", remotes=[remote], at_rest=True))


async def test_a_message_that_is_heard_twice_at_once_is_heard(
    planes: Callable[..., Any], remote: Path
) -> None:
    async def listen(session: Session, _prompt: Prompt) -> None:
        for _ in range(8):
            session.note(of_tool("bash", "make", "no rule"))
        await session.inbox.wait()
        (nudge,) = session.inbox.pending()
        async with trio.open_nursery() as nursery:
            for _ in range(2):  # the second is no more than a moment too late
                nursery.start_soon(session.inbox.heard, nudge)

    with trio.fail_after(LIFE_S):
        async with planes(listen, Patience(stall_s=0)) as plane:
            agent = await plane.over(await plane.submit(remote, "", "t", runtime="claude"))
    assert (agent.status, agent.waiting) == (AgentStatus.COMPLETED, ())


async def test_who_stalls_and_cannot_listen_is_begun_anew_and_lands_as_the_same_attempt(
    planes: Callable[..., Any], remote: Path
) -> None:
    lives: list[tuple[bool, int, str]] = []

    async def stall(session: Session, prompt: Prompt) -> None:
        lives.append((session.resumed, prompt.number, prompt.text))
        session.note(PROTOCOL)
        if not session.resumed:
            await trio.sleep_forever()

    with trio.fail_after(LIFE_S):
        async with planes(stall) as plane:
            agent = await plane.over(await plane.submit(remote, "", "t", runtime="claude"))
            found = await steps(plane)
    assert (agent.status, agent.attempt, agent.crashes) == (AgentStatus.COMPLETED, 1, 0)
    assert found == [("restart", "stall")]
    assert [life[:2] for life in lives] == [(False, 1), (True, 1)]
    assert lives[0][2] == lives[1][2]
    assert agent.step is None, "a turn ends it"


async def test_who_is_not_heard_of_after_its_launch_is_begun_anew_at_once(
    planes: Callable[..., Any], remote: Path
) -> None:
    async def boot(session: Session, _prompt: Prompt) -> None:
        if not session.resumed:
            await trio.sleep_forever()

    with trio.fail_after(LIFE_S):
        async with planes(boot, Patience(boot_s=1, stall_s=0)) as plane:
            agent = await plane.over(await plane.submit(remote, "", "t", runtime="claude"))
            assert await steps(plane) == [("restart", "boot")]
    assert agent.status is AgentStatus.COMPLETED


async def test_a_stalled_attempt_is_tried_again(planes: Callable[..., Any], remote: Path) -> None:
    async def stall(session: Session, _prompt: Prompt) -> None:
        if session.attempt == 1:
            await trio.sleep_forever()

    with trio.fail_after(LIFE_S):
        async with planes(stall, Patience(boot_s=1)) as plane:
            agent = await plane.over(await plane.submit(remote, "", "t", runtime="claude", retries=1))
            assert agent.next_agent_id is not None
            assert (await plane.over(agent.next_agent_id)).status is AgentStatus.COMPLETED


async def test_who_waits_for_a_model_is_not_stalled_however_long(
    planes: Callable[..., Any], remote: Path
) -> None:
    async def think(session: Session, prompt: Prompt) -> None:
        async def slow() -> Answer:
            with session.backend.clock.move_on_after(3.0):
                await trio.sleep_forever()
            return Answer("m", "end_turn", NO_USAGE, "", 1)

        await session.meter.ask(Request("m", 1, 1), slow, prompt=prompt.number)

    with trio.fail_after(LIFE_S):
        async with planes(think) as plane:
            agent = await plane.over(await plane.submit(remote, "", "t", runtime="claude"))
            assert await steps(plane) == []
    assert agent.status is AgentStatus.COMPLETED


async def test_who_is_parked_for_long_is_not_stalled(planes: Callable[..., Any], remote: Path) -> None:
    async def park(session: Session, _prompt: Prompt) -> None:
        assert isinstance(session.backend, Tree)
        session.note(PROTOCOL)
        with session.backend.stand_still(), trio.move_on_after(3.0):
            await trio.sleep_forever()

    with trio.fail_after(LIFE_S):
        async with planes(park) as plane:
            agent = await plane.over(await plane.submit(remote, "", "t", runtime="claude"))
            assert await steps(plane) == []
    assert agent.status is AgentStatus.COMPLETED


async def stall(session: Session, _prompt: Prompt) -> None:
    """Read what there is, show one sign of life, and do nothing more."""
    session.inbox.pending()
    session.note(PROTOCOL)
    await trio.sleep_forever()


async def test_who_was_nudged_before_a_restart_of_ours_is_begun_anew_after_it(
    planes: Callable[..., Any], remote: Path, reachable_path: Path
) -> None:
    with trio.fail_after(LIFE_S):
        async with planes(stall) as plane:
            agent = await plane.submit(remote, "", "t", runtime="claude")
            await wait_for_step(plane, agent, Step.NUDGE)
        async with planes(stall) as plane:
            ended = await plane.over(agent)
            found = [step for step, _ in await steps(plane)]
    assert (found, ended.reason) == (["nudge", "restart", "end"], Reason.STALLED)
    assert not ended.waiting, "a nudge that nobody heard is moot"
    check(gather(reachable_path / "home", remotes=[remote], at_rest=True))


@pytest.mark.parametrize("step", [Step.NUDGE, Step.RESTART])
async def test_a_kill_in_the_midst_of_it_ends_the_agent_once(
    planes: Callable[..., Any], remote: Path, reachable_path: Path, step: Step
) -> None:
    with trio.fail_after(LIFE_S):
        async with planes(stall) as plane:
            agent = await plane.submit(remote, "", "t", runtime="claude")
            await wait_for_step(plane, agent, step)
            report = await plane.supervisor.kill(agent, actor="me")
            assert (await plane.over(agent)).status is AgentStatus.KILLED
    assert report.remaining == 0
    check(gather(reachable_path / "home", remotes=[remote], at_rest=True))


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("while :; do echo the same; sleep 0.2; done", Reason.STALLED),
        ("sleep 1000", Reason.STALLED),
        ("for n in $(seq 16); do echo step $n; sleep 0.2; done", Reason.NO_CHANGES),
        ("for n in $(seq 16); do mkdir -p a/b; echo $n > a/b/c; sleep 0.2; done", Reason.DONE),
        ("end=$(($(date +%s) + 4)); while [ $(date +%s) -lt $end ]; do :; done", Reason.NO_CHANGES),
    ],
    ids=["prints the same for ever", "does nothing", "says something new", "writes files", "computes"],
)
async def test_a_program_is_judged_by_what_it_does_where_it_is_asked_to_be(
    planes: Callable[..., Any], remote: Path, script: str, reason: Reason
) -> None:
    with trio.fail_after(LIFE_S):
        async with planes(patience=Patience()) as plane:
            agent = await plane.submit(remote, script, "t", deadlines={"stallSeconds": 2})
            ended = await plane.over(agent)
            found = [step for step, _ in await steps(plane)]
    assert ended.reason is reason, ended.error
    assert found == (["restart", "end"] if reason is Reason.STALLED else [])


async def test_no_time_of_an_agent_passes_while_it_is_frozen_or_parked(mock_clock: MockClock) -> None:
    clock, pulse = StoppableClock(), Pulse()
    deadlines = Deadlines(boot_s=10, turn_s=100, stall_s=10)

    def concern() -> Concern | None:
        standing = pulse.standing()
        found = judge(standing, deadlines) if standing else None
        return found[0] if found else None

    with pulse.conversation("claude", clock), pulse.prompt():
        pulse.note(PROTOCOL)
        clock.stop()
        mock_clock.jump(10_000)
        await trio.lowlevel.checkpoint()
        assert concern() is None
        clock.go_on()
        mock_clock.jump(9)
        assert concern() is None
        mock_clock.jump(1)
        assert concern() is Concern.STALL
    assert concern() is None, "nothing is held against who works on no prompt"


async def test_what_only_says_that_a_program_runs_is_no_evidence_of_who_speaks(mock_clock: MockClock) -> None:
    clock, pulse = StoppableClock(), Pulse()
    for runtime, seen in (("claude-code", False), ("command", True)):
        with pulse.conversation(runtime, clock), pulse.prompt():
            for sign in (Sign.STARTED, Sign.OUTPUT, Sign.CPU):
                pulse.note(Evidence(sign))
            pulse.note_line(f"{runtime} says hello")
            standing = pulse.standing()
            assert standing is not None
            assert (standing.seen is not None) is seen
    mock_clock.jump(1)


async def test_a_conversation_is_begun_anew_only_in_the_middle_of_a_prompt() -> None:
    pulse = Pulse()
    with pulse.conversation("claude", StoppableClock()) as scope:
        pulse.restart()
        assert not scope.cancel_called
        with pulse.prompt():
            pulse.restart()
        assert scope.cancel_called
