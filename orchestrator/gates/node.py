"""How Node projects are tested: by the script `test` of the base's package.json.

The invariant: the scripts and the settings of the usual runners are the base's, wherever the runners look
for them. Caller: `gates.local`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from orchestrator.gates.definition import (
    Base,
    Definition,
    Unrunnable,
    read_all,
    restoring,
    scripts_named,
    shadows,
)

#: The keys of package.json that say how tests are run.
_SETTINGS = ("scripts", "jest", "mocha", "ava", "tap", "vitest", "c8", "nyc", "jasmine")
#: Files that say the same. What npm's own file says decides which shell runs the scripts.
_SUFFIXES = ("js", "cjs", "mjs", "ts", "cts", "mts", "json")
_CONFIGS = (
    ".npmrc",
    *(f"{name}.config.{suffix}" for name in ("jest", "vitest", "vite", "ava") for suffix in _SUFFIXES),
    "vitest.workspace.ts",
    ".taprc",
    *(f".mocharc.{suffix}" for suffix in ("js", "cjs", "json", "jsonc", "yaml", "yml")),
)
#: What `npm init` writes.
_UNSET = re.compile(r"echo .{0,3}Error: no test specified.{0,3} && exit 1")
_LAUNCHER = Path(__file__).with_name("launch_npm.cjs")


async def find_node(base: Base, gate: str) -> Definition | None:
    """Return how a gate is run on a Node project, or None where the base is none or has nothing to run."""
    present = set(base.names)
    if gate != "tests" or "package.json" not in present:
        return None
    content = await base.read("package.json")
    if content is None:
        return None
    manifest = _parse(content)
    scripts = manifest.get("scripts")
    test = scripts.get("test") if isinstance(scripts, dict) else None
    if not isinstance(scripts, dict) or not isinstance(test, str) or _UNSET.fullmatch(test.strip()):
        return None
    chosen = [(name, scripts[name]) for name in ("pretest", "test", "posttest") if name in scripts]
    order = {"scripts": chosen, "settings": {key: manifest.get(key) for key in _SETTINGS}}
    text = "\n".join(str(script) for script in scripts.values())
    wanted = (*(name for name in _CONFIGS if name in present), *scripts_named(text))
    return restoring(
        shown=("npm", "test"),
        command=("node", "-e", _LAUNCHER.read_text(encoding="utf-8"), json.dumps(order)),
        files=await read_all(base.read, wanted),
        remove=_CONFIGS,
        forbidden=shadows(text, present),
    )


def _parse(content: bytes) -> dict[str, Any]:
    try:
        manifest = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Unrunnable(f"package.json in the base commit cannot be read: {error}") from error
    if not isinstance(manifest, dict):
        raise Unrunnable("package.json in the base commit is no object")
    return manifest
