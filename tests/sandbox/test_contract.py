"""What every backend promises, in each that works here."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from sandbox.base import Backend, Bind, CommandNotFound, Directory, Exit, SandboxError, Spec
from sandbox.spawn import AGENTS_OOM_SCORE, NICER_BY, OWN_OOM_SCORE
from tests.kit.processes import fresh_mark, marked
from tests.kit.sandboxes import Run, read_status, read_until, run_in
from tests.kit.until import seen
from tests.kit.zoo import ZOO, ZOO_PROCESSES


async def test_command_ends_with_its_own_exit_status(run: Run) -> None:
    outcome = await run("exit 7")
    assert outcome.exit == Exit(code=7)
    assert not outcome.exit.ok
    assert str(outcome.exit) == "exit status 7"


async def test_command_that_a_signal_ends_says_which(run: Run) -> None:
    outcome = await run("kill -SEGV $$")
    assert outcome.exit == Exit(signal=11)


async def test_input_reaches_the_command_and_both_outputs_come_back(run: Run) -> None:
    outcome = await run("cat; echo heard >&2", stdin=b"said\n")
    assert (outcome.stdout, outcome.stderr) == ("said\n", "heard\n")


async def test_command_runs_in_its_workspace_and_its_files_stay(run: Run, workspace: Directory) -> None:
    outcome = await run("echo made >file && cat file")
    assert outcome.stdout == "made\n"
    assert (workspace.path / "file").read_text() == "made\n"


async def test_environment_is_the_specs_and_nothing_of_ours(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANARY", "leaked")
    outcome = await run("env", env={"ODD": "a b'\"$(id)\nc", "LANG": "C"})
    assert "ODD=a b'\"$(id)\nc\n" in outcome.stdout
    names = {line.split("=")[0] for line in outcome.stdout.splitlines() if "=" in line}
    assert names - {"SANDBOX_LABEL", "SANDBOX_TREE"} == {"ODD", "LANG", "PATH", "HOME", "TMPDIR", "PWD"}
    assert "LANG=C\n" in outcome.stdout


async def test_what_comes_first_on_the_path_comes_before_that_of_the_task(run: Run) -> None:
    outcome = await run('echo "$PATH"', env={"PATH": "/own:/usr/bin:/bin"}, first_on_path=("/a", "/b"))
    assert outcome.stdout == "/a:/b:/own:/usr/bin:/bin\n"


async def test_home_and_temporary_directory_can_be_written(run: Run) -> None:
    assert (await run('echo x >"$HOME/x" && echo y >"$TMPDIR/y"')).exit.ok


async def test_command_is_not_the_hosts_root(backend: Backend, workspace: Directory) -> None:
    async with backend.open(Spec("who", ("sh", "-c", "echo up; exec cat"), workspace)) as sandbox:
        await read_until(sandbox, b"up")
        (pid,) = sandbox.processes()
        status = read_status(pid)
    assert set(status["Uid"].split()) == {str(backend.user.uid)} != {"0"}
    assert status["NoNewPrivs"] == "1"


async def test_only_the_passed_descriptors_are_open(run: Run) -> None:
    ours, theirs = socket.socketpair()
    leak = os.open("/", os.O_RDONLY)
    os.set_inheritable(leak, True)
    with ours, theirs:
        passed = theirs.fileno()
        outcome = await run("ls /proc/self/fd", pass_fds=(passed,))
    os.close(leak)
    found = {int(name) for name in outcome.stdout.split()}
    assert {0, 1, 2, passed} <= found
    assert len(found) == 5, "the fifth is ls's own"


async def test_passed_socket_carries_words_both_ways(backend: Backend, workspace: Directory) -> None:
    ours, theirs = socket.socketpair()
    fd = theirs.fileno()
    script = f"import socket; s = socket.socket(fileno={fd}); s.sendall(s.recv(9)[::-1])"
    with ours, theirs:
        ours.sendall(b"abc")
        outcome = await run_in(backend, Spec("talk", ("python3", "-c", script), workspace, pass_fds=(fd,)))
        assert outcome.exit.ok, outcome.stderr
        assert ours.recv(9) == b"cba"


async def test_wait_answers_many_and_always_the_same(backend: Backend, workspace: Directory) -> None:
    answers: list[Exit] = []

    async def ask() -> None:
        answers.append(await sandbox.wait())

    async with backend.open(Spec("wait", ("sh", "-c", "read x; exit 4"), workspace)) as sandbox:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask)
            await sandbox.stdin.send_all(b"\n")
        answers.append(await sandbox.wait())
    answers.append(await sandbox.wait())
    assert answers == [Exit(code=4)] * 5
    assert sandbox.processes() == []


async def test_kill_ends_the_zoo_and_proves_it(backend: Backend, workspace: Directory) -> None:
    mark = fresh_mark("zoo-contract")
    async with backend.open(Spec("zoo", ("sh", "-c", ZOO), workspace, {"MARK": mark})) as sandbox:
        await read_until(sandbox, b"zoo-open")
        await seen(lambda: len(sandbox.processes()) >= ZOO_PROCESSES, "all cages are open")
        alive = len(sandbox.processes())
        sandbox.kill_nowait()
        sandbox.kill_nowait()
        proof = await sandbox.prove_gone(5)
        assert proof.remaining == 0
        assert ZOO_PROCESSES - 1 <= proof.killed <= alive + 25, "one comes and goes"
        assert not marked(mark)
        assert sandbox.processes() == []
        assert await sandbox.wait() == Exit(signal=9)
        assert await sandbox.prove_gone(5) == proof
    assert sandbox.proof == proof


async def test_sandboxes_of_one_label_live_side_by_side_and_end_apart(
    backend: Backend, workspace: Directory
) -> None:
    spec = Spec(fresh_mark("both"), ("sh", "-c", "echo up; cat"), workspace)
    async with backend.open(spec) as one:
        await read_until(one, b"up")
        async with backend.open(spec) as other:
            await read_until(other, b"up")
            assert (await one.prove_gone(5)).remaining == 0
            await other.stdin.send_all(b"lives\n")
            await read_until(other, b"lives")


async def test_leaving_the_block_kills_what_lives(backend: Backend, workspace: Directory) -> None:
    mark = fresh_mark("zoo-left")
    async with backend.open(Spec("left", ("sh", "-c", ZOO), workspace, {"MARK": mark})) as sandbox:
        await read_until(sandbox, b"zoo-open")
        await seen(lambda: len(sandbox.processes()) >= ZOO_PROCESSES, "all cages are open")
    assert not marked(mark)
    assert sandbox.proof is not None
    assert sandbox.proof.remaining == 0
    assert sandbox.proof.killed >= ZOO_PROCESSES - 1
    sandbox.kill_nowait()


async def test_leaving_by_an_error_or_a_cancellation_kills_too(
    backend: Backend, workspace: Directory
) -> None:
    mark = fresh_mark("left-by")
    spec = Spec("left", ("sh", "-c", "setsid sleep 1000 & echo up; wait"), workspace, {"MARK": mark})

    async def fail() -> None:
        async with backend.open(spec) as sandbox:
            await read_until(sandbox, b"up")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert not marked(mark)
    with trio.CancelScope() as scope:
        async with backend.open(spec) as sandbox:
            await read_until(sandbox, b"up")
            scope.cancel()
            await trio.sleep_forever()
    assert not marked(mark)
    assert sandbox.proof is not None
    assert sandbox.proof.remaining == 0


async def test_what_the_agents_group_may_read_can_be_bound(
    backend: Backend, workspace: Directory, reachable_path: Path
) -> None:
    closed = reachable_path / "closed"
    shown = closed / "shown"
    shown.mkdir(parents=True)
    (shown / "file").write_text("read\n")
    closed.chmod(0o750)
    os.chown(closed, -1, backend.user.gid)
    seen = backend.seen(shown, "/workspace/shown")
    spec = Spec("bound", ("cat", f"{seen}/file"), workspace, binds=(Bind(shown, "/workspace/shown"),))
    assert (await run_in(backend, spec)).stdout == "read\n"


async def test_descendants_do_not_outlive_the_block_of_an_ended_command(run: Run) -> None:
    mark = fresh_mark("outlive")
    outcome = await run("(setsid sleep 1000 >/dev/null 2>&1 &) ; echo done", env={"MARK": mark})
    assert outcome.stdout == "done\n"
    assert outcome.exit.ok
    assert not marked(mark)


async def test_agents_give_way_to_the_orchestrator(run: Run) -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    # By the shell alone: an image may have no `nice`. It is the 19th field, the 17th after the name.
    told = await run("read -r line </proc/$$/stat; set -- ${line##*) }; shift 16; echo $1")
    assert told.stdout == f"{min(19, own + NICER_BY)}\n", told.stderr
    scores = (await run("cat /proc/self/oom_score_adj; sh -c 'cat /proc/self/oom_score_adj'")).stdout
    assert scores == f"{AGENTS_OOM_SCORE}\n" * 2, "where memory runs out, the kernel ends them first"


def test_process_stands_firm_where_it_may_and_is_unchanged_where_not() -> None:
    script = "import sandbox.spawn as s; print(s.stand_firm(), open('/proc/self/oom_score_adj').read())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    firm, score = done.stdout.split()
    own = int(Path("/proc/self/oom_score_adj").read_text())
    assert int(score) == (min(own, OWN_OOM_SCORE) if firm == "True" else own)


async def test_nothing_is_left_wherever_it_is_cancelled(backend: Backend, workspace: Directory) -> None:
    mark = fresh_mark("cancelled-at")

    class CancelAt(trio.abc.Instrument):
        def __init__(self, step: int, scope: trio.CancelScope) -> None:
            self.left, self.scope = step, scope

        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            self.left -= 1
            if self.left == 0:
                self.scope.cancel()

    spec = Spec("cancelled", ("sh", "-c", "echo up; exec sleep 1000"), workspace, {"MARK": mark})
    for step in range(1, 100):
        reached = False
        with trio.CancelScope() as scope:
            instrument = CancelAt(step, scope)
            trio.lowlevel.add_instrument(instrument)
            try:
                async with backend.open(spec) as sandbox:
                    await read_until(sandbox, b"up")
                    reached = True
            finally:
                trio.lowlevel.remove_instrument(instrument)
        assert not marked(mark), f"cancelled at step {step}"
        if reached and not scope.cancel_called:
            return
    pytest.fail("the sandbox never came to its end")


async def test_missing_command_is_told_from_a_failing_one(backend: Backend, workspace: Directory) -> None:
    for command in ("no-such-program", "/no/such/program", "./missing.sh", "/usr"):
        with pytest.raises(CommandNotFound) as caught:
            async with backend.open(Spec("missing", (command,), workspace)):
                pytest.fail("it started")
        assert command in str(caught.value)
        assert not caught.value.retryable
    assert (await run_in(backend, Spec("failing", ("sh", "-c", "exit 127"), workspace))).exit == Exit(
        code=127
    )


async def test_missing_workspace_is_an_error_at_once(backend: Backend, reachable_path: Path) -> None:
    with pytest.raises(SandboxError, match="nowhere"):
        async with backend.open(Spec("lost", ("true",), Directory(reachable_path / "nowhere"))):
            pytest.fail("it started")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"label": "a/b"}, "label"),
        ({"label": ""}, "label"),
        ({"label": "x" * 65}, "label"),
        ({"label": "-\n"}, "label"),
        ({"command": ()}, "command"),
        ({"command": ("a\0b",)}, "NUL"),
        ({"env": {"A=B": "c"}}, "A=B"),
        ({"env": {"A": "\0"}}, "NUL"),
        ({"pass_fds": (1,)}, "descriptor 1"),
        ({"binds": (Bind(Path("/tmp"), "relative"),)}, "relative"),
        ({"binds": (Bind(Path("/tmp"), "/"),)}, "'/'"),
        ({"binds": (Bind(Path("/tmp"), "/a/../proc/x"),)}, "proc"),
        ({"binds": (Bind(Path("/tmp"), "/proc/sys"),)}, "/proc/sys"),
        ({"binds": (Bind(Path("/tmp"), "/etc/passwd", writable=True),)}, "/etc/passwd"),
    ],
)
async def test_spec_that_could_not_be_kept_is_refused(
    backend: Backend, workspace: Directory, fields: dict[str, object], said: str
) -> None:
    spec = Spec(**{"label": "x", "command": ("true",), "workspace": workspace, **fields})  # type: ignore[arg-type]
    with pytest.raises(SandboxError, match=said):
        async with backend.open(spec):
            pytest.fail("it started")


async def test_two_of_the_same_label_do_not_hurt_each_other(backend: Backend, workspace: Directory) -> None:
    spec = Spec("twin", ("sh", "-c", "setsid sleep 1000 & echo up; read x; kill $!"), workspace)
    async with backend.open(spec) as one:
        await read_until(one, b"up")
        async with backend.open(spec) as two:
            await read_until(two, b"up")
        assert len(one.processes()) == 2
        await one.stdin.send_all(b"\n")
        assert (await one.wait()).ok


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["bubblewrap", "process"], indirect=True)  # podman is spawned as bwrap is
async def test_sandbox_outlives_the_ten_seconds_of_a_worker_thread(
    backend: Backend, workspace: Directory
) -> None:
    async with backend.open(Spec("ten", ("sleep", "10.6"), workspace)) as sandbox:
        assert (await sandbox.wait()).ok


@pytest.mark.parametrize("tool", ["setpriv", "prlimit", "env", "unshare", "sh"])
async def test_environment_of_a_task_chooses_no_tool_of_ours(
    backend: Backend, workspace: Directory, tool: str
) -> None:
    fake = workspace.path / tool
    fake.write_text('#!/bin/sh\n/usr/bin/id -u >>"$0.ran"\n')
    fake.chmod(0o755)
    outcome = await run_in(
        backend,
        Spec("path", ("/bin/true",), workspace, env={"PATH": f"{workspace.path}:/workspace:/usr/bin:/bin"}),
    )
    assert outcome.exit.ok
    assert not (workspace.path / f"{tool}.ran").exists()


async def test_loader_of_our_tools_obeys_nothing_that_a_task_says(
    backend: Backend, workspace: Directory
) -> None:
    seen = "/workspace" if backend.namespaced else str(workspace.path)
    said = {"LD_DEBUG": "files", "LD_DEBUG_OUTPUT": f"{seen}/loaded"}
    assert (await run_in(backend, Spec("loader", ("/bin/true",), workspace, env=said))).exit.ok
    owners = {path.stat().st_uid for path in workspace.path.glob("loaded.*")}
    assert owners == {backend.user.uid}, "the loader writes as whom it works for, and for the command it does"


async def test_values_of_a_tasks_variables_are_parsed_by_nobody(
    backend: Backend, workspace: Directory
) -> None:
    env = {"A": "marked-value", "EMPTY": "", "ODD": "${A} $A \\c \"'#", "SANDBOX_TREE": "x"}
    script = "import os,json; print(json.dumps({n: os.environ.get(n) for n in ('A','EMPTY','ODD')}))"
    spec = Spec("values", ("python3", "-c", script), workspace, env=env)
    outcome = await run_in(backend, spec)
    assert json.loads(outcome.stdout) == {name: env[name] for name in ("A", "EMPTY", "ODD")}
