"""The command `orchestrator`: which commands there are, and where each is.

The invariant: nothing is imported here that a command does not need; see `orchestrator.cli.program`. Called
by the console script, by `python -m orchestrator` and by `orchestrator.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from orchestrator.cli.program import Entry, run

COMMANDS = {
    "serve": Entry("orchestrator.cli.serve:serve", "Run the supervisor."),
    "spawn": Entry("orchestrator.cli.spawn:spawn", "Hand a task over to a new agent."),
    "status": Entry("orchestrator.cli.agents:status", "Show one agent."),
    "list": Entry("orchestrator.cli.agents:list_agents", "List agents, the newest first."),
    "logs": Entry("orchestrator.cli.streams:logs", "Print what an agent wrote; -f follows."),
    "events": Entry("orchestrator.cli.streams:events", "Print what happened; -f follows."),
    "attach": Entry("orchestrator.cli.attach:attach", "Sit down at an agent's terminal."),
    "kill": Entry("orchestrator.cli.agents:kill", "End agents now, with proof."),
    "kill-all": Entry("orchestrator.cli.agents:kill_all", "End every live agent now, with proof."),
    "freeze": Entry("orchestrator.cli.control:freeze", "Stop every process, and admit nothing."),
    "thaw": Entry("orchestrator.cli.control:thaw", "Let everything go on where it stood."),
    "drain": Entry("orchestrator.cli.control:drain", "Admit nothing, and let live agents end."),
    "retry": Entry("orchestrator.cli.agents:retry", "Start a new agent for a task that has ended."),
    "message": Entry("orchestrator.cli.speech:message", "Say something to a live agent."),
    "transcript": Entry("orchestrator.cli.speech:transcript", "Print an agent's turns, and what was said."),
    "diff": Entry("orchestrator.cli.agents:diff", "Show what an agent changed."),
    "salvage": Entry("orchestrator.cli.salvage:salvage", "Look at work that did not land; get it back."),
    "export": Entry("orchestrator.cli.export:export", "Write an agent's whole record to one archive."),
    "prompt": Entry("orchestrator.cli.prompt:prompt", "Print what an agent of a role is told."),
    "queue": Entry("orchestrator.cli.queue:queue", "Look at the queue, pause it, resume it."),
    "mirror": Entry("orchestrator.cli.mirror:mirror", "Compare the mirror in Valkey; repair it."),
    "doctor": Entry("orchestrator.cli.doctor:doctor", "Say what works here, and what to do about the rest."),
    "gc": Entry("orchestrator.cli.gc:gc", "Remove what nobody needs; --dry-run only tells."),
    "coordinator": Entry("orchestrator.cli.coordinator:coordinator", "Judge candidates, dispatch tasks."),
    "demo": Entry("orchestrator.demo.command:demo", "Watch three agents work, and leave nothing behind."),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    return run(COMMANDS, sys.argv[1:] if arguments is None else arguments)


if __name__ == "__main__":
    sys.exit(main())
