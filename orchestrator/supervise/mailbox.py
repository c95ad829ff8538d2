"""What was said to one agent and waits for it, as its runtime and its run see it.

Invariants: who asks sees what is committed, in order; a message waits until whoever told it says that it was
heard, which is journaled, so that a crash in between tells it again rather than never. Made by `run`.
"""

from __future__ import annotations

from orchestrator.agents.steering import message_prompt
from orchestrator.core import events as e
from orchestrator.core.words import Message
from orchestrator.supervise.gear import Run


class Mailbox:
    """See `agents.base.Inbox`."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def pending(self) -> tuple[Message, ...]:
        """Return what the agent was not told yet, oldest first."""
        agent = self._run.tools.store.state.agents.get(self._run.agent.id)
        return agent.waiting if agent is not None else ()

    async def wait(self) -> None:
        """Wait until something is there to be told; at once where it is."""
        store = self._run.tools.store
        while not self.pending():
            await store.wait_past(store.state.seq)

    async def heard(self, message: Message) -> None:
        """Journal that the agent was told all up to this message; for what was heard before, nothing."""
        if any(waiting.number == message.number for waiting in self.pending()):
            await self._run.record(e.AgentMessage(**self._run.ids, number=message.number, delivered=True))

    def prompt(self) -> tuple[str, Message] | None:
        """Return what waits as one prompt, and the last message in it; None where nothing waits."""
        waiting = self.pending()
        return (message_prompt(waiting), waiting[-1]) if waiting else None
