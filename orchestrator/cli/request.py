"""Make the request body of `spawn` out of a JSON file, flags, or both; a flag wins over the file.

The invariant: nothing is dropped, and the supervisor alone judges the values, so that the two cannot
disagree. Called by `orchestrator.cli.spawn`.
"""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

#: The supervisor takes no more.
MAX_BODY_BYTES = 1 << 20

#: Where the value of a flag goes in the body.
PLACES: dict[str, tuple[str, ...]] = {
    "task": ("taskId",),
    "repository": ("context", "repository"),
    "branch": ("context", "branch"),
    "instructions": ("context", "instructions"),
    "work_item": ("context", "workItems"),
    "skill": ("context", "skills"),
    "priority": ("priority",),
    "role": ("agentType",),
    "gate_profile": ("gateProfile",),
    "gate": ("gates",),
    "runtime": ("options", "runtime"),
    "model": ("options", "model"),
    "env": ("options", "env"),
    "timeout": ("options", "timeout"),
    "max_retries": ("options", "maxRetries"),
    "landing_branch": ("options", "landing", "branch"),
    "command": ("options", "command"),
}


def build(file: str | None, flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body; raises click's usage errors where it cannot be made."""
    body = _read(file) if file else {}
    for name, value in flags.items():
        if value is not None and value != ():
            _put(body, PLACES[name], _value(name, value))
    if not isinstance(body.get("context"), dict) or "repository" not in body["context"]:
        raise click.UsageError("say which repository: --repository URL, or -f FILE with context.repository")
    body.setdefault("taskId", f"task-{secrets.token_hex(4)}")
    if flags.get("gate") and not flags.get("gate_profile"):
        body["gateProfile"] = "custom"
    if flags.get("command") and not flags.get("runtime"):
        body["options"].setdefault("runtime", "command")
    return body


def _value(name: str, value: Any) -> Any:  # noqa: ANN401 - what click parsed
    match name:
        case "env":
            return dict(_pair(entry) for entry in value)
        case "repository":
            return (
                Path(value).resolve().as_uri()
                if value.startswith(("/", "./", "../")) or value == "."
                else value
            )
        case "instructions" if value.startswith("@"):
            return _text(value[1:], "--instructions")
    return list(value) if isinstance(value, tuple) else value


def _pair(entry: str) -> tuple[str, str]:
    key, equals, value = entry.partition("=")
    if not equals or not key:
        raise click.BadParameter(f"{entry!r} is not of the form NAME=VALUE", param_hint="--env")
    return key, value


def _put(body: dict[str, Any], place: tuple[str, ...], value: object) -> None:
    for key in place[:-1]:
        inner = body.setdefault(key, {})
        if not isinstance(inner, dict):
            raise click.UsageError(f"{key} is no object in the file")
        body = inner
    body[place[-1]] = value


def _read(file: str) -> dict[str, Any]:
    text = _text(file, "-f")
    try:
        body = json.loads(text, object_pairs_hook=_unique)
    except ValueError as error:
        raise click.BadParameter(f"{file} is no JSON: {error}", param_hint="-f") from None
    if not isinstance(body, dict):
        raise click.BadParameter(f"{file} holds no JSON object", param_hint="-f")
    return body


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Read and written again, the first of two equal keys would be gone; the supervisor refuses them.
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"the key {key!r} stands twice")
    return dict(pairs)


def _text(file: str, option: str) -> str:
    try:
        content = sys.stdin.buffer.read(MAX_BODY_BYTES + 1) if file == "-" else _head(Path(file))
        if len(content) > MAX_BODY_BYTES:
            raise click.BadParameter(f"{file} is longer than {MAX_BODY_BYTES} bytes", param_hint=option)
        return content.decode()
    except OSError as error:
        raise click.BadParameter(f"{file} cannot be read: {error.strerror}", param_hint=option) from None
    except UnicodeDecodeError:
        raise click.BadParameter(f"{file} is not UTF-8", param_hint=option) from None


def _head(path: Path) -> bytes:
    with path.open("rb") as opened:
        return opened.read(MAX_BODY_BYTES + 1)
