"""What waits to be told to an agent, how far it was seen to, and what of its work is agents', in its row.

Keeps J4 together with `rows`; most agents have nothing of it, and their rows none of these fields.
"""

from __future__ import annotations

from typing import Any

from orchestrator.core.model import Agent
from orchestrator.core.words import Concern, Message, Step


def words(agent: Agent) -> dict[str, Any]:
    """Return the fields of the row that speak of it, without those that say nothing."""
    told = {
        "said": agent.said or None,
        "waiting": [[message.number, message.text, message.sender] for message in agent.waiting],
        "step": agent.step and str(agent.step),
        "concern": agent.concern and str(agent.concern),
        "aiShare": agent.ai_share,
    }
    return {name: value for name, value in told.items() if value or value == 0.0}


def read_words(row: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of the agent that these fields of its row are of."""
    step, concern = row.get("step"), row.get("concern")
    return {
        "said": row.get("said", 0),
        "waiting": tuple(
            Message(number=number, text=text, sender=sender)
            for number, text, sender in row.get("waiting", ())
        ),
        "step": step and Step(step),
        "concern": concern and Concern(concern),
        "ai_share": row.get("aiShare"),
    }
