"""What the agent tests share: a session on a real backend, with a log that can be looked at."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from orchestrator.agents.base import Prompt, Session, TurnResult
from orchestrator.agents.registry import make_runtimes
from orchestrator.core.events import SayingEvent
from orchestrator.core.liveness import Evidence
from orchestrator.core.spec import TaskSpec
from orchestrator.core.words import Message
from sandbox.base import Backend, Directory, Limits, SandboxError, User
from sandbox.bubblewrap import BubblewrapBackend
from sandbox.podman import PodmanBackend
from sandbox.trusted import ProcessBackend
from tests.kit.books import Books
from tests.kit.plain_meter import PlainMeter


class Log(Books):
    """An agent's log in memory, and how often its program was announced."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[str, str]] = []
        self.started = 0
        self.grew = trio.Event()

    async def recall(self) -> list[str]:
        return [event.content for event in self.events if isinstance(event, SayingEvent) and event.content]

    async def output(self, stream: str, line: str) -> None:
        self.lines.append((stream, line))
        self.grew.set()

    async def wait_for(self, line: str) -> None:
        while line not in [text for _, text in self.lines]:
            self.grew = trio.Event()
            await self.grew.wait()

    async def announce(self) -> None:
        self.started += 1

    def of(self, stream: str) -> list[str]:
        return [line for name, line in self.lines if name == stream]


class Letterbox:
    """An inbox in memory, and what was seen of the agent."""

    def __init__(self) -> None:
        self.said: list[Message] = []
        self.told: list[int] = []
        self.signs: list[Evidence] = []
        self.grew = trio.Event()

    def put(self, text: str, sender: str | None = "ann") -> None:
        self.said.append(Message(number=len(self.said) + 1, text=text, sender=sender))
        self.grew.set()

    def pending(self) -> tuple[Message, ...]:
        return tuple(each for each in self.said if each.number > max(self.told, default=0))

    async def wait(self, after: int = 0) -> None:
        await trio.lowlevel.checkpoint()
        while not any(each.number > after for each in self.pending()):
            self.grew = trio.Event()
            await self.grew.wait()

    async def heard(self, message: Message) -> None:
        await trio.lowlevel.checkpoint()
        self.told.append(message.number)

    def calls(self) -> list[bytes]:
        """Return by what the results of tools are known again."""
        return [sign.digest for sign in self.signs if sign.digest is not None]

    def on(self, session: Session) -> Session:
        """Return the session with this inbox, and noted here."""
        return replace(session, inbox=self, note=self.signs.append)


@pytest.fixture
def letters() -> Letterbox:
    """Return an empty inbox."""
    return Letterbox()


@pytest.fixture
def log() -> Log:
    """Return an empty log."""
    return Log()


@pytest.fixture(params=["bubblewrap", "process"])
def backend(request: pytest.FixtureRequest, ordinary_user: User) -> Backend:
    """Return each backend in turn, or skip with its reason."""
    try:
        if request.param == "process":
            return ProcessBackend(ordinary_user)
        if request.param == "podman":
            found: PodmanBackend | str = request.getfixturevalue("containers")
            return found if not isinstance(found, str) else pytest.skip(found)
        return BubblewrapBackend(ordinary_user)
    except SandboxError as error:
        pytest.skip(str(error))


def spec_of(*command: str, **options: object) -> TaskSpec:
    """Return the task of running a command."""
    return TaskSpec.model_validate(
        {
            "taskId": "T-1",
            "context": {"repository": "https://example.org/r.git", "instructions": "do it"},
            "options": {"command": list(command), **options},
        }
    )


def work_of(session: Session) -> Path:
    """Return where the session's programs work."""
    assert isinstance(session.workspace, Directory)
    return session.workspace.path


OpenSession = Callable[..., Session]


@pytest.fixture
def open_session(reachable_path: Path, backend: Backend, log: Log) -> OpenSession:
    """Return a function that makes a session for a command."""
    workspace, scratch = reachable_path / "workspace", reachable_path / "scratch"
    for path in (workspace, scratch):
        path.mkdir()
    os.chown(workspace, backend.user.uid, backend.user.gid)

    def open_home() -> Path:
        home = reachable_path / "home"
        if not home.exists():
            home.mkdir(0o700)
            os.chown(home, backend.user.uid, backend.user.gid)
        return home

    def session_of(spec: TaskSpec, *, resumed: bool = False, on: Backend | None = None) -> Session:
        log.begin(spec, "agent-1")
        return Session(
            agent_id="agent-1",
            task_id=spec.task_id,
            attempt=2,
            spec=spec,
            backend=on or backend,
            workspace=Directory(workspace),
            binds=(),
            limits=Limits(),
            base="b" * 40,
            branch=spec.landing_branch,
            scratch=scratch,
            resumed=resumed,
            output=log.output,
            started=log.announce,
            meter=PlainMeter({"task_id": spec.task_id, "agent_id": "agent-1"}, log.record),
            recall=log.recall,
            open_home=open_home,
        )

    return session_of


async def take_turn(session: Session, text: str = "please\n", number: int = 1) -> TurnResult:
    """Take one turn by the runtime `command`."""
    async with make_runtimes().find("command").open(session) as turns:
        return await turns.turn(Prompt(text, number))
