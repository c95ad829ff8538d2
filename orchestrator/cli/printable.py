"""Text that others wrote, in the forms in which the command line prints it: one line, or JSON.

The invariant: neither holds a character that a terminal would obey (`core.text.escaped`). Whatever an agent,
a repository or a remote had a hand in goes through one of the three before it is printed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.core.text import escaped


def one_line(text: str, width: int = 160) -> str:
    """Return the text on one line, its white space folded, cut to a width with an ellipsis."""
    folded = escaped(" ".join(text.split()))
    return folded if len(folded) <= width else folded[: width - 1] + "…"


def to_json(value: Mapping[str, Any] | Sequence[Any]) -> str:
    """Return one line of JSON in plain ASCII, so that it is safe on a terminal too."""
    # DEL is the one control character that JSON leaves as it is; it can stand only inside a string.
    return json.dumps(value, ensure_ascii=True).replace("\x7f", "\\u007f")
