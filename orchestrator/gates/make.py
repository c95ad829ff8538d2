"""How a repository is checked by make: by the target that bears the gate's name, or one of its usual names.

The invariant: the makefiles, with what they include by name and the scripts that they call, are the base's.
Caller: `gates.local`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from orchestrator.gates.definition import (
    KIND_OF,
    MAX_FILES,
    MIN_COVERAGE,
    Base,
    Definition,
    Kind,
    ReadBase,
    plain_path,
    read_all,
    scripts_named,
    shadows,
)
from orchestrator.gates.settings import led_by_base
from orchestrator.gates.tally import TOTALS

_MAKEFILES = ("GNUmakefile", "makefile", "Makefile")  # in make's own order
_INCLUDE = re.compile(r"^[ \t]*[-s]?include[ \t]+([^#\n]{1,2000})", re.MULTILINE)
#: How a recipe asks make for another target.
_MAKES = re.compile(r"\$[({]MAKE[)}]|\bmake\b")
#: Bounds on what is followed: targets, and those that one rule makes.
_MAX_TARGETS, _MAX_HEADS = 200, 50
_TARGETS = {
    "typecheck": ("typecheck", "types", "type-check"),
    "lint": ("lint",),
    "tests": ("test",),
    "coverage": ("coverage", "cover"),
    "build": ("build",),
    "integration": ("integration", "integration-test", "integration-tests", "test-integration"),
}


async def find_make(base: Base, gate: str) -> Definition | None:
    """Return `make TARGET` where the base's makefile has a target for the gate."""
    main = next((name for name in _MAKEFILES if name in base.names), None)
    content = await base.read(main) if main and gate in _TARGETS else None
    if main is None or content is None:
        return None
    whole = content.decode(errors="replace")
    target = next((name for name in _TARGETS[gate] if _has(whole, name)), None)
    if target is None:
        return None
    files = await _included({main: content}, base.read)
    text = "\n".join(part.decode(errors="replace") for part in files.values())
    files |= await read_all(base.read, (path for path in scripts_named(text) if path not in files))
    kind = KIND_OF.get(gate, Kind.CHECK)
    fresh = [name for name in targets_of(text, target) if await base.read(name) is None]
    definition = await led_by_base(
        base,
        shown=("make", target),
        command=("make", target),
        files=files,
        remove=_MAKEFILES,
        forbidden=(*shadows(text, base.names), *(name for name in fresh if name not in base.names)),
        kind=kind,
    )
    if kind is not Kind.COVERAGE:
        return definition
    settled = definition.settled and replace(definition.settled, minimum=MIN_COVERAGE, percent=TOTALS)
    return replace(definition, minimum=MIN_COVERAGE, percent=TOTALS, settled=settled)


def targets_of(text: str, target: str) -> tuple[str, ...]:
    """Return what make would take for done, were there a file of that name: the target and what it needs.

    Of a makefile's text; what it declares phony is made whatever there is.
    """
    needs: dict[str, list[list[str]]] = {}
    current: list[str] = []
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith("\t"):
            if _MAKES.search(line):
                words = line.split()
                for name in current:
                    needs[name].append(words)
            continue
        head, colon, tail = line.partition(":")
        rule = colon and "=" not in head and not tail.startswith((":=", "="))
        current = head.split()[:_MAX_HEADS] if rule else []
        words = tail.lstrip(":").partition("#")[0].split()
        for name in current:
            needs.setdefault(name, []).append(words)
    found, pending = dict.fromkeys([target]), [target]
    while pending and len(found) < _MAX_TARGETS:
        named = (name for words in needs.get(pending.pop(), ()) for name in words)
        fresh = dict.fromkeys(name for name in named if name in needs and name not in found)
        found |= fresh
        pending += fresh
    phony = {name for words in needs.get(".PHONY", ()) for name in words}
    whole = tuple(found)[:_MAX_TARGETS]
    return tuple(name for name in whole if name not in phony and plain_path(name) == name)


def _has(text: str, target: str) -> bool:
    pattern = (
        rf"^(?:[\w.%/-]{{1,99}}[ \t]+){{0,20}}{target}(?:[ \t]+[\w.%/-]{{1,99}}){{0,20}}[ \t]*::?(?![:=])"
    )
    return re.search(pattern, text, re.MULTILINE) is not None


async def _included(files: Mapping[str, bytes], read_base: ReadBase) -> dict[str, bytes]:
    """Return the makefiles with all that they include by name; a name that make computes is not followed."""
    found, pending = dict(files), list(files.values())
    while pending and len(found) < MAX_FILES:
        text = pending.pop().decode(errors="replace")
        words = (word for line in _INCLUDE.findall(text) for word in line.split() if "$" not in word)
        paths = [path for word in words if (path := plain_path(word)) and path not in found]
        fresh = await read_all(read_base, paths[:MAX_FILES])
        found |= fresh
        pending += fresh.values()
    return found
