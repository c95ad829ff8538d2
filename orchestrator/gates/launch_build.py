"""Build a wheel of a checkout by the backend that the base names: it runs inside a sandbox.

`gates.python_checks` hands its text to `python3 -I -c`, so it stands on the standard library of any Python
3.8. The invariant: the backend comes from the toolchain unless the base itself keeps it in the repository,
and a success is a wheel that holds a module.
"""

from __future__ import annotations

import importlib
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

MISSING = 127


def main() -> int:
    """Do as the first argument says; return the exit status."""
    order = json.loads(sys.argv[1])
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
    target = root / order["ours"] / "dist"
    target.mkdir(parents=True)
    made = target / str(backend.build_wheel(str(target)))
    with zipfile.ZipFile(made) as wheel:
        names = wheel.namelist()
    sys.stdout.write(f"built {made.name} with {len(names)} files\n")
    if not any(name.endswith((".py", ".so", ".pyd")) for name in names):
        sys.stderr.write("orchestrator: the wheel holds no module\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
