"""The gate `ai-review`: one question to a model that did not write the change, and what its answer comes to.

The reviewer is a conversation of its own for each candidate: no tools, no network, no files, no memory, and
none of the author's words but the change. The invariant: it approves only by a whole answer to the one
question, as `core.review` has it, about a change that was shown whole; whatever else happens is a rejection
with a reason that has a name, and what the provider or a budget refuses is raised, as for any agent. Made by
`registry`; caller: `gates.base`.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import trio

from orchestrator.agents.claude.incoming import Message
from orchestrator.agents.claude.sdk import Sdk
from orchestrator.core.asking import Answer, Request
from orchestrator.core.model import Verdict
from orchestrator.core.patch import FileChange
from orchestrator.core.review import (
    SCHEMA,
    Review,
    Reviewed,
    ReviewMalformed,
    objection,
    parse_review,
    told,
)
from orchestrator.core.text import escaped
from orchestrator.gates.base import AI_REVIEW
from orchestrator.gates.exhibit import Ask, Exhibit
from orchestrator.review.prompt import MAX_CHANGE_BYTES, Unseen, question, read_changes

#: The most that a review takes, of its agent's time.
REVIEW_S = 600.0
#: The most tokens of an answer, with what the model thinks before it.
MAX_TOKENS = 16_000
#: Questions a review: one, and one more where the answer was not in the form that was asked for.
MAX_QUESTIONS = 2
BYTES_A_TOKEN = 2

_THOUGHTS = {"thinking", "redacted_thinking"}
_CUT = {"max_tokens", "model_context_window_exceeded"}


class NoReview(Exception):
    """There is no answer that counts; says why."""


@dataclass(slots=True)
class _Talk:
    """One review as it goes on."""

    sdk: Sdk
    model: str
    ask: Ask
    rules: str
    messages: list[dict[str, Any]]


class ReviewGate:
    """See `gates.exhibit.Gate`."""

    name = AI_REVIEW

    def __init__(self, open_sdk: Callable[[], Sdk], model_of: Callable[[], str]) -> None:
        """Take the way to the provider, anew for each review, and what tells the reviewer's model."""
        self._open_sdk = open_sdk
        self.model_of = model_of

    async def judge(self, exhibit: Exhibit, *, deadline_s: float) -> Verdict:
        """Have the change reviewed; raises `BudgetExceeded` and what a provider refuses."""
        limit_s, clock = min(deadline_s, REVIEW_S), exhibit.backend.clock
        began, model = clock.now(), self.model_of()
        review, why = None, f"the review did not end within {limit_s:g} s"
        with clock.move_on_after(limit_s):
            try:
                review = await self._review(exhibit, model)
                why = objection(review) or ""
            except (Unseen, NoReview) as reason:
                why = str(reason)
        praise = f"{model} approves with a confidence of {review.confidence:g}" if review else ""
        return Verdict(
            gate=self.name,
            approved=review is not None and not why,
            message=why or praise,
            commit=exhibit.commit,
            round=exhibit.round,
            duration_ms=round((clock.now() - began) * 1000, 1),
            output_tail=told(review) if review else "",
            review=Reviewed(**dict(review), model=model) if review else None,
        )

    async def _review(self, exhibit: Exhibit, model: str) -> Review:
        """Return the reviewer's answer; raises `Unseen` and `NoReview`."""
        if exhibit.ask is None:
            raise NoReview("there is no model here that could be asked")
        changes = read_changes(await exhibit.read_diff(MAX_CHANGE_BYTES))
        rules, asked = question(changes, exhibit.spec.context.instructions, secrets.token_hex(16))
        await exhibit.output("system", f"gate {self.name}: {model} reads the change")
        sdk = self._open_sdk()
        try:
            await sdk.open()
            talk = _Talk(sdk, model, exhibit.ask, rules, [{"role": "user", "content": asked}])
            return await _converse(talk, changes)
        finally:
            await sdk.aclose()


async def _converse(talk: _Talk, changes: Sequence[FileChange]) -> Review:
    """Ask, and ask once more where the form is wrong; raises `NoReview`."""
    for left in reversed(range(MAX_QUESTIONS)):
        message = await _ask(talk)
        _check_end(message)
        try:
            return parse_review(message.text, changes)
        except ReviewMalformed as wrong:
            if not left:
                raise NoReview(f"the reviewer's answer cannot be used: {wrong}") from None
            mend = f"That answer cannot be used: {wrong}. Answer the question again, as one JSON object."
        if any(block.get("type") not in _THOUGHTS for block in message.content):
            talk.messages.append({"role": "assistant", "content": message.content})
            talk.messages.append({"role": "user", "content": mend})
        else:  # what says nothing is taken back by no provider
            talk.messages[0]["content"] += f"\n{mend}\n"
    raise AssertionError


async def _ask(talk: _Talk) -> Message:
    """Make one request at the expense of the candidate's agent."""
    body = {
        "model": talk.model,
        "max_tokens": MAX_TOKENS,
        "system": talk.rules,
        "messages": talk.messages,
        # By the form and not by a tool: models that think before each answer can be forced to no tool.
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
    }
    got: list[Message] = []

    async def ask() -> Answer:
        began = trio.current_time()
        message = await talk.sdk.ask(body)
        got[:] = [message]
        return Answer(
            model=message.model or talk.model,
            stop_reason=message.stop_reason,
            usage=message.usage,
            text=message.text,
            duration_ms=(trio.current_time() - began) * 1000,
        )

    size = len(json.dumps(body))
    request = Request(
        talk.model,
        size // BYTES_A_TOKEN,
        MAX_TOKENS,
        most_input_tokens=size,  # the text is a stranger's
        so_far=lambda: talk.sdk.spent,
    )
    await talk.ask(request, ask)
    return got[0]


def _check_end(message: Message) -> None:
    """Raise `NoReview` where the answer did not come to an end of its own."""
    if message.stop_reason == "refusal":
        said = f": {escaped(message.why)[:300]}" if message.why else ""
        raise NoReview(f"the reviewer refused to answer{said}")
    if message.stop_reason in _CUT:
        raise NoReview(f"the reviewer's answer was cut off ({message.stop_reason})")
    if message.stop_reason != "end_turn":
        raise NoReview(f"the reviewer stopped for another reason: {escaped(message.stop_reason)[:60]}")
