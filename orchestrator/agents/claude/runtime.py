"""The runtime `claude`: the Messages API asked from here, its tools at work in the sandbox.

A prompt is answered in as many turns as the model takes: ask, journal the answer, do what it calls for,
journal what came of that, ask again; what is said to the agent meanwhile goes beside that. The invariant: an
answer is durable before its calls are made, and what came of them before the next request, so a restart asks
for no answer twice and tells no message twice; calls whose results were lost in a crash are not made again,
but told as such. The key stays here. Caller: `agents.registry`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import trio

from orchestrator.agents.base import MAX_TEXT, Answer, Prompt, Request, Session, TurnResult, Turns
from orchestrator.agents.claude.conversation import Conversation
from orchestrator.agents.claude.hands import Hands, HandsLost, open_hands
from orchestrator.agents.claude.incoming import Block
from orchestrator.agents.claude.sdk import Sdk
from orchestrator.agents.claude.toolbox import NAMES, SYSTEM, TOOLS, deadline_of, summary_of
from orchestrator.agents.lines import TurnLog
from orchestrator.agents.models import ModelAccess
from orchestrator.agents.steering import hear, message_prompt, news_of
from orchestrator.core.liveness import of_tool
from orchestrator.core.model import Usage
from orchestrator.core.spec import TaskSpec
from orchestrator.core.text import escaped, tail_of
from orchestrator.errors import AgentError, FieldRefused

NO_KEY = 'the runtime "claude" needs a key: set CLAUDE_API_KEY'
#: The most tokens of one answer.
MAX_TOKENS = 16_000
#: Answers in a row that may be cut off or paused without a call.
MAX_UNFINISHED = 8
#: Characters of all results of one answer's calls.
MAX_RESULTS = 150_000

CONTINUE = "Your answer was cut off by its length. Go on exactly where it ended."
CUT_CALL = "Error: the call was cut off by the length of the answer, and not made. Make it in smaller pieces."
LOST_CALL = (
    "Error: the outcome of this call is unknown: the work was interrupted meanwhile. It may have been done, "
    "in part or not at all, and the shell is a new one. Look before you repeat it."
)
_MARK = {"type": "ephemeral"}
_SYSTEM = [{"type": "text", "text": SYSTEM, "cache_control": _MARK}]
_TOOLS = [*TOOLS[:-1], {**TOOLS[-1], "cache_control": _MARK}]
_BESIDE_BYTES = len(json.dumps([_SYSTEM, _TOOLS]))


class ClaudeRuntime:
    """See `agents.base.Runtime`."""

    name = "claude"

    def __init__(self, access: ModelAccess) -> None:
        """Take how agents get at a model."""
        self._access = access

    def check(self, spec: TaskSpec) -> None:
        """Raise `FieldRefused` where there is no key."""
        if not self._access.has_key:
            raise FieldRefused("options.runtime", NO_KEY)

    def open(self, session: Session) -> AbstractAsyncContextManager[Turns]:
        """Begin a conversation, or go on with the one that the journal has."""
        return self._open(session)

    @asynccontextmanager
    async def _open(self, session: Session) -> AsyncIterator[Turns]:
        if not self._access.has_key:
            raise AgentError(NO_KEY)
        sdk = Sdk(self._access.upstream)
        try:
            await sdk.open()
            talk = Conversation.restored(await session.recall())
            yield ClaudeTurns(session, sdk, talk, self._access.model_of(session.spec))
        finally:
            await sdk.aclose()


class ClaudeTurns:
    """See `agents.base.Turns`."""

    def __init__(self, session: Session, sdk: Sdk, talk: Conversation, model: str) -> None:
        self._session = session
        self._sdk = sdk
        self._talk = talk
        self._model = model
        self._log = TurnLog(session.output)
        self._usage = Usage()
        self._announced = False

    async def turn(self, prompt: Prompt) -> TurnResult:
        """Answer a prompt; raises what the meter raises, and `AgentError` where model or tools fail."""
        began = self._session.backend.clock.now()
        self._usage = Usage()
        if not self._talk.has(prompt.number, prompt.message):
            self._talk.say(prompt.text, prompt.message)
        lost: HandsLost | None = None
        if self._talk.prompt != prompt.number or not self._answered():
            try:
                async with open_hands(self._session) as hands:
                    await self._announce()
                    await self._answer(prompt, hands)
            except HandsLost as ended:
                await self._session.output("system", str(ended))
                lost = ended
        await self._log.finish()
        if lost is None:
            await hear(self._session.inbox, self._talk.told)
        return TurnResult(
            ok=lost is None,
            stop_reason=self._talk.stop_reason if lost is None else "tools",
            exit=lost.ended if lost else None,
            text=tail_of(self._talk.text.encode(), MAX_TEXT),
            usage=self._usage,
            duration_ms=(self._session.backend.clock.now() - began) * 1000,
            metered=True,
        )

    async def _announce(self) -> None:
        if not self._announced:
            self._announced = True
            await self._session.started()

    def _answered(self) -> bool:
        """Whether the last answer asks for nothing more."""
        return not self._talk.calls and not self._talk.waits and not self._unfinished()

    def _unfinished(self) -> bool:
        return self._talk.stop_reason in {"max_tokens", "pause_turn", "model_context_window_exceeded"}

    async def _answer(self, prompt: Prompt, hands: Hands) -> None:
        """Ask until the answer is whole."""
        talk, unfinished = self._talk, 0
        if talk.calls:  # of an earlier life
            await self._report(talk.calls, [_result(call, LOST_CALL, ok=False) for call in talk.calls])
        while talk.prompt != prompt.number or not self._answered():
            if talk.prompt == prompt.number and not talk.waits and talk.stop_reason != "pause_turn":
                talk.say(CONTINUE)
            await self._ask(prompt)
            unfinished = unfinished + 1 if self._unfinished() and not talk.calls else 0
            if unfinished > MAX_UNFINISHED:
                raise AgentError(f"the model was cut off {unfinished} times in a row ({talk.stop_reason})")
            if talk.calls:
                await self._session.meter.check_tools(len(talk.calls))
                await self._report(talk.calls, await self._make(talk.calls, hands))

    def _listen(self) -> None:
        """Add what was said to the agent meanwhile, where the model is told anything."""
        news = news_of(self._session.inbox, self._talk.told)
        if news and self._talk.waits:
            self._talk.say(message_prompt(news), news[-1].number)

    async def _ask(self, prompt: Prompt) -> None:
        """Take one turn; raises `AgentError` where the model refuses to go on."""
        talk = self._talk
        self._listen()
        body = {
            "model": self._model,
            "max_tokens": MAX_TOKENS,
            "system": _SYSTEM,
            "tools": _TOOLS,
            "messages": talk.messages(),
        }
        why = ""

        async def ask() -> Answer:
            nonlocal why
            began = trio.current_time()
            message = await self._sdk.ask(body)
            why = message.why
            return Answer(
                model=message.model or self._model,
                stop_reason=message.stop_reason,
                usage=message.usage,
                text=message.text,
                duration_ms=(trio.current_time() - began) * 1000,
                content=json.dumps(talk.entry(message, prompt.number)),
            )

        tokens = talk.input_tokens(_BESIDE_BYTES)
        request = Request(self._model, tokens, MAX_TOKENS, so_far=lambda: self._sdk.spent)
        answer = await self._session.meter.ask(request, ask, prompt=prompt.number)
        talk.take(json.loads(answer.content or "{}"))
        self._usage = self._usage.plus(answer.usage)
        await self._log.add("stdout", f"{answer.text}\n".encode() if answer.text else b"")
        if not prompt.message:  # else it is only heard with its answer, or a crash would leave that out
            await hear(self._session.inbox, talk.told)
        if answer.stop_reason == "refusal":
            said = f": {escaped(why)}" if why else ""
            raise AgentError(
                f"the model {self._model} refused to go on{said}; put the task in other words, or name "
                "another model in options.model"
            )

    async def _make(self, calls: list[Block], hands: Hands) -> list[Block]:
        """Make the calls, one after the other, and return what came of them."""
        results: list[Block] = []
        room = MAX_RESULTS
        for call in calls:
            ok, text = await self._make_one(call, hands)
            if len(text) > room:
                text = text[:room] + "\n[the rest was cut: make fewer calls at once]"
            room = max(0, room - len(text))
            results.append(_result(call, text, ok=ok))
            given = self._talk.malformed.get(str(call["id"])) or json.dumps(call["input"])
            self._session.note(of_tool(str(call["name"]), given, text))
        return results

    async def _make_one(self, call: Block, hands: Hands) -> tuple[bool, str]:
        name, given, malformed = str(call["name"]), call["input"], self._talk.malformed.get(str(call["id"]))
        if malformed is not None:
            said = f"Error: the input is no JSON object, and the call was not made: {malformed}"
            return False, said if malformed else CUT_CALL
        if name not in NAMES:
            return False, f"Error: there is no tool {name[:100]!r}; there are {', '.join(sorted(NAMES))}"
        await self._session.output("system", summary_of(name, given))
        outcome = await hands.call(name, given, deadline_s=deadline_of(name, given))
        return outcome.ok, outcome.text

    async def _report(self, calls: list[Block], results: list[Block]) -> None:
        """Journal what came of the calls, then go on by it."""
        await self._session.meter.count_tools(len(calls), json.dumps({"results": results}))
        self._talk.take_results(results)


def _result(call: Block, text: str, *, ok: bool) -> dict[str, Any]:
    """Return the block that answers a call."""
    block = {"type": "tool_result", "tool_use_id": call["id"], "content": text or "(no output)"}
    return block if ok else {**block, "is_error": True}
