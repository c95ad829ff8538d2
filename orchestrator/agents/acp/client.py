"""Our side of the Agent Client Protocol: what is asked of an agent, and how what it asks is answered.

One request of ours is open at a time; while its answer is awaited, all else that the agent sends is dealt
with as it comes. The invariant: nothing that an agent asks waits for anybody (permissions are decided by
policy, at once), and nothing that it sends is trusted: answers to what was not asked, words in the name of
other sessions and methods that nobody knows are told in the log and have no effect. Caller: `runtime`.
"""

from __future__ import annotations

import contextlib
from types import ModuleType
from typing import TYPE_CHECKING, TypeGuard, TypeVar

from pydantic import BaseModel, ValidationError

from orchestrator.agents.acp.link import Link, Message, params_of
from orchestrator.agents.acp.progress import Progress
from orchestrator.agents.acp.schema import PROTOCOL_VERSION
from orchestrator.agents.base import Prompt, Session
from orchestrator.agents.companion import missing_program
from orchestrator.errors import AgentError, BudgetExceeded
from orchestrator.version import VERSION

if TYPE_CHECKING:
    from acp import schema as types

#: How long an agent may take for what comes before a prompt, and to stop once it is told to.
HANDSHAKE_S = 120.0
CANCEL_S = 5.0
MAX_SESSION_ID = 1000
M = TypeVar("M", bound=BaseModel)
NOT_FOUND, INVALID, LOGIN = -32601, -32602, -32000

INTERRUPTED = "You were interrupted while you worked on what stands below. See what is done, then go on.\n\n"
#: Which of an agent's options a policy takes, best first.
_CHOICES = {True: ("allow_once", "allow_always"), False: ("reject_once", "reject_always")}


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
        self._allow = allow
        self._asked = 0
        #: The agent's name for our session; empty before there is one.
        self._id = ""
        self._prompting = False
        self._unknown: set[str] = set()

    # --- what we ask ----------------------------------------------------------------------------------------

    async def open(self, cwd: str, kept: object, prompt: Prompt) -> str:
        """Begin a session, or go on with the one that was kept; return the prompt's text as it fits there."""
        able = await self._initialize()
        earlier = kept if isinstance(kept, dict) else {}
        there = earlier.get("session")
        if _is_name(there) and await self._resume(able, cwd, there):
            await self._keep(prompt)
            return INTERRUPTED + prompt.text if earlier.get("prompt") == prompt.number else prompt.text
        request = self._types.NewSessionRequest(cwd=cwd, mcp_servers=[])
        made = self._read(self._types.NewSessionResponse, await self._shake("session/new", request))
        if not _is_name(made.session_id):
            raise AgentError("the agent's name for its session is empty or too long")
        self._id = made.session_id
        await self._keep(prompt)
        return prompt.text

    async def prompt(self, text: str) -> types.PromptResponse:
        """Have the agent answer a prompt; raises `BudgetExceeded` once it has stopped."""
        block = self._types.TextContentBlock(type="text", text=text)
        request = self._types.PromptRequest(session_id=self._id, prompt=[block])
        self._progress.begin()
        self._prompting = True
        answer: object = None
        spent: BudgetExceeded | None = None
        try:
            answer = await self._ask("session/prompt", request)
            await self._count()
        except BudgetExceeded as exceeded:
            spent = exceeded
        except RequestFailed as failed:
            raise self._refused(failed) from failed
        if spent is not None:
            await self._cancel()
            raise spent
        self._prompting = False
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
        self._id = there
        try:
            await self._ask(method, request(session_id=there, cwd=cwd, mcp_servers=[]), HANDSHAKE_S)
        except RequestFailed as failed:
            if failed.code == LOGIN:
                raise self._refused(failed) from failed
            await self._progress.tell(f"the earlier session cannot be gone on with: {failed}")
            self._id = ""
            return False
        return True

    async def _keep(self, prompt: Prompt) -> None:
        await self._link.keep({"session": self._id, "prompt": prompt.number})

    async def _cancel(self) -> None:
        """Tell the agent to stop, and give it time to put its papers away."""
        with self._session.backend.clock.move_on_after(CANCEL_S), contextlib.suppress(BudgetExceeded):
            await self._link.send(_message(method="session/cancel", params={"sessionId": self._id}))
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
        await self._link.send(_message(id=self._asked, method=method, params=params))
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
            message = await self._link.receive()
            if isinstance(message.get("method"), str):
                await self._take(message)
            elif type(message.get("id")) is int and message["id"] == number:
                if "error" in message:
                    raise RequestFailed(method, message["error"])
                return message.get("result")
            else:
                await self._progress.tell("the agent answered what it was not asked")
            if not self._link.waiting:
                await self._count()

    async def _count(self) -> None:
        """Have the meter know of the tool calls."""
        calls, self._progress.uncounted = self._progress.uncounted, 0
        if calls:
            await self._session.meter.count_tools(calls)

    # --- what the agent says and asks -----------------------------------------------------------------------

    async def _take(self, message: Message) -> None:
        method, params = message["method"], params_of(message)
        if method.startswith("_sandbox/"):
            await self._hear(method.partition("/")[2], params)
        elif method == "session/update":
            await self._update(params)
        elif method == "session/request_permission" and "id" in message:
            await self._link.send(_message(id=message["id"], **await self._permission(params)))
        elif "id" in message:
            await self._link.send(
                _message(id=message["id"], error={"code": NOT_FOUND, "message": "there is no such method"})
            )
            await self._tell_once(f"the agent asks for what is not offered: {method[:100]}")
        else:
            await self._tell_once(f"the agent tells what nobody knows: {method[:100]}")

    async def _hear(self, word: str, params: Message) -> None:
        """Take what the companion inside tells."""
        if word == "said":
            await self._progress.log.add("stderr", str(params.get("text")).encode("utf-8", "replace"))
        elif word == "missing":
            command = self._session.spec.options.command or ("",)
            what = f"the program {command[0]!r} cannot be started in the sandbox ({params.get('why')})"
            raise missing_program(self._session, " ".join(what.split())[:500])
        elif word == "served":
            await self._progress.tell(f"{params.get('method')}: {params.get('what')}")
        elif word == "refused":
            await self._progress.tell(f"{params.get('method')} was refused: {params.get('why')}")
        else:
            await self._progress.tell(f"no message: {params.get('text')}")

    async def _update(self, params: Message) -> None:
        if not self._prompting:  # an earlier conversation is told again
            return
        try:
            told = self._types.SessionNotification.model_validate(params)
        except (ValidationError, RecursionError):
            update = params.get("update")
            kind = update.get("sessionUpdate") if isinstance(update, dict) else None
            await self._tell_once(f"the agent tells what nobody knows: session/update {str(kind)[:100]}")
            return
        if told.session_id != self._id:
            await self._tell_once("the agent tells of a session that is not ours")
            return
        await self._progress.take(told)

    async def _permission(self, params: Message) -> Message:
        """Decide at once what the agent asks leave for; return how to answer."""
        try:
            asked = self._types.RequestPermissionRequest.model_validate(params)
        except (ValidationError, RecursionError):
            return {"error": {"code": INVALID, "message": "this is no request for a permission"}}
        if asked.session_id != self._id:
            return {"error": {"code": INVALID, "message": "there is no such session"}}
        options = {option.kind: option for option in reversed(asked.options)}
        chosen = next((options[kind] for kind in _CHOICES[self._allow] if kind in options), None)
        if chosen is None:  # there is no such option: the other way to say no
            chosen = next((options[kind] for kind in _CHOICES[False] if kind in options), None)
        title = asked.tool_call.title or asked.tool_call.tool_call_id
        await self._progress.tell(f"permission {chosen.kind if chosen else 'cancelled'}: {title}")
        if chosen is None:
            return {"result": {"outcome": {"outcome": "cancelled"}}}
        return {"result": {"outcome": {"outcome": "selected", "optionId": chosen.option_id}}}

    async def _tell_once(self, text: str) -> None:
        if text not in self._unknown and len(self._unknown) < 100:
            self._unknown.add(text)
            await self._progress.tell(text)


def _is_name(word: object) -> TypeGuard[str]:
    """Whether an agent may call a session by this."""
    return isinstance(word, str) and 0 < len(word) <= MAX_SESSION_ID


def _message(**fields: object) -> Message:
    return {"jsonrpc": "2.0", **fields}
