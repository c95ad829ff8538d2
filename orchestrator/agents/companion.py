"""A program of ours beside an agent in its sandbox: how it is started, and how it was lost.

It is Python of the standard library alone, and comes as arguments, so that no file of ours has to be shown
inside. The invariant: whatever became of it, finding out ends soon. Callers: `acp.link`, `claude.hands`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import trio

from orchestrator.agents.base import Session
from orchestrator.core.text import tail_of
from orchestrator.errors import AgentError
from sandbox.base import Exit, Sandbox
from sandbox.clock import Clock

#: How long the sandbox of a program that has closed its output may take to end, and a killed one to be gone.
END_S = 5.0
#: Bytes of its last words that are read, and characters that are told.
WORDS_BYTES, WORDS = 65536, 500

BOOT = (
    "import sys, types\n"
    "count = int(sys.argv[1])\n"
    "*parts, main = sys.argv[2 : 2 + count]\n"
    "del sys.argv[1 : 2 + count]\n"
    "for name, text in zip(parts[::2], parts[1::2]):\n"
    "    sys.modules[name] = module = types.ModuleType(name)\n"
    "    exec(text, module.__dict__)\n"
    "exec(main)\n"
)


class CompanionLost(Exception):
    """The program has ended, or was ended; `said` are its last words."""

    #: Who is gone, in the words of its log.
    who = "the program in the sandbox"

    def __init__(self, ended: Exit, said: str = "") -> None:
        super().__init__(f"{self.who} ended with {ended}" + (f": {said}" if said else ""))
        self.ended = ended
        self.said = said


def command_of(package: str, parts: Sequence[Path], *arguments: str) -> tuple[str, ...]:
    """Return the command that runs the last of these files, which may import the others from the package."""
    texts = [part.read_text() for part in parts]
    named = zip((f"{package}.{part.stem}" for part in parts[:-1]), texts[:-1], strict=True)
    program = [*(word for pair in named for word in pair), texts[-1]]
    return ("python3", "-I", "-S", "-c", BOOT, str(len(program)), *program, *arguments)


async def how_lost(sandbox: Sandbox, clock: Clock) -> tuple[Exit, str]:
    """Return how the program ended and its last words; it is ended where it has not, but says nothing."""
    ended: Exit | None = None
    said = b""
    with clock.move_on_after(END_S):
        ended = await sandbox.wait()
    if ended is None:
        sandbox.kill_nowait()
        ended = await sandbox.wait()
    with trio.move_on_after(END_S), contextlib.suppress(trio.ClosedResourceError):
        said = bytes(await sandbox.stderr.receive_some(WORDS_BYTES))
    return ended, tail_of(said, WORDS).strip()


def no_python(session: Session, runtime: str) -> AgentError:
    """Return the error that there is nothing inside by which the program could run."""
    return missing_program(
        session, f"there is no python3 in the sandbox, by which the runtime {runtime} works there"
    )


def missing_program(session: Session, what: str) -> AgentError:
    """Return an error that says what is missing inside, and what to do about it."""
    path = session.spec.options.env.get("PATH")
    where = f"PATH is {path} (options.env)" if path else "PATH is what SANDBOX_PATH says"
    return AgentError(
        f"{what}: {where}; install it under /usr, or name its directory in SANDBOX_READ_ONLY and SANDBOX_PATH"
    )
