"""How agents get at a model: where it is, with which key, and which one where a task names none.

The newest Sonnet is read from the text of the Anthropic SDK, which takes a second to import. Made by
`registry` for the runtimes that ask a model.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from orchestrator.agents.upstream import Upstream
from orchestrator.core.spec import TaskSpec
from orchestrator.errors import AgentError

_NAMES = re.compile(r'"(claude-sonnet-(\d{1,3}(?:-\d{1,3})*))"')


@dataclass(frozen=True, slots=True)
class ModelAccess:
    """Where the models are, and which an agent may ask: those in `models`, names or globs, and its own."""

    upstream: Upstream
    #: Its own, where its task names none.
    model: str | None = None
    models: tuple[str, ...] = ()

    @property
    def has_key(self) -> bool:
        """Whether there is a key to ask with."""
        return self.upstream.key is not None

    def named(self, spec: TaskSpec) -> str | None:
        """Return the model that the task names, or the settings; None where neither does."""
        return spec.options.model or self.model

    def model_of(self, spec: TaskSpec) -> str:
        """Return the agent's own model; raises `AgentError` where none is known."""
        return self.named(spec) or default_model()


@functools.cache
def default_model() -> str:
    """Return the newest Sonnet that the SDK knows; raises `AgentError` where it knows none."""
    found = importlib.util.find_spec("anthropic")
    path = Path(found.origin).parent / "types" / "model.py" if found and found.origin else None
    names = newest_sonnet(path.read_text(encoding="utf-8")) if path is not None and path.is_file() else None
    if names is None:
        raise AgentError("no model is known: name one in options.model or CLAUDE_MODEL")
    return names


def newest_sonnet(text: str) -> str | None:
    """Return the name with the highest version among those in a text."""
    versions = {name: [int(part) for part in number.split("-")] for name, number in _NAMES.findall(text)}
    return max(versions, key=versions.__getitem__, default=None)
