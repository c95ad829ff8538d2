"""A program of the task's own as an agent: what it is given, and what is said where it is not there.

The prompt lies in a file that the program can read and not write; who it works for stands in its environment.
Callers: the runtimes that run `options.command`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.agents.base import Prompt, Session
from orchestrator.core.spec import TaskSpec
from orchestrator.errors import AgentError, FieldRefused
from sandbox.base import Bind, Exit, Spec
from sandbox.relay import seen_workspace

#: Where the prompt stands inside a namespaced sandbox.
PROMPT_TARGET = "/orchestrator/prompt.md"

#: Replaces the prompt in the file: a program that lives on finds the present one there.
Rewrite = Callable[[str], None]


def check_program(runtime: str, spec: TaskSpec) -> None:
    """Raise `FieldRefused` where the task names no program."""
    if spec.options.command is None:
        raise FieldRefused(
            "options.command",
            f'the runtime "{runtime}" needs the program to run and its arguments, e.g. ["./agent.sh"]',
        )


def program_spec(runtime: str, session: Session, prompt: Prompt, path: Path) -> Spec:
    """Return how the program is run, with its prompt at `path`."""
    command = session.spec.options.command
    if command is None:
        raise AgentError(f'the runtime "{runtime}" was given no options.command')
    return Spec(
        label=session.agent_id,
        command=command,
        workspace=session.workspace,
        env=_environment(session, prompt, session.backend.seen(path, PROMPT_TARGET)),
        binds=(*session.binds, Bind(path, PROMPT_TARGET)),
        limits=session.limits,
    )


def _environment(session: Session, prompt: Prompt, prompt_file: str) -> dict[str, str]:
    ours = {
        "AGENT_ID": session.agent_id,
        "TASK_ID": session.task_id,
        "ATTEMPT": str(session.attempt),
        "ROLE": session.spec.agent_type.value,
        "TURN": str(prompt.number),
        "BRANCH": session.branch,
        "BASE_COMMIT": session.base,
        "WORKSPACE": seen_workspace(session.backend, session.workspace),
        "PROMPT_FILE": prompt_file,
    }
    if session.result_file is not None:
        ours["RESULT_FILE"] = session.result_file
    if session.resumed:
        ours["RESUMED"] = "1"
    if prompt.message:
        ours["MESSAGE"] = str(prompt.message)
    return {**session.spec.options.env, **{f"ORCHESTRATOR_{name}": text for name, text in ours.items()}}


def missing_program(session: Session) -> AgentError:
    """Return the error that says where the program was sought."""
    options = session.spec.options
    program = options.command[0] if options.command else ""
    path = options.env.get("PATH")
    where = f"PATH is {path} (options.env)" if path else "PATH is what SANDBOX_PATH says"
    return AgentError(
        f"there is no program {program!r} in the sandbox: {where}; "
        "install it under /usr, name its directory in SANDBOX_READ_ONLY and SANDBOX_PATH, or commit it"
    )


@contextmanager
def open_prompt_file(session: Session, prompt: Prompt) -> Iterator[tuple[Path, Rewrite]]:
    """Write the prompt where the sandbox's user alone can read it, for as long as the block lasts.

    Who is cut off in it leaves the file to who tidies up (`prompt_files`): on a busy disk its name took up to
    0.65 s to go, for which the answer to a kill would wait, and all else.
    """
    path = session.scratch / f"{session.agent_id}.prompt-{prompt.number}.md"
    path.unlink(missing_ok=True)  # of an earlier life that was killed in this turn
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o400)
    with os.fdopen(fd, "wb", buffering=0) as file:
        if os.geteuid() == 0:  # its name is no secret: the agent's id stands in the process list
            os.fchown(fd, session.backend.user.uid, session.backend.user.gid)

        def rewrite(text: str) -> None:
            file.seek(0)
            file.truncate()
            file.write(text.encode())

        rewrite(prompt.text)
        yield path, rewrite
    path.unlink(missing_ok=True)


def prompt_files(scratch: Path, agent_id: str) -> list[Path]:
    """Return the prompts of an agent that lie about, each to be removed once nothing of it runs."""
    return sorted(scratch.glob(f"{agent_id}.prompt-*.md"))


def stop_reason(ended: Exit) -> str:
    """Return the word for how a program ended."""
    if ended.oom_killed:
        return "oom"
    return "signal" if ended.signal is not None else "exit"
