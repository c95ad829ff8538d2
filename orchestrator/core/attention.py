"""What is said to an agent and done to get it going again: the events, and what they make of it.

Invariants: messages are numbered without gaps and told in order; the steps against one concern never go back
before it is over. The events are imported from `events`; the folds are registered by `fold`.
"""

from __future__ import annotations

from orchestrator.core.event import AgentEvent
from orchestrator.core.model import Agent, changed
from orchestrator.core.words import Concern, Message, Step
from orchestrator.errors import IllegalTransition


class AgentAttention(AgentEvent):
    """The agent needs to be seen to: by a person, or, where a `step` is named, by what was done already.

    `nudge`: it was sent a message; `restart`: its program was begun anew on the same worktree, from its last
    turn; `end`: it is ended as `stalled`. `concern` is why.
    """

    name = "agent.attention"
    message: str
    step: Step | None = None
    concern: Concern | None = None


class AgentMessage(AgentEvent):
    """Somebody said something to the agent, or, where it was `delivered`, it has heard all up to `number`.

    Where that is false, it ends without having heard those up to `number` that were not delivered before.
    Without a sender it is from the supervisor.
    """

    name = "agent.message"
    number: int
    text: str | None = None
    sender: str | None = None
    delivered: bool | None = None


def hear(agent: Agent, event: AgentMessage) -> Agent:
    """Return the agent with a further message waiting, or with those gone that wait no more."""
    if event.delivered is not None:
        if not any(message.number == event.number for message in agent.waiting):
            raise IllegalTransition(f"{event.name}: no message {event.number} waits for agent {agent.id}")
        return changed(agent, waiting=tuple(m for m in agent.waiting if m.number > event.number))
    if event.text is None or event.number != agent.said + 1:
        raise IllegalTransition(f"{event.name}: agent {agent.id} was sent {agent.said} messages before this")
    message = Message(number=event.number, text=event.text, sender=event.sender)
    return changed(agent, said=event.number, waiting=(*agent.waiting, message))


def see_to(agent: Agent, event: AgentAttention) -> Agent:
    """Return the agent as far as it has been seen to; a nudge that was not heard is moot at a restart."""
    if event.step is None:
        return agent
    waiting = agent.waiting
    if event.step is not Step.NUDGE:
        waiting = tuple(message for message in waiting if message.sender is not None)
    return changed(agent, step=event.step, concern=event.concern, waiting=waiting)


def forgive(agent: Agent, *, answered: bool) -> Agent:
    """Return the agent after a turn: what it was seen to for is over, a loop once its prompt was answered."""
    if agent.step is None or (agent.concern is Concern.LOOP and not answered):
        return agent
    return changed(agent, step=None, concern=None)
