"""Where Claude Code is found, and which is good enough: one line names the fix where none is."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.agents.claude_cli import ClaudeCli, ClaudeCodeUnusable, Place, Program, own_program
from orchestrator.agents.models import default_model, newest_sonnet
from sandbox.base import Backend, Directory, User
from sandbox.podman import PodmanBackend
from sandbox.reach import closed_to
from tests.kit.claude_code import claude_binary

MakeProgram = Callable[[str], Path]


@pytest.fixture
def make_program(reachable_path: Path) -> MakeProgram:
    """Return a function that makes a program which says this."""

    def make(says: str) -> Path:
        folder = reachable_path / "bin"
        folder.mkdir(exist_ok=True)
        path = folder / "claude"
        path.write_text(f"#!/bin/sh\n{says}\n")
        path.chmod(0o755)
        return path

    return make


@pytest.fixture
def place(reachable_path: Path, backend: Backend) -> Place:
    """Return a place to ask a program for its version."""
    workspace = reachable_path / "workspace"
    workspace.mkdir()
    os.chown(workspace, backend.user.uid, backend.user.gid)
    return Place(backend, Directory(workspace), "agent-1")


async def test_the_wheel_has_one_that_says_its_version_inside(place: Place) -> None:
    program = await ClaudeCli(claude_binary()).ready(place)
    assert program.version >= (2, 1, 197)
    assert str(program).startswith("Claude Code 2.")


async def test_a_version_is_asked_for_once_and_again_where_the_file_has_changed(
    place: Place, make_program: MakeProgram, reachable_path: Path
) -> None:
    path = make_program("echo x >> asked; echo '2.1.400 (Claude Code)'")
    cli = ClaudeCli(path)
    assert await cli.ready(place) == await cli.ready(place) == Program(path, (2, 1, 400))
    path.write_text(path.read_text().replace("2.1.400", "3.0.0"))
    os.utime(path, ns=(1, 1))
    assert (await cli.ready(place)).version == (3, 0, 0)
    assert isinstance(place.workspace, Directory)
    assert (place.workspace.path / "asked").read_text() == "x\nx\n"


@pytest.mark.parametrize(
    ("says", "told"),
    [
        (
            "echo '1.0.128 (Claude Code)'",
            r"Claude Code 1\.0\.128 .* is too old, 2\.1\.197 is needed: pip install",
        ),
        (
            "echo 'I am another program'",
            r"does not run in the sandbox as Claude Code \(I am another program\)",
        ),
        (
            "echo 'no library' >&2; exit 127",
            r"does not run in the sandbox as Claude Code \(no library\): pip",
        ),
        ("kill -SEGV $$", r"does not run in the sandbox as Claude Code \(.*(signal|139|Segm)"),
    ],
)
async def test_what_will_not_do_is_told_in_one_line(
    place: Place, make_program: MakeProgram, says: str, told: str
) -> None:
    cli = ClaudeCli(make_program(says))
    with pytest.raises(ClaudeCodeUnusable, match=told) as caught:
        await cli.ready(place)
    assert "\n" not in caught.value.detail


async def test_one_known_to_be_too_old_is_refused_at_once(place: Place, make_program: MakeProgram) -> None:
    cli = ClaudeCli(make_program("echo 0.2.3"))
    cli.find()
    with pytest.raises(ClaudeCodeUnusable, match="too old"):
        await cli.ready(place)
    with pytest.raises(ClaudeCodeUnusable, match="too old"):
        cli.find()


def test_a_path_that_leads_nowhere_is_named_by_its_setting() -> None:
    with pytest.raises(ClaudeCodeUnusable, match="CLAUDE_CODE_PATH=/nowhere/claude is no file"):
        ClaudeCli(Path("/nowhere/claude")).find()


def test_the_setting_comes_before_the_sandbox_its_path_before_ours_and_the_wheel_last(
    make_program: MakeProgram, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ours = make_program("")
    other = tmp_path / "claude"
    other.write_bytes(ours.read_bytes())
    other.chmod(0o755)
    assert ClaudeCli(other, str(ours.parent)).find() == other
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ClaudeCli(None, str(ours.parent)).find() == ours
    assert ClaudeCli(None, "/nowhere").find() == other
    monkeypatch.setenv("PATH", "/nowhere")
    assert ClaudeCli(None, "/nowhere").find() == claude_binary().resolve()


def test_where_there_is_none_the_ways_to_get_one_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(
        ClaudeCodeUnusable, match=r"no Claude Code .*orchestrator\[claude-code\].*CLAUDE_CODE_PATH"
    ):
        ClaudeCli().find()


def test_a_directory_is_closed_to_whom_its_mode_does_not_let_in(
    reachable_path: Path, ordinary_user: User
) -> None:
    closed = reachable_path / "closed"
    (closed / "further").mkdir(parents=True)
    assert closed_to(ordinary_user, closed / "further") is None
    closed.chmod(0o600)
    assert closed_to(ordinary_user, closed / "further") == closed
    closed.chmod(0o700)


async def test_a_program_that_agents_may_not_get_at_is_told_with_the_directory(
    place: Place, make_program: MakeProgram
) -> None:
    path = make_program("echo 2.1.400")
    path.parent.chmod(0o600)
    try:
        with pytest.raises(ClaudeCodeUnusable, match=r"may not enter|Permission denied"):
            await ClaudeCli(path).ready(place)
    finally:
        path.parent.chmod(0o755)


def test_the_newest_sonnet_is_found_by_its_version() -> None:
    assert newest_sonnet('"claude-sonnet-4-5", "claude-sonnet-4-10", "claude-sonnet-4-5-20250929"') == (
        "claude-sonnet-4-10"
    )
    assert newest_sonnet('"claude-opus-9"') is None
    assert default_model().startswith("claude-sonnet-")


@pytest.mark.usefixtures("containers")  # made before a test's surroundings are photographed
@pytest.mark.parametrize("backend", ["podman"], indirect=True)
async def test_an_images_own_program_is_taken_before_the_hosts(
    place: Place, make_program: MakeProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(place.backend, PodmanBackend)
    assert await own_program(place) is None, "there is none in the image"
    inside = make_program("echo '2.1.400 (Claude Code)'")
    folder = inside.parent
    with_one = PodmanBackend(
        place.backend.user,
        place.backend.image,
        place.backend.root,
        read_only=[folder],  # what is shown is the image's, as far as anybody inside can see
        path=f"/usr/bin:/bin:{folder}",
    )
    there = replace(place, backend=with_one)
    own = await own_program(there)
    assert own == Program(inside, (2, 1, 400), own=True)
    assert (own.seen(with_one), own.binds) == (str(inside), ())
    monkeypatch.setenv("PATH", "/nowhere")
    cli = ClaudeCli(own=own)
    assert (cli.find(), await cli.ready(there)) == (inside, own)
    assert ClaudeCli(claude_binary(), own=own).find() == claude_binary().resolve(), "what is set counts first"
    make_program("echo '2.0.9 (Claude Code)'")
    assert await own_program(there) is None, "it is too old"
