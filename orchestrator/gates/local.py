"""How a repository says that a gate is run: its own word first, then what it is made of.

The order: `[gates.NAME]` of orchestrator.toml, the gate's target of a Makefile, then Python, Node, Go, Rust,
Java; the first that is found is all that is run. The invariant: only the base commit is asked. Callers:
`gates.mechanical`, and `gates.base` to know before the first turn.
"""

from __future__ import annotations

import tomllib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from orchestrator.gates.definition import (
    KIND_OF,
    Base,
    Definition,
    Kind,
    Undefined,
    Unrunnable,
    plain_path,
    read_all,
    scripts_named,
    shadows,
)
from orchestrator.gates.golang import find_go
from orchestrator.gates.java import find_maven
from orchestrator.gates.make import find_make
from orchestrator.gates.node import find_node
from orchestrator.gates.python import find_python
from orchestrator.gates.rust import find_rust
from orchestrator.gates.settings import led_by_base

OWN_WORD = "orchestrator.toml"

#: What may be added to the base, beside the gate's own word, so that it has the gate.
_WAYS = {
    "tests": 'or a Makefile with a target "test" (looked for those, and for tests of known languages)',
    "typecheck": "or configure mypy or pyright",
    "lint": "or configure ruff or flake8",
    "coverage": "or configure coverage beside the tests",
    "build": "or name a build system",
    "integration": "or put tests into tests/integration",
}


async def find(gate: str, base: Base) -> Definition:
    """Return how a gate is run; raises `Undefined` where the base does not say, else `Unrunnable`."""
    for finder in FINDERS:
        definition = await finder(base, gate)
        if definition is not None:
            return definition
    ways = f", {_WAYS[gate]}" if gate in _WAYS else ""
    raise Undefined(
        f"the base commit does not say how the gate {gate!r} is run: add an orchestrator.toml with "
        f'[gates.{gate}] and command = ["…"]{ways}'
    )


# --- orchestrator.toml -----------------------------------------------------------------------------------


async def find_own_word(base: Base, gate: str) -> Definition | None:
    """Return what orchestrator.toml says about a gate, or None where it says nothing."""
    content = await base.read(OWN_WORD) if OWN_WORD in base.names else None
    if content is None or (table := _gate_table(content, gate)) is None:
        return None
    command, timeout_s = _command(table, gate), _timeout_s(table, gate)
    argv = ("/bin/sh", "-c", command) if isinstance(command, str) else tuple(command)
    text = command if isinstance(command, str) else " ".join(command)
    wanted = [*scripts_named(text)]
    if isinstance(command, list) and "/" in command[0] and (program := plain_path(command[0])):
        wanted.append(program)
    definition = await led_by_base(
        base,
        shown=(command,) if isinstance(command, str) else argv,
        command=argv,
        files=await read_all(base.read, wanted),
        forbidden=shadows(text, base.names),
        kind=KIND_OF.get(gate, Kind.CHECK),
        sources=(OWN_WORD, *wanted),
    )
    settled = definition.settled and replace(definition.settled, timeout_s=timeout_s)
    return replace(definition, timeout_s=timeout_s, settled=settled)


def _gate_table(content: bytes, gate: str) -> dict[str, Any] | None:
    try:
        gates = tomllib.loads(content.decode()).get("gates", {})
    except (ValueError, RecursionError) as error:
        raise Unrunnable(f"{OWN_WORD} in the base commit cannot be read: {error}") from error
    table = gates.get(gate) if isinstance(gates, dict) else gates
    if table is None:
        return None
    if not isinstance(table, dict) or table.keys() - {"command", "timeout"}:
        raise Unrunnable(f"{OWN_WORD} in the base commit: [gates.{gate}] takes command and timeout, no more")
    return table


def _command(table: dict[str, Any], gate: str) -> str | list[str]:
    command = table.get("command")
    words = command if isinstance(command, list) else [command]
    texts = [word for word in words if isinstance(word, str) and "\0" not in word]
    if texts and texts[0].strip() and len(texts) == len(words):
        return texts if isinstance(command, list) else texts[0]
    raise Unrunnable(
        f"{OWN_WORD} in the base commit: [gates.{gate}] command must be a text or a list of words"
    )


def _timeout_s(table: dict[str, Any], gate: str) -> float | None:
    timeout = table.get("timeout")
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout <= 7 * 86400:
        raise Unrunnable(f"{OWN_WORD} in the base commit: [gates.{gate}] timeout must be a number of seconds")
    return float(timeout)


#: In the order in which they are asked.
FINDERS: tuple[Callable[[Base, str], Awaitable[Definition | None]], ...] = (
    find_own_word,
    find_make,
    find_python,
    find_node,
    find_go,
    find_rust,
    find_maven,
)
