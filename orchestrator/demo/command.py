"""The command demo: sets the stage, lets the play run, shows what landed, and proves that nothing is left.

The invariant: however it ends (well, by a failing step, by SIGINT or SIGTERM), the stage is cleared before
the command returns. Signals cancel the play and nothing after it, so that the clearing is never cut.
Callers: `orchestrator.__main__`, by its table.
"""

from __future__ import annotations

import signal
import sys
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import click
import trio

from orchestrator.cli.failure import SIGNALLED, Failed
from orchestrator.cli.interruption import Interruption
from orchestrator.cli.output import Output
from orchestrator.cli.timeline import plural
from orchestrator.demo import traces
from orchestrator.demo.landed import Landed, read_landed, show_landed
from orchestrator.demo.play import Play
from orchestrator.demo.project import CAST
from orchestrator.demo.stage import Stage, find_sandbox, make_remote, open_stage, start_supervisor
from orchestrator.errors import OrchestratorError
from sandbox.base import SandboxError

#: From the first process to the last event; a few seconds are usual.
PLAY_S = 150.0


@click.command()
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document about the whole demo at its end."
)
def demo(*, as_json: bool) -> int:
    """Watch three agents work on a repository made for them: one lands, one is corrected, one is killed.

    Needs no key and no network, and leaves nothing behind.
    """
    return trio.run(partial(_run, Output(as_json=as_json)))


@dataclass(slots=True)
class _Report:
    """What came of the demo."""

    began: float
    failure: str = ""
    signal: int = 0
    play: Play | None = None
    landed: list[Landed] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    elapsed_s: float = 0.0

    def blame(self, what: str) -> None:
        """Keep the first failure: those after it mostly follow from it."""
        self.failure = self.failure or what


async def _run(output: Output) -> int:
    report = _Report(trio.current_time())
    scope = trio.CancelScope(deadline=report.began + PLAY_S)
    interruption = Interruption(scope)
    with interruption.listening():
        async with AsyncExitStack() as stack:
            stage = open_stage(stack)
            try:
                with scope:
                    await _perform(output, stage, stack, report)
            except (Failed, OrchestratorError, SandboxError) as error:
                report.blame(str(error))
            report.signal = interruption.number
            if scope.cancelled_caught and not report.signal:
                report.blame(f"the agents were not done after {PLAY_S:.0f} s")
            report.log = stage.log_tail()
            if not output.as_json:
                output.line("")
        _clear(stage, report)
    return _conclude(output, stage, report)


async def _perform(output: Output, stage: Stage, stack: AsyncExitStack, report: _Report) -> None:
    """Set the stage, let the play run, and look at what landed."""
    await find_sandbox(stage)
    await make_remote(stage)
    await start_supervisor(stage, stack)
    if not output.as_json:
        _introduce(output, stage)
    report.play = Play(stage, output)
    await report.play.run()
    report.landed, troubles = await read_landed(stage)
    report.blame("; ".join([*report.play.check(), *troubles]))
    if not output.as_json and not report.failure:
        output.line("")
        show_landed(output, stage, report.landed)


def _introduce(output: Output, stage: Stage) -> None:
    output.line(("Three agents, one repository; no key, no network.", "bold"))
    output.line("")
    if stage.unsandboxed:
        output.line((f"NO SANDBOX WORKS HERE: {stage.unsandboxed}", "bold red"))
        output.line(
            ("The agents run as plain processes, which only these three may: they are the demo's own.", "red")
        )
        output.line(
            ("For a sandbox: apt install bubblewrap; then `orchestrator doctor` says what is left.", "red")
        )
        output.line("")
    output.fields(
        [
            ("supervisor", f"{stage.url}, ready after {stage.ready_s:.1f} s"),
            ("sandbox", f"{stage.sandbox}, agents run as {stage.user}"),
            ("repository", f"{stage.remote}, main at {stage.base[:10]}"),
        ]
    )
    for role in CAST:
        output.line((f"{role.name:<10}  ", role.colour), role.about)
    output.line("")


def _clear(stage: Stage, report: _Report) -> None:
    """Look for what should be gone now that the stage has been cleared."""
    report.left = traces.leftovers(stage.root, (stage.mark, stage.token), stage.url)
    proof = stage.supervisor.proof if stage.supervisor else None
    if proof is not None and proof.remaining:
        report.left.append(plural(proof.remaining, "process") + " of the supervisor's tree")
    if report.left:
        report.blame("something is left: " + ", ".join(report.left))
    if stage.supervisor is not None and (stage.ended is None or not stage.ended.ok):
        report.blame(f"the supervisor did not stop by itself: {stage.ended or 'it was killed'}")
    report.elapsed_s = trio.current_time() - report.began


def _conclude(output: Output, stage: Stage, report: _Report) -> int:
    """Print how it ended and return the exit status."""
    if output.as_json:
        output.json(_document(stage, report))
    if report.signal:
        if not output.as_json:
            output.line(f"interrupted by {signal.Signals(report.signal).name}; {_gone(report)}")
        return SIGNALLED + report.signal
    if report.failure:
        if report.log and not output.as_json:
            Output(as_json=False, stream=sys.stderr).lines("the end of the supervisor's log:", report.log)
        raise Failed(f"the demo failed: {report.failure}", code="demo_failed")
    if not output.as_json:
        output.line((f"Gone: {_gone(report)}.", "green"), f" {report.elapsed_s:.1f} s in all.")
    return 0


def _gone(report: _Report) -> str:
    if report.left:
        return "left behind: " + ", ".join(report.left)
    return "0 processes, 0 mounts, no socket and no directory of it is left"


def _document(stage: Stage, report: _Report) -> dict[str, Any]:
    play = report.play
    return {
        "ok": not report.failure and not report.signal,
        "failure": report.failure or None,
        "sandbox": stage.sandbox or None,
        "agents": [
            {
                "name": seen.role.name,
                "agentId": seen.agent_id,
                "taskId": seen.role.task_id,
                "end": seen.end,
                "events": len(seen.events),
                "rejections": seen.count("gate.rejected"),
            }
            for seen in (play.cast.values() if play else ())
        ],
        "log": report.log if report.failure else [],
        "kill": play.proof if play else None,
        "landed": [asdict(landed) for landed in report.landed],
        "left": report.left,
        "elapsedMs": round(report.elapsed_s * 1000, 1),
    }
