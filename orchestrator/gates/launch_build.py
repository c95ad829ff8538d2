"""Build a wheel of a checkout by the backend that the base names: it runs inside a sandbox.

`gates.python_checks` hands its text to `python3 -I -S -c`, so it stands on the standard library of any Python
3.8. The invariant: the backend comes from the toolchain unless the base itself keeps it in the repository,
and a success is a wheel that holds a module, seen after the end of the process that built it: a setup.py that
exits builds none.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

from orchestrator.gates.launch_site import open_site

MISSING = 127


def main() -> int:
    """Do as the first argument says; return the exit status."""
    order = json.loads(sys.argv[1])
    left = open_site()
    target = Path.cwd() / order["ours"] / "dist"
    target.mkdir(parents=True)
    child = os.fork()
    if child == 0:
        sys.path += left
        sys.exit(build(order, target))
    ended = os.waitpid(child, 0)[1]
    if not os.WIFEXITED(ended) or os.WEXITSTATUS(ended) != 0:
        return os.WEXITSTATUS(ended) if os.WIFEXITED(ended) else 1
    made = next(target.glob("*.whl"), None)
    if made is None:
        sys.stderr.write("orchestrator: the build ended without a wheel\n")
        return 1
    with zipfile.ZipFile(made) as wheel:
        names = wheel.namelist()
    sys.stdout.write(f"built {made.name} with {len(names)} files\n")
    if not any(name.endswith((".py", ".so", ".pyd")) for name in names):
        sys.stderr.write("orchestrator: the wheel holds no module\n")
        return 1
    return 0


def build(order: dict[str, Any], target: Path) -> int:
    """Build the wheel; return the exit status."""
    root = Path.cwd()
    name, _, attribute = order["backend"].partition(":")
    sys.path[:0] = [str(root / path) for path in order["path"]]
    try:
        backend: Any = importlib.import_module(name)
    except ModuleNotFoundError as error:
        sys.stderr.write(f"orchestrator: {(error.name or name).partition('.')[0]} is not installed here\n")
        return MISSING
    for part in filter(None, attribute.split(".")):
        backend = getattr(backend, part)
    backend.build_wheel(str(target))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
