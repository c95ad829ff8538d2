"""What one run of Claude Code is told on its input: its prompt, then what is said to its agent meanwhile.

It reads a line in the middle of its work, says so by repeating it (`--replay-user-messages`), and tells its
model beside the next results of tools; what comes too late for that is answered after, with a result of its
own. The invariant: a message is heard once the model was told it, and one that the program ended without is
left for a further prompt. Caller: `claude_code`.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

import trio

from orchestrator.agents.base import Inbox
from orchestrator.agents.steering import hear, message_prompt, news_of


class Dictation:
    """One run's input."""

    def __init__(self, inbox: Inbox, text: str, told: int = 0) -> None:
        """Take the prompt, and which message is the last that it tells, if any.

        What is said after a prompt that tells messages is heard with its answer, or a crash would leave that
        out.
        """
        self._inbox = inbox
        self._text = text
        self._told = told
        self._early = told == 0
        #: By the name of its line, up to which message the program was told.
        self._sent: dict[str, int] = {}
        #: Up to which message it told its model; 0 where nothing is to be journaled of that.
        self._taken = 0
        #: Set once no more is told.
        self._over = trio.Event()
        self._waiting = trio.CancelScope()

    async def feed(self, stream: trio.abc.SendStream) -> None:
        """Tell it all, until `end`; no line is left unfinished."""
        await stream.send_all(_line(self._text))
        while not self._over.is_set():
            with trio.CancelScope() as self._waiting:
                await self._inbox.wait(self._told)
            news = () if self._over.is_set() else news_of(self._inbox, self._told)
            if news:
                name, self._told = str(uuid.uuid4()), news[-1].number
                self._sent[name] = self._told
                await stream.send_all(_line(message_prompt(news), uuid=name))

    def end(self) -> None:
        """Tell no more: the program has told its result."""
        self._over.set()
        self._waiting.cancel()

    def takes(self, line: Mapping[str, Any]) -> bool:
        """Whether a line says that the program takes in what it was told meanwhile, to tell its model."""
        number = self._sent.pop(str(line.get("uuid")), 0) if line.get("isReplay") is True else 0
        self._taken = max(self._taken, number)
        return number > 0

    async def answered(self, *, last: bool = False) -> None:
        """Have it journaled that the model was told what was taken in: it answers, or has said its `last`."""
        if self._taken and (self._early or last):
            taken, self._taken = self._taken, 0
            await hear(self._inbox, taken)


def _line(text: str, **more: str) -> bytes:
    """Return what is said to the program as it reads it."""
    message = {"type": "user", "message": {"role": "user", "content": text}, **more}
    return json.dumps(message).encode() + b"\n"
