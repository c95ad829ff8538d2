"""The repository's set-up, carried out once for all of its agents: in a sandbox of one who needs it.

The invariant: whoever works on a base stands on the layer that its set-up made, or does not begin; the
command runs with what the operator lets out (a task narrows only its own), within time, memory and disk, and
belongs to the agent that runs it: what kills or freezes that one does the same to it, and the next who waits
begins it anew. Called by `run` and `resumption`, and where the work is brought onto another base by
`delivery` and `giving_back`; by `coordinator.bench` for those whom it judges.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial

from orchestrator.agents.egress import Subject
from orchestrator.agents.lines import TurnLog
from orchestrator.agents.outlet import Outlet, open_outlet
from orchestrator.core import events as e
from orchestrator.core.egress import Rules
from orchestrator.core.model import Phase, Reason
from orchestrator.core.setup import Recipe, SetupCutOff, SetupFailed, environment, making_environment
from orchestrator.core.text import tail_of
from orchestrator.repo.preparations import Preparations
from orchestrator.repo.setups import SetupLayer
from orchestrator.repo.worktree import Base, Worktree
from orchestrator.supervise.ending import RunFailed
from orchestrator.supervise.gear import Run
from orchestrator.supervise.tree import Tree
from sandbox.base import MIB, Backend, Bind, Directory, Exit, Layers, Limits, Sandbox, Spec
from sandbox.relay import Tail, relay, seen_workspace
from sandbox.wrapped import Wrapped

#: Characters of the output that the error of a failed set-up holds; all of it is in the agent's log.
MAX_TAIL = 4096
#: What a set-up may leave where nobody bounds the disk.
_MOST_MB = 100_000
#: Writes a line into the log.
Say = Callable[[str], Awaitable[None]]
_BEGIN = ("/bin/sh", "-c", 'mkdir -p "$HOME" && exec "$@"', "set-up")


@dataclass(frozen=True, slots=True)
class Maker:
    """By what a set-up is carried out, and who it belongs to."""

    preparations: Preparations
    tree: Tree
    subject: Subject
    egress: Rules
    limits: Limits
    #: How long it may take where the repository does not say.
    timeout_s: float
    #: Called before one is made, or waited for.
    announce: Callable[[], Awaitable[None]]


async def prepare(run: Run, base: Base, keep: AsyncExitStack) -> SetupLayer | None:
    """Return the layer of the base's set-up, which `keep` holds from then on; None where it has none.

    Raises `RunFailed` with the end of the set-up's output.
    """
    tools, tree = run.tools, run.tree
    subject = Subject(run.agent.task_id, run.agent.id, run.record, run.output, tree.clock)
    maker = Maker(
        tools.repositories.preparations,
        tree,
        subject,
        tools.egress,
        tools.default_limits,
        tools.setup_timeout_s,
        partial(_announce, run),
    )
    try:
        return await make(maker, base, keep)
    except SetupFailed as failure:
        raise RunFailed(Reason.REPOSITORY_ERROR, failure.detail, retryable=failure.retryable) from failure


async def make(maker: Maker, base: Base, keep: AsyncExitStack) -> SetupLayer | None:
    """Do what `prepare` does for whoever needs it; raises `SetupFailed`."""
    preparations = maker.preparations
    asked = await preparations.find(base, detect=bool(maker.egress.entries))
    if asked is None:
        return None
    recipe = asked.recipe

    async def making() -> None:
        await maker.announce()
        how = "found by its lock files" if recipe.detected else "orchestrator.toml"
        await say(f"{recipe.shown} ({how}); of those who need it, one runs it")

    async def say(text: str) -> None:
        await maker.subject.output("system", f"set-up: {text}")

    opened = preparations.open(
        base,
        asked,
        backend=maker.tree,
        carry_out=partial(_carry_out, maker, recipe, say),
        disk_mb=maker.limits.disk_mb or _MOST_MB,
        making=making,
    )
    layer = await keep.enter_async_context(opened)
    await say(f"ready ({layer.bytes / MIB:.0f} MB)")
    return layer


async def prepare_onto(
    run: Run, worktree: Worktree, onto: str, keep: AsyncExitStack
) -> tuple[Run, SetupLayer | None]:
    """Return what the work stands on once it is brought onto another base, and the run by which it is tried.

    Raises `RunFailed` as `prepare` does: then the worktree is as it was.
    """
    layer = await prepare(run, replace(worktree.base, commit=onto), keep)
    if not worktree.fits(layer):
        error = f"the set-up of {onto} makes what was part of the repository when this work began"
        raise RunFailed(Reason.CONFLICT, error, retryable=True)
    return replace(run, outlet=equip(run.backend, layer)), layer


async def _announce(run: Run) -> None:
    await run.tree.wait_thawed()
    # Who has begun nothing yet is preparing; of others the word would say that they are to be started.
    begun = run.tools.store.state.agents[run.agent.id].phase is not Phase.PREPARING
    phase = Phase.CHECKING if begun else Phase.PREPARING
    await run.record(e.AgentPhase(**run.ids, phase=phase, detail="set-up"))


async def _carry_out(
    maker: Maker, recipe: Recipe, say: Say, workspace: Layers | Directory, binds: tuple[Bind, ...]
) -> None:
    """Run the command to its end; raises `SetupFailed` unless that is a good one."""
    limit_s, tree, subject = recipe.timeout_s or maker.timeout_s, maker.tree, maker.subject
    spec = Spec(
        label=subject.agent_id,
        command=(*_BEGIN, *recipe.argv),
        workspace=workspace,
        env=making_environment(seen_workspace(tree, workspace)),
        binds=binds,
        limits=maker.limits,
    )
    tail, ended, cut_off = Tail(4 * MAX_TAIL), None, False
    began = tree.clock.now()
    with tree.clock.move_on_after(limit_s):
        async with open_outlet(tree, maker.egress, subject) as outlet:
            try:
                async with outlet.open(spec) as sandbox:
                    ended = await _listen(say, sandbox, tail)
            finally:
                cut_off = isinstance(outlet, Outlet) and outlet.unanswered > 0
    await tree.wait_unmounted()
    said = tail_of(tail.bytes(), MAX_TAIL)
    if ended is None:
        raise SetupFailed(f"the set-up did not end within {limit_s:g} s: {recipe.shown}\n{said}")
    if not ended.ok:
        kind = SetupCutOff if cut_off else SetupFailed
        raise kind(f"the set-up failed ({ended}): {recipe.shown}\n{said}")
    await say(f"done after {tree.clock.now() - began:.1f} s")


async def _listen(say: Say, sandbox: Sandbox, tail: Tail) -> Exit:
    """Write what the command says into the log, and return how it ended."""

    async def output(stream: str, line: str) -> None:
        del stream
        await say(line)

    log = TurnLog(output)

    async def keep(stream: str, chunk: bytes) -> None:
        tail.add(chunk)
        await log.add(stream, chunk)

    ended = await relay(sandbox, on_stdout=partial(keep, "stdout"), on_stderr=partial(keep, "stderr"))
    await log.finish()
    return ended


class Equipped(Wrapped):
    """A backend on whose sandboxes the programs and caches of a set-up are found; see `agents.outlet`."""

    def __init__(self, inner: Backend, layer: SetupLayer) -> None:
        super().__init__(inner)
        self.bare = inner
        self._layer = layer

    def open(self, spec: Spec) -> AbstractAsyncContextManager[Sandbox]:
        """See `Backend`; the task's own variables win, but for what comes first on `PATH`."""
        where = seen_workspace(self._inner, spec.workspace)
        programs = tuple(f"{where}/{path}" for path in self._layer.programs)
        env = {**environment(where, self._layer.caches), **spec.env}
        return self._inner.open(replace(spec, env=env, first_on_path=programs))


def equip(backend: Backend, layer: SetupLayer | None) -> Backend:
    """Return the backend by which agents and gates find what a set-up made, and no other did before."""
    bare = backend.bare if isinstance(backend, Equipped) else backend
    return bare if layer is None else Equipped(bare, layer)
