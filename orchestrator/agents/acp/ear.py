"""What an agent says and asks while we wait for its answer, and how that is answered.

The invariant: nothing that it asks waits for anybody (permissions are decided by policy, at once), and
nothing that it sends is trusted: words in the name of other sessions and methods that nobody knows are told
in the log and have no effect. Caller: `client`.
"""

from __future__ import annotations

from types import ModuleType

from pydantic import ValidationError

from orchestrator.agents.acp.link import Link, Message, message_of, params_of
from orchestrator.agents.acp.progress import Progress
from orchestrator.agents.base import Session
from orchestrator.agents.companion import missing_program
from orchestrator.core.liveness import PROTOCOL

NOT_FOUND, INVALID = -32601, -32602
#: Which of an agent's options a policy takes, best first.
_CHOICES = {True: ("allow_once", "allow_always"), False: ("reject_once", "reject_always")}
#: What says that something runs inside, and not that the agent gets on.
_NO_SIGNS = {"_sandbox/said", "_sandbox/garbage"}


class Ear:
    """Takes all that one agent's program sends by itself."""

    def __init__(
        self, session: Session, link: Link, schema: ModuleType, progress: Progress, *, allow: bool
    ) -> None:
        """Take the way to the agent, the types, where its progress goes, and whether it may what it asks."""
        self._session = session
        self._link = link
        self._types = schema
        self._progress = progress
        self._allow = allow
        #: The agent's name for our session; empty before there is one.
        self.session_id = ""
        #: Whether a prompt is being answered; what is told before is an earlier conversation.
        self.prompting = False
        self._unknown: set[str] = set()

    async def take(self, message: Message) -> None:
        """Deal with what came from inside that is no answer; raises `AgentError` where there is no agent."""
        method, params = message["method"], params_of(message)
        if method not in _NO_SIGNS:
            self._session.note(PROTOCOL)
        if method.startswith("_sandbox/"):
            await self._hear(method.partition("/")[2], params)
        elif method == "session/update":
            await self._update(params)
        elif method == "session/request_permission" and "id" in message:
            await self._link.send(message_of(id=message["id"], **await self._permission(params)))
        elif "id" in message:
            await self._link.send(
                message_of(id=message["id"], error={"code": NOT_FOUND, "message": "there is no such method"})
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
        if not self.prompting:  # an earlier conversation is told again
            return
        try:
            told = self._types.SessionNotification.model_validate(params)
        except (ValidationError, RecursionError):
            update = params.get("update")
            kind = update.get("sessionUpdate") if isinstance(update, dict) else None
            await self._tell_once(f"the agent tells what nobody knows: session/update {str(kind)[:100]}")
            return
        if told.session_id != self.session_id:
            await self._tell_once("the agent tells of a session that is not ours")
            return
        await self._progress.take(told)

    async def _permission(self, params: Message) -> Message:
        """Decide at once what the agent asks leave for; return how to answer."""
        try:
            asked = self._types.RequestPermissionRequest.model_validate(params)
        except (ValidationError, RecursionError):
            return {"error": {"code": INVALID, "message": "this is no request for a permission"}}
        if asked.session_id != self.session_id:
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
