"""The repository's set-up, carried out once for all of its agents: in a sandbox of one who needs it.

The invariant: whoever works on a base stands on the layer that its set-up made, or does not begin; the
command runs with what the operator lets out (a task narrows only its own), within time, memory and disk, and
belongs to the agent that runs it: what kills or freezes that one does the same to it, and the next who waits
begins it anew. Called by `run` and `resumption`, and where the work is brought onto another base by
`delivery` and `giving_back`.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from functools import partial

from orchestrator.agents.egress import Subject
from orchestrator.agents.lines import TurnLog
from orchestrator.agents.outlet import Outlet, open_outlet
from orchestrator.core import events as e
from orchestrator.core.model import Phase, Reason
from orchestrator.core.setup import Recipe, SetupCutOff, SetupFailed, environment, making_environment
from orchestrator.core.text import tail_of
from orchestrator.repo.setups import SetupLayer
from orchestrator.repo.worktree import Base, Worktree
from orchestrator.supervise.ending import RunFailed
from orchestrator.supervise.gear import Run
from sandbox.base import MIB, Backend, Bind, Directory, Exit, Layers, Sandbox, Spec
from sandbox.relay import Tail, relay, seen_workspace
from sandbox.wrapped import Wrapped

#: Characters of the output that the error of a failed set-up holds; all of it is in the agent's log.
MAX_TAIL = 4096
#: What a set-up may leave where nobody bounds the disk.
_MOST_MB = 100_000
_BEGIN = ("/bin/sh", "-c", 'mkdir -p "$HOME" && exec "$@"', "set-up")


async def prepare(run: Run, base: Base, keep: AsyncExitStack) -> SetupLayer | None:
    """Return the layer of the base's set-up, which `keep` holds from then on; None where it has none.

    Raises `RunFailed` with the end of the set-up's output.
    """
    preparations = run.tools.repositories.preparations
    try:
        asked = await preparations.find(base, detect=bool(run.tools.egress.entries))
        if asked is None:
            return None
        opened = preparations.open(
            base,
            asked,
            backend=run.tree,
            carry_out=partial(_carry_out, run, asked.recipe),
            disk_mb=run.tools.default_limits.disk_mb or _MOST_MB,
            making=partial(_announce, run, asked.recipe),
        )
        layer = await keep.enter_async_context(opened)
    except SetupFailed as failure:
        raise RunFailed(Reason.REPOSITORY_ERROR, failure.detail, retryable=failure.retryable) from failure
    await run.output("system", f"set-up: ready ({layer.bytes / MIB:.0f} MB)")
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


async def _announce(run: Run, recipe: Recipe) -> None:
    await run.tree.wait_thawed()
    # Who has begun nothing yet is preparing; of others the word would say that they are to be started.
    begun = run.tools.store.state.agents[run.agent.id].phase is not Phase.PREPARING
    phase = Phase.CHECKING if begun else Phase.PREPARING
    await run.record(e.AgentPhase(**run.ids, phase=phase, detail="set-up"))
    how = "found by its lock files" if recipe.detected else "orchestrator.toml"
    await run.output("system", f"set-up: {recipe.shown} ({how}); of those who need it, one runs it")


async def _carry_out(
    run: Run, recipe: Recipe, workspace: Layers | Directory, binds: tuple[Bind, ...]
) -> None:
    """Run the command to its end; raises `SetupFailed` unless that is a good one."""
    limit_s = recipe.timeout_s or run.tools.setup_timeout_s
    spec = Spec(
        label=run.agent.id,
        command=(*_BEGIN, *recipe.argv),
        workspace=workspace,
        env=making_environment(seen_workspace(run.tree, workspace)),
        binds=binds,
        limits=run.tools.default_limits,
    )
    subject = Subject(run.agent.task_id, run.agent.id, run.record, run.output, run.tree.clock)
    tail, ended, cut_off = Tail(4 * MAX_TAIL), None, False
    began = run.tree.clock.now()
    with run.tree.clock.move_on_after(limit_s):
        async with open_outlet(run.tree, run.tools.egress, subject) as outlet:
            try:
                async with outlet.open(spec) as sandbox:
                    ended = await _listen(run, sandbox, tail)
            finally:
                cut_off = isinstance(outlet, Outlet) and outlet.unanswered > 0
    await run.tree.wait_unmounted()
    said = tail_of(tail.bytes(), MAX_TAIL)
    if ended is None:
        raise SetupFailed(f"the set-up did not end within {limit_s:g} s: {recipe.shown}\n{said}")
    if not ended.ok:
        kind = SetupCutOff if cut_off else SetupFailed
        raise kind(f"the set-up failed ({ended}): {recipe.shown}\n{said}")
    await run.output("system", f"set-up: done after {run.tree.clock.now() - began:.1f} s")


async def _listen(run: Run, sandbox: Sandbox, tail: Tail) -> Exit:
    """Write what the command says into the agent's log, and return how it ended."""

    async def output(stream: str, line: str) -> None:
        del stream
        await run.output("system", f"set-up: {line}")

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
