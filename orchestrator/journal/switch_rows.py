"""The operator's switches as rows of `queue_settings`, and back again. Called by `group` and `archive`."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime

from orchestrator.core.model import Control
from orchestrator.journal.encoding import dump, iso_cached

_SETTINGS = {
    "paused": "paused",
    "frozen": "frozen",
    "draining": "draining",
    "stop_on_failure": "stop_on_failure",
    "max_concurrent": "queue_concurrency",
    "configured_concurrency": "configured",
    "cleared_at": "cleared",
    "max_agents": "max_agents",
    "max_queued": "max_queued",
    "short": "short",
}


def control_rows(control: Control) -> list[list[str]]:
    """Return the switches as rows of `queue_settings`."""
    return [[key, dump(_plain(getattr(control, name)))] for key, name in _SETTINGS.items()]


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return iso_cached(value)
    return sorted(value) if isinstance(value, frozenset) else value


def read_control(rows: dict[str, str]) -> Control:
    """Return the switches that the rows hold; a missing one is at its default."""
    known = {name: json.loads(rows[key]) for key, name in _SETTINGS.items() if key in rows}
    if "short" in known:
        known["short"] = frozenset(known["short"])
    if known.get("cleared"):
        known["cleared"] = datetime.fromisoformat(known["cleared"])
    return replace(Control(), **known)
