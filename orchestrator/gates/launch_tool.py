"""Become a tool that is written in Python, or else whatever program it is: it runs inside a sandbox.

The invariant: a tool of Python's starts as `launch_site` says. `gates.python_checks` hands its text to
`python3 -I -S -c`.
"""

from __future__ import annotations

import os
import runpy
import shutil
import sys
from pathlib import Path

from orchestrator.gates.launch_site import open_site


def main(words: list[str]) -> None:
    """Become the tool: its program on `PATH`, or the module of this Python."""
    tool, *rest = words
    program = shutil.which(tool)
    interpreter = interpreter_of(program) if program else ""
    if program and not interpreter:
        os.execv(program, [program, *rest])  # noqa: S606
    text = getattr(sys, "orig_argv", [])[4:5]
    if text and interpreter.startswith("/") and Path(interpreter).parent != Path(sys.executable).parent:
        os.execv(interpreter, [interpreter, "-I", "-S", "-c", *text, *words])  # noqa: S606
    open_site()
    sys.argv = [program or tool, *rest]
    if program:
        runpy.run_path(program, run_name="__main__")
    else:
        runpy.run_module(tool, run_name="__main__", alter_sys=True)


def interpreter_of(program: str) -> str:
    """Return the Python that a script asks for, as a path or a name; empty for any other program."""
    with open(program, "rb") as file:  # noqa: PTH123
        first = file.readline(4096)
    words = first[2:].decode(errors="replace").split() if first.startswith(b"#!") else []
    return words[-1] if words and Path(words[-1]).name.startswith("python") else ""


if __name__ == "__main__":
    main(sys.argv[1:])
