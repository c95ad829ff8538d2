"""What was said to one agent and waits for it, as its runtime and its run see it.

Invariants: who asks sees what is committed, in order; a message waits until whoever told it says that it was
heard, which is journaled, so that a crash in between tells it again rather than never. Made by `run`.
"""

from __future__ import annotations

from contextlib import suppress

import trio

from orchestrator.core import events as e
from orchestrator.core.words import Message
from orchestrator.errors import IllegalTransition
from orchestrator.supervise.gear import Run


class Mailbox:
    """See `agents.base.Inbox`."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def pending(self) -> tuple[Message, ...]:
        """Return what the agent was not told yet, oldest first."""
        self._run.pulse.listens = True  # whoever asks can be nudged
        return waiting_for(self._run)

    async def wait(self, after: int = 0) -> None:
        """Wait until a message past this number is there to be told; at once where it is."""
        store = self._run.tools.store
        await trio.lowlevel.checkpoint()
        while not any(message.number > after for message in self.pending()):
            await store.wait_past(store.state.seq)

    async def heard(self, message: Message) -> None:
        """Journal that the agent was told all up to this message; for what was heard before, nothing."""
        if any(waiting.number == message.number for waiting in waiting_for(self._run)):
            with suppress(IllegalTransition):  # a nudge that a restart makes moot in this moment
                await self._run.record(e.AgentMessage(**self._run.ids, number=message.number, delivered=True))


def waiting_for(run: Run) -> tuple[Message, ...]:
    """Return what the agent was not told yet, oldest first."""
    agent = run.tools.store.state.agents.get(run.agent.id)
    return agent.waiting if agent is not None else ()
