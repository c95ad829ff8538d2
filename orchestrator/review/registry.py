"""The reviewer of this host, made once from what it is set to.

The invariant: without a key there is none, and the gate is not on this host. Called at assembly.
"""

from __future__ import annotations

from functools import partial

from orchestrator.agents.claude.sdk import Sdk
from orchestrator.agents.models import default_model
from orchestrator.agents.reaching import PROVIDER_URL
from orchestrator.agents.upstream import Upstream
from orchestrator.config import Settings
from orchestrator.review.gate import ReviewGate


def make_reviewer(settings: Settings) -> ReviewGate | None:
    """Return the gate `ai-review`, or None where there is nobody who could be asked."""
    if settings.claude_api_key is None:
        return None
    upstream = Upstream(settings.anthropic_base_url or PROVIDER_URL, settings.claude_api_key)
    named = settings.review_model or settings.claude_model
    return ReviewGate(partial(Sdk, upstream), lambda: named or default_model())
