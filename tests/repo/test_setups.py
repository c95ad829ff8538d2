"""What a set-up made: one read-only layer for all who work on a repository, no part of what they land."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from orchestrator.core.setup import SetupCutOff, SetupFailed, making_environment
from orchestrator.errors import GitFailed
from orchestrator.repo import setups
from orchestrator.repo.quarantine import Sealed
from orchestrator.repo.setups import SetupLayer
from orchestrator.repo.worktree import Worktree
from sandbox.base import Bind, Directory, Layers, Limits, Spec
from sandbox.relay import seen_workspace
from tests.kit.remote import git
from tests.kit.sandboxes import run_in
from tests.kit.until import seen
from tests.repo.stage import Stage

AGENTS = {"agent_id": "a1", "task_id": "T-1"}
TOML = "[setup]\ncommand = '''{}'''\ninputs = ['lock']\n"
INSTALL = (
    "mkdir -p node_modules/.bin; echo good >node_modules/.bin/eslint; chmod 755 node_modules/.bin/eslint"
)
CALLS: Counter[str] = Counter()


def commit(stage: Stage, files: dict[str, str]) -> None:
    """Put files onto the remote's main."""
    seed = stage.remotes / "repo.seed"
    for path, text in files.items():
        (seed / path).parent.mkdir(parents=True, exist_ok=True)
        (seed / path).write_text(text)
    git("add", "-A", "-f", cwd=seed)
    git("commit", "-qm", "more", cwd=seed)
    git("push", "-q", str(stage.bare), "main", cwd=seed)


def ask(stage: Stage, command: str, **more: str) -> None:
    """Let the repository ask for a set-up."""
    CALLS.clear()
    commit(stage, {"orchestrator.toml": TOML.format(command), "lock": "1\n", **more})


@asynccontextmanager
async def layer_of(stage: Stage) -> AsyncGenerator[SetupLayer, None]:
    """Give the layer of main, made by the command in a sandbox where there is none."""
    preparations = stage.repositories.preparations
    base = await stage.repositories.resolve(stage.url, "main")
    asked = await preparations.find(base, detect=False)
    assert asked is not None
    recipe = asked.recipe

    async def carry_out(workspace: Layers | Directory, binds: tuple[Bind, ...]) -> None:
        CALLS["run"] += 1
        env = making_environment(seen_workspace(stage.backend, workspace))
        done = await run_in(stage.backend, Spec("set-up", recipe.argv, workspace, env=env, binds=binds))
        if not done.exit.ok:
            raise SetupFailed(done.stderr)

    async def making() -> None:
        CALLS["making"] += 1

    async with preparations.open(
        base, asked, backend=stage.backend, carry_out=carry_out, disk_mb=64, making=making
    ) as layer:
        yield layer


@asynccontextmanager
async def worktree_on(
    stage: Stage, layer: SetupLayer | None, agent: str = "a1"
) -> AsyncGenerator[Worktree, None]:
    """Give an agent's worktree that stands on a layer."""
    base = await stage.repositories.resolve(stage.url, "main")
    async with stage.repositories.open_worktree(
        base, agent_id=agent, task_id="T-1", backend=stage.backend, layer=layer
    ) as worktree:
        yield worktree


async def test_no_agent_and_no_gate_can_poison_what_the_others_stand_on(any_stage: Stage) -> None:
    stage = any_stage
    ask(stage, INSTALL)
    poison = (
        "echo bad >node_modules/.bin/eslint; rm -rf node_modules; mkdir node_modules; echo >node_modules/new"
    )
    async with layer_of(stage) as layer, worktree_on(stage, layer) as first:
        assert layer.programs == ("node_modules/.bin",)
        await stage.must(first, f"{poison}; echo work >work")
        candidate = await stage.collect(first)
        assert candidate is not None
        async with first.quarantine.open_checkout(candidate, backend=stage.backend) as gate:
            spec = Spec("gate", ("sh", "-c", f"cat work; {poison}"), gate.workspace, binds=gate.binds)
            assert (await run_in(stage.backend, spec)).exit.ok
        assert await stage.look(first, candidate, "cat node_modules/.bin/eslint") == "good\n"
        async with worktree_on(stage, layer, "a2") as second:
            assert await stage.must(second, "cat node_modules/.bin/eslint; ls node_modules") == "good\n"
    assert CALLS == {"run": 1, "making": 1}


async def test_nothing_that_a_set_up_made_is_part_of_a_candidate(any_stage: Stage) -> None:
    stage = any_stage
    ask(stage, f"{INSTALL}; mkdir -p 'src/odd *[x] dir'; echo 1 >'src/odd *[x] dir/f'; echo top >'top file'")
    async with layer_of(stage) as layer, worktree_on(stage, layer) as worktree:
        assert layer.roots == ("node_modules/", "src/odd *[x] dir/", "top file")
        assert await stage.must(worktree, "git status --short") == ""
        assert await stage.collect(worktree) is None
        assert worktree.left_out is None  # there is nothing of the agent's that was left out
        await stage.must(worktree, "echo work >work; echo mine >node_modules/mine; echo my >src/mine")
        commit = await stage.deliver(worktree)
    changed = git("diff", "--name-only", f"{stage.main}", commit, cwd=stage.bare).split()
    assert changed == ["src/mine", "work"]


@pytest.mark.parametrize(
    ("script", "path"),
    [
        ("git add -f node_modules; git commit -qm all", "node_modules"),
        ("rm -rf node_modules; ln -s src node_modules; git add -f node_modules", "node_modules"),
        ("git rm -qr src; rm -rf src; echo >src; git add -f src", "src"),
    ],
)
async def test_a_candidate_that_puts_something_in_its_place_is_refused(
    stage: Stage, script: str, path: str
) -> None:
    ask(stage, f"{INSTALL}; mkdir src/made; echo 1 >src/made/f")
    async with layer_of(stage) as layer, worktree_on(stage, layer) as worktree:
        await stage.must(worktree, script)
        candidate = await stage.collect(worktree)
        assert candidate is not None
        found = await worktree.quarantine.judge(candidate)
    assert [(violation.rule, violation.path) for violation in found] == [("set-up", path)]


async def test_only_plain_files_that_the_repository_has_not_are_left(any_stage: Stage) -> None:
    stage = any_stage
    ask(
        stage,
        "echo changed >README.md; rm -r src; mkdir -p made/deep .git/hooks; mkfifo made/fifo; "
        "echo x >made/suid; chmod 4755 made/suid; ln -s /etc/passwd made/link; ln made/suid made/same; "
        "chmod 000 made/deep; mkdir $TMPDIR $HOME 2>/dev/null; echo >.git/hooks/x",
    )
    async with layer_of(stage) as layer:
        assert layer.roots == ("made/",)
        found = {path.relative_to(layer.tree).as_posix(): path.lstat().st_mode for path in walk(layer.tree)}
        assert sorted(found) == [
            *("made", "made/deep", "made/link", "made/same", "made/suid"),
        ]
        assert not found["made/suid"] & 0o6000
        assert str((layer.tree / "made/link").readlink()) == "/etc/passwd"
        async with worktree_on(stage, layer) as worktree:
            assert await stage.must(worktree, "cat README.md src/app.sh") == "hello\necho app\n"


def walk(tree: Path) -> list[Path]:
    """Return all paths below, links not followed."""
    return [Path(top) / name for top, folders, files in os.walk(tree) for name in (*folders, *files)]


async def test_too_much_and_odd_names_are_refused(stage: Stage) -> None:
    for command, complaint in (
        ("dd if=/dev/zero of=big bs=1M count=65 2>/dev/null", "more than 64 MB"),
        ("for i in $(seq 1100); do echo >f$i; done", "more than 1000 names"),
        ("mkdir -p $(printf 'd/%.0s' $(seq 80))", "more than 64 deep"),
        ("touch \"$(printf 'a\\nb')\"", "not plain text"),
    ):
        ask(stage, command)
        with pytest.raises(SetupFailed, match=complaint):
            async with layer_of(stage):
                pass
    assert not any((stage.home / "setups").glob("*/*"))


async def test_it_runs_again_only_where_its_inputs_are_others(stage: Stage) -> None:
    ask(stage, INSTALL)
    async with layer_of(stage) as layer:
        first = layer.tree
    commit(stage, {"other": "1\n"})
    async with layer_of(stage) as layer:
        assert layer.tree == first
    commit(stage, {"lock": "2\n"})
    async with layer_of(stage) as layer:
        assert layer.tree != first
    assert CALLS["run"] == 2


async def test_a_base_that_has_what_was_made_gets_a_layer_of_its_own(any_stage: Stage) -> None:
    stage = any_stage
    ask(stage, f"{INSTALL}; echo made >generated")
    async with layer_of(stage) as layer:
        assert "generated" in layer.roots
    commit(stage, {"generated": "committed\n"})
    async with layer_of(stage) as layer, worktree_on(stage, layer) as worktree:
        assert layer.roots == ("node_modules/",)
        assert await stage.must(worktree, "cat generated node_modules/.bin/eslint") == "committed\ngood\n"


async def test_who_is_cut_off_hands_it_on_and_all_others_wait_for_one_run(stage: Stage) -> None:
    ask(stage, f"sleep 0.3; {INSTALL}")
    held = trio.Event()
    got: list[Path] = []

    async def need() -> None:
        async with layer_of(stage) as layer:
            got.append(layer.tree)
            await held.wait()

    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as first:
            async with trio.open_nursery() as beginning:
                beginning.start_soon(need)
                await seen(lambda: CALLS["run"], "the first runs it")
                for _ in range(3):
                    nursery.start_soon(need)
                await seen(lambda: CALLS["making"] == 4, "the others wait for it")
                first.cancel()
        await seen(lambda: len(got) == 3, "the others have it")
        assert (len(set(got)), CALLS["run"]) == (1, 2)
        # What was cut off lies there until a pass takes it; what somebody holds stays, whatever it weighs.
        stage.repositories.preparations.setups.keep_bytes = 0
        assert len(list(got[0].parent.parent.iterdir())) == 2
        await stage.repositories.tidy()
        assert list(got[0].parent.parent.iterdir()) == [got[0].parent]
        held.set()
    assert await stage.repositories.preparations.drop(got[0].parent)


async def test_a_failure_answers_all_who_ask_for_a_short_while(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(stage, "echo no such package >&2; exit 3")
    for expected in (1, 1):
        with pytest.raises(SetupFailed, match="no such package"):
            async with layer_of(stage):
                pass
        assert CALLS["run"] == expected
    monkeypatch.setattr(setups, "REMEMBER_S", 0.0)
    stage.repositories = stage.open_repositories()
    for expected in (2, 3):
        with pytest.raises(SetupFailed, match="no such package"):
            async with layer_of(stage):
                pass
        assert CALLS["run"] == expected


async def test_a_crash_leaves_what_the_next_process_removes_and_what_is_whole_stays(stage: Stage) -> None:
    ask(stage, INSTALL)
    async with layer_of(stage) as layer:
        whole = layer.tree.parent
    half = whole.with_name("making-0123456789abcdef")
    (half / "room" / "upper").mkdir(parents=True)
    (half / "room" / "upper").chmod(0)
    stage.repositories = stage.open_repositories()
    await stage.repositories.sweep()
    assert list(whole.parent.iterdir()) == [whole]
    waste = stage.repositories.find_waste(owned=(), commits=())
    assert [each.name for each in waste if each.kind == "setup"] == [
        f"setups/{whole.parent.name}/{whole.name}"
    ]
    (whole / "layer.json").write_text("{")
    with pytest.raises(SetupFailed, match="damaged"):
        async with layer_of(stage):
            pass
    await stage.repositories.tidy()
    async with layer_of(stage):
        assert CALLS["run"] == 2


async def test_the_room_of_one_who_waits_holds_its_layer_and_is_salvaged_without_it(any_stage: Stage) -> None:
    stage = any_stage
    ask(stage, INSTALL)
    async with layer_of(stage) as layer, worktree_on(stage, layer) as worktree:
        await stage.must(worktree, "echo precious >p; echo touched >node_modules/.bin/eslint")
        worktree.kept = True
    stage.repositories = stage.open_repositories()
    stage.repositories.preparations.setups.keep_bytes = 0
    await stage.repositories.tidy()
    rooms = stage.repositories.directories()
    assert not [w for w in stage.repositories.find_waste(owned=rooms, commits=()) if w.kind == "setup"]
    base = await stage.repositories.find_kept(**AGENTS, backend=stage.backend)
    async with layer_of(stage) as again:
        assert again.tree == layer.tree
        assert CALLS["run"] == 1
    async with stage.repositories.open_worktree(base, **AGENTS, backend=stage.backend, kept=True) as left:
        ref = await left.salvage(limits=Limits(), deadline_s=20)
        left.kept = False
    assert ref is not None
    patch = await stage.repositories.diff(stage.url, stage.main, ref, max_bytes=10_000)
    assert (b"+precious" in patch, b"touched" in patch) == (True, False)
    await stage.repositories.tidy()
    assert not any((stage.home / "setups").glob("*/*"))


async def test_work_that_is_moved_stands_on_the_set_up_of_its_new_base(any_stage: Stage) -> None:
    stage = any_stage
    ask(stage, f"{INSTALL}; echo 1 >node_modules/version; mkdir old; echo >old/f")
    async with layer_of(stage) as first, worktree_on(stage, first) as worktree:
        own = "echo bad >node_modules/version; echo mine >old/mine; rm -r node_modules/.bin"
        own += "; printf '*.o' >>.git/info/exclude; echo >a.o"
        sealed = await collected(stage, worktree, f"echo work >work; {own}")
        ask(stage, f"{INSTALL}; echo 2 >node_modules/version; mkdir -p 'src/odd *'; echo >'src/odd *'/f")
        async with layer_of(stage) as second:
            onto = stage.main
            brought = await worktree.quarantine.bring(sealed, onto)
            assert brought.commit is not None
            there = worktree.over(onto, second)
            seen = "cat node_modules/version node_modules/.bin/eslint work; ls -d old || true; git status -s"
            assert await stage.look(there, brought.commit, f"{{ {seen}; }} 2>/dev/null") == "2\ngood\nwork\n"
            assert await stage.must(worktree, "cat node_modules/version") == "bad\n"
            await worktree.move(onto, brought.tree, second, limits=Limits(), deadline_s=20)
            assert await stage.must(worktree, f"{{ {seen}; }} 2>/dev/null; ls a.o") == (
                "2\ngood\nwork\n?? work\na.o\n"
            )
            await stage.must(worktree, "echo more >work; mkdir old; echo >old/now; echo >src/odd")
            commit = await stage.deliver(worktree)
        changed = git("diff", "--name-only", onto, commit, cwd=stage.bare).split()
        assert changed == ["old/now", "src/odd", "work"]


async def test_a_move_onto_another_set_up_that_was_cut_off_is_done_at_the_next_opening(
    any_stage: Stage,
) -> None:
    stage = any_stage
    ask(stage, f"{INSTALL}; echo 1 >node_modules/version")
    async with layer_of(stage) as first, worktree_on(stage, first) as worktree:
        worktree.kept = True
        candidate = await collected(stage, worktree, "echo work >work; echo bad >node_modules/version")
        ask(stage, f"{INSTALL}; echo 2 >node_modules/version; mkdir new; echo new >new/f")
        async with layer_of(stage) as second:
            brought = await worktree.quarantine.bring(candidate, stage.main)
            with pytest.raises(GitFailed, match="could not be brought"):
                await worktree.move(stage.main, brought.tree, second, limits=Limits(), deadline_s=0)
    stage.repositories = stage.open_repositories()
    async with layer_of(stage) as layer:
        base = await stage.repositories.find_kept(**AGENTS, backend=stage.backend)
        opened = stage.repositories.open_worktree(
            base, **AGENTS, backend=stage.backend, kept=True, layer=layer
        )
        async with opened as worktree:
            worktree.kept = False
            seen = await stage.must(worktree, "cat node_modules/version new/f work; git status -s")
            assert seen == "2\nnew\nwork\n?? work\n"
            assert (worktree.base.commit, worktree.tenancy.moving) == (stage.main, ())


async def collected(stage: Stage, worktree: Worktree, script: str) -> Sealed:
    """Let the agent work, and return its work as a commit of record."""
    await stage.must(worktree, script)
    candidate = await stage.collect(worktree)
    assert candidate is not None
    return await worktree.quarantine.seal(candidate, "Work")


async def test_where_the_host_has_no_room_the_repository_is_not_to_blame(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(stage, "echo no space left >&2; exit 3")
    monkeypatch.setattr(setups, "SHORT_BYTES", 1 << 62)
    for expected in (1, 2):  # nor is it remembered
        with pytest.raises(SetupCutOff, match=r"short of room on its disk: .*no space left"):
            async with layer_of(stage):
                pass
        assert CALLS["run"] == expected

    async def make(_room: Path) -> Directory:
        await trio.lowlevel.checkpoint()
        raise OSError(errno.ENOSPC, "No space left on device")

    place = stage.home / "setups/mirror/key"
    with pytest.raises(SetupCutOff, match="the host has no room"):
        async with stage.repositories.preparations.setups.hold(place, stage.home, make, disk_mb=1):
            pass
    assert not any((stage.home / "setups").glob("*/*"))
