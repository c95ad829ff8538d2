"""Our side of the Agent Client Protocol: what is asked of an agent.

One request of ours is open at a time; while its answer is awaited, all else that the agent sends is dealt
with as it comes (`ear`). The protocol knows one way to say something in the middle of a prompt: to cancel it,
and to ask by another in the same session. That is done where no tool would be cut off, or where the agent
has to be got going. The invariant: what an agent sends is not trusted, answers to what was not asked have no
effect, and no message is heard that the agent did not begin to answer. Caller: `runtime`.
"""

from __future__ import annotations

import contextlib
from types import ModuleType
from typing import TYPE_CHECKING, TypeGuard, TypeVar

import trio
from pydantic import BaseModel, ValidationError

from orchestrator.agents.acp.ear import Ear
from orchestrator.agents.acp.link import Link, message_of
from orchestrator.agents.acp.progress import Progress
from orchestrator.agents.acp.schema import PROTOCOL_VERSION
from orchestrator.agents.base import Prompt, Session
from orchestrator.agents.steering import hear, message_prompt, news_of
from orchestrator.core.model import Usage
from orchestrator.core.words import Message
from orchestrator.errors import AgentError, BudgetExceeded
from orchestrator.version import VERSION

if TYPE_CHECKING:
    from acp import schema as types

#: How long an agent may take for what comes before a prompt, and to stop once it is told to.
HANDSHAKE_S = 120.0
CANCEL_S = 5.0
MAX_SESSION_ID = 1000
M = TypeVar("M", bound=BaseModel)
LOGIN = -32000

INTERRUPTED = "You were interrupted while you worked on what stands below. See what is done, then go on.\n\n"
STEERED = "You were interrupted, to be told what follows. Take it in, then go on with your work.\n\n"


class RequestFailed(Exception):
    """The agent answered with an error."""

    def __init__(self, method: str, error: object) -> None:
        found = error if isinstance(error, dict) else {}
        self.code = found.get("code")
        detail = found.get("data")
        said = f"{found.get('message')}" + (f" ({detail})" if detail else "")
        super().__init__(f"{method}: {' '.join(said.split())[:500]}")


class Client:
    """One conversation with one agent's program."""

    def __init__(
        self, session: Session, link: Link, schema: ModuleType, progress: Progress, *, allow: bool
    ) -> None:
        """Take the way to the agent, the types, where its progress goes, and whether it may what it asks."""
        self._session = session
        self._link = link
        self._types = schema
        self._progress = progress
        self._ear = Ear(session, link, schema, progress, allow=allow)
        self._asked = 0
        #: Which message is the last that the agent was told, and whether what it does was cancelled for one.
        self._told = 0
        self._interrupted = False
        #: Whether messages are heard as soon as they begin to be answered; those that the first prompt is
        #: made of, and what follows it, are heard with its answer, or a crash would leave that out.
        self._early = False
        self._receiving = trio.CancelScope()

    async def open(self, cwd: str, kept: object, prompt: Prompt) -> str:
        """Begin a session, or go on with the one that was kept; return the prompt's text as it fits there."""
        able = await self._initialize()
        earlier = kept if isinstance(kept, dict) else {}
        there = earlier.get("session")
        if _is_name(there) and await self._resume(able, cwd, there):
            await self._keep(prompt)
            cut = (earlier.get("prompt"), earlier.get("message", 0)) == (prompt.number, prompt.message)
            return INTERRUPTED + prompt.text if cut else prompt.text
        request = self._types.NewSessionRequest(cwd=cwd, mcp_servers=[])
        made = self._read(self._types.NewSessionResponse, await self._shake("session/new", request))
        if not _is_name(made.session_id):
            raise AgentError("the agent's name for its session is empty or too long")
        self._ear.session_id = made.session_id
        await self._keep(prompt)
        return prompt.text

    async def prompt(self, text: str, prompt: Prompt) -> tuple[str, Usage]:
        """Have the agent answer a prompt, and what is said to it meanwhile; `text` is the prompt's.

        Returns why it stopped, and what it says it spent; raises `BudgetExceeded` once it has stopped.
        """
        self._told = prompt.message
        answered, error = ("", Usage()), None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            try:
                answered = await self._converse(text, prompt)
            except Exception as raised:  # raised again below, and not in a group
                error = raised
            nursery.cancel_scope.cancel(reason="the prompt was answered")
        if error is not None:
            raise error
        return answered

    async def _converse(self, text: str, prompt: Prompt) -> tuple[str, Usage]:
        self._progress.begin()
        self._ear.prompting = True
        self._early = prompt.message == 0
        usage, news = Usage(), self._news()
        if news:
            text += "\n\n" + message_prompt(news)
        answer = await self._prompt(text)
        while self._interrupted:
            usage = usage.plus(self._progress.usage(answer.usage))
            answer = await self._prompt(STEERED + message_prompt(self._news()))
        self._ear.prompting = False
        await hear(self._session.inbox, self._told)
        usage = usage.plus(self._progress.usage(answer.usage))
        return answer.stop_reason, usage.plus(Usage(cost_usd=self._progress.cost()))

    def _news(self) -> tuple[Message, ...]:
        """Return what the agent is to be told now; what is returned once counts as told."""
        news = news_of(self._session.inbox, self._told)
        self._told = news[-1].number if news else self._told
        return news

    async def _watch(self) -> None:
        """Break off the wait for the agent's words whenever there is something to tell it."""
        seen = self._told
        while True:
            await self._session.inbox.wait(seen)
            seen = max((seen, *(message.number for message in self._session.inbox.pending())))
            self._receiving.cancel()

    async def _interrupt(self) -> None:
        """Have the agent stop, where there is something to tell it and nothing is lost by that.

        What people say waits for the end of its tool calls; the supervisor's words are for who hangs in one.
        """
        if not self._ear.prompting or self._interrupted or not self._progress.answering:
            return
        news = news_of(self._session.inbox, self._told)
        if news and (self._progress.idle or any(message.sender is None for message in news)):
            await self._stop()

    async def _prompt(self, text: str) -> types.PromptResponse:
        """Ask by one prompt of the protocol's; raises `BudgetExceeded` once the agent has stopped."""
        block = self._types.TextContentBlock(type="text", text=text)
        request = self._types.PromptRequest(session_id=self._ear.session_id, prompt=[block])
        self._interrupted = False
        self._progress.begin_answer()
        answer: object = None
        spent: BudgetExceeded | None = None
        try:
            answer = await self._ask("session/prompt", request)
            await self._count()
        except BudgetExceeded as exceeded:
            spent = exceeded
        except RequestFailed as failed:
            if not self._interrupted:
                raise self._refused(failed) from failed
            answer = {"stopReason": "cancelled"}  # some say it so
        if spent is not None:
            await self._cancel()
            raise spent
        said: types.PromptResponse = self._read(self._types.PromptResponse, answer)
        return said

    async def _initialize(self) -> types.AgentCapabilities:
        files = self._types.FileSystemCapabilities(read_text_file=True, write_text_file=True)
        request = self._types.InitializeRequest(
            protocol_version=PROTOCOL_VERSION,
            client_capabilities=self._types.ClientCapabilities(fs=files, terminal=True),
            client_info=self._types.Implementation(name="orchestrator", version=VERSION),
        )
        answer = self._read(self._types.InitializeResponse, await self._shake("initialize", request))
        if answer.protocol_version != PROTOCOL_VERSION:
            raise AgentError(
                f"the agent speaks version {answer.protocol_version} of the Agent Client Protocol, and this "
                f"orchestrator version {PROTOCOL_VERSION}: take a version of the agent that speaks it"
            )
        able: types.AgentCapabilities = answer.agent_capabilities or self._types.AgentCapabilities()
        return able

    async def _resume(self, able: types.AgentCapabilities, cwd: str, there: str) -> bool:
        """Go on with an earlier session; return whether the agent could."""
        offered = able.session_capabilities
        if offered is not None and offered.resume is not None:
            method, request = "session/resume", self._types.ResumeSessionRequest
        elif able.load_session:
            method, request = "session/load", self._types.LoadSessionRequest
        else:
            return False
        self._ear.session_id = there
        try:
            await self._ask(method, request(session_id=there, cwd=cwd, mcp_servers=[]), HANDSHAKE_S)
        except RequestFailed as failed:
            if failed.code == LOGIN:
                raise self._refused(failed) from failed
            await self._progress.tell(f"the earlier session cannot be gone on with: {failed}")
            self._ear.session_id = ""
            return False
        return True

    async def _keep(self, prompt: Prompt) -> None:
        place = {"prompt": prompt.number, "message": prompt.message}
        await self._link.keep({"session": self._ear.session_id, **place})

    async def _stop(self) -> None:
        self._interrupted = True
        params = {"sessionId": self._ear.session_id}
        await self._link.send(message_of(method="session/cancel", params=params))

    async def _cancel(self) -> None:
        """Tell the agent to stop, and give it time to put its papers away."""
        with self._session.backend.clock.move_on_after(CANCEL_S), contextlib.suppress(BudgetExceeded):
            await self._stop()
            await self._answer_of(self._asked, "session/prompt")

    async def _shake(self, method: str, request: BaseModel) -> object:
        try:
            return await self._ask(method, request, HANDSHAKE_S)
        except RequestFailed as failed:
            raise self._refused(failed) from failed

    def _refused(self, failed: RequestFailed) -> AgentError:
        if failed.code != LOGIN:
            return AgentError(f"the agent failed: {failed}")
        return AgentError(
            "the agent wants somebody to log in, and there is nobody: give it what it needs in options.env "
            f"({failed})"
        )

    def _read(self, model: type[M], answer: object) -> M:
        try:
            return model.model_validate(answer)
        except (ValidationError, RecursionError) as error:
            first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else "too deep"
            raise AgentError(f"the agent's answer is no {model.__name__}: {first[:300]}") from None

    async def _ask(self, method: str, request: BaseModel, deadline_s: float | None = None) -> object:
        """Return what the agent answers; raises `RequestFailed`, and `AgentError` past the deadline."""
        self._asked += 1
        params = request.model_dump(mode="json", by_alias=True, exclude_none=True)
        await self._link.send(message_of(id=self._asked, method=method, params=params))
        if deadline_s is None:
            return await self._answer_of(self._asked, method)
        with self._session.backend.clock.move_on_after(deadline_s):
            return await self._answer_of(self._asked, method)
        raise AgentError(
            f"the agent did not answer {method} within {deadline_s:g} s: does it speak the Agent Client "
            "Protocol on its standard input and output? Some need an argument for that, e.g. --acp"
        )

    async def _answer_of(self, number: int, method: str) -> object:
        while True:
            await self._interrupt()
            message = await self._receive()
            if message is None:
                continue
            if isinstance(message.get("method"), str):
                await self._ear.take(message)
                if self._early and self._progress.answering:
                    await hear(self._session.inbox, self._told)
            elif type(message.get("id")) is int and message["id"] == number:
                if "error" in message:
                    raise RequestFailed(method, message["error"])
                return message.get("result")
            else:
                await self._progress.tell("the agent answered what it was not asked")
            if not self._link.waiting:
                await self._count()

    async def _receive(self) -> dict[str, object] | None:
        """Return what the agent sends next; None where there was something to tell it meanwhile."""
        with trio.CancelScope() as self._receiving:
            return await self._link.receive()
        return None

    async def _count(self) -> None:
        """Have the meter know of the tool calls."""
        calls, self._progress.uncounted = self._progress.uncounted, 0
        if calls:
            await self._session.meter.count_tools(calls)


def _is_name(word: object) -> TypeGuard[str]:
    """Whether an agent may call a session by this."""
    return isinstance(word, str) and 0 < len(word) <= MAX_SESSION_ID
