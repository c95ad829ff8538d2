"""Names of models: which one an agent gets where neither its task nor the settings name one.

Read from the text of the Anthropic SDK, which takes a second to import. Caller: `claude_code`.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from pathlib import Path

from orchestrator.errors import AgentError

_NAMES = re.compile(r'"(claude-sonnet-(\d{1,3}(?:-\d{1,3})*))"')


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
