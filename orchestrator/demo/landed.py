"""What the demo's remote holds in the end: the branches, their commits, and their diffs in short.

Read with git from the bare repository itself, not from the supervisor. Called by
`orchestrator.demo.command`.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.cli.output import Output
from orchestrator.cli.printable import one_line
from orchestrator.demo.project import ADA, BEN
from orchestrator.demo.stage import Stage

MAX_DIFF_LINES = 14
_FORMAT = "%H%x00%an <%ae>%x00%s%x00%(trailers:unfold,only)"


@dataclass(frozen=True, slots=True)
class Landed:
    """One branch that agents' work landed on."""

    branch: str
    commit: str
    author: str
    subject: str
    trailers: tuple[str, ...]
    #: Commits between the base and its tip.
    commits: int
    diff: tuple[str, ...]


async def read_landed(stage: Stage) -> tuple[list[Landed], list[str]]:
    """Return the branches beside main, and what is not as the demo promises."""
    listed = await _read(stage, "for-each-ref", "--format=%(refname:lstrip=2) %(objectname)")
    branches = dict(line.split(" ", 1) for line in listed.splitlines())
    troubles = []
    if branches.pop("main", None) != stage.base:
        troubles.append("main has moved on the remote")
    wanted = {f"agent/{role.task_id}" for role in (ADA, BEN)}
    if set(branches) != wanted:
        troubles.append(f"the remote has {sorted(branches)} beside main, not {sorted(wanted)}")
    landed = [await _read_branch(stage, branch) for branch in sorted(branches)]
    troubles += [
        f"{found.branch} has {found.commits} commits, not 1" for found in landed if found.commits != 1
    ]
    return landed, troubles


async def _read(stage: Stage, *arguments: str) -> str:
    return (await stage.git.run(*arguments)).decode(errors="replace")


async def _read_branch(stage: Stage, branch: str) -> Landed:
    ref, base = f"refs/heads/{branch}", stage.base
    shown = await _read(stage, "log", "-1", f"--format={_FORMAT}", ref, "--")
    commit, author, subject, trailers = shown.strip("\n").split("\0")
    count = await _read(stage, "rev-list", "--count", f"{base}..{ref}", "--")
    diff = await _read(stage, "diff-tree", "-p", "--unified=0", base, ref, "--")
    changed = [line for line in diff.splitlines() if line[:1] in {"+", "-"} and not line.startswith("--- ")]
    return Landed(branch, commit, author, subject, tuple(trailers.splitlines()), int(count), tuple(changed))


def show_landed(output: Output, stage: Stage, landed: list[Landed]) -> None:
    """Print what landed, for a person."""
    output.line(("On the remote", "bold"))
    output.line(f"  main             {stage.base[:10]}  as it was")
    for found in landed:
        output.line(
            ("  " + f"{found.branch:<16} ", "green"), f"{found.commit[:10]}  {one_line(found.subject)}"
        )
        output.line((f"{'':19}by {one_line(found.author)}", "dim"))
        for trailer in found.trailers:
            output.line((f"{'':19}{one_line(trailer)}", "dim"))
        for line in found.diff[:MAX_DIFF_LINES]:
            style = "bold" if line.startswith("+++ ") else "green" if line.startswith("+") else "red"
            output.line((f"{'':19}{line}", style))
        if (more := len(found.diff) - MAX_DIFF_LINES) > 0:
            output.line((f"{'':19}… {more} more lines", "dim"))
    output.line(("  nothing of cyd, who was killed", "yellow"))
