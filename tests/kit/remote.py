"""Real bare repositories for tests to work against, made with the git of the host."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FILES = {"README.md": "hello\n", "src/app.sh": "echo app\n"}


def git(*args: str, cwd: Path | None = None) -> str:
    """Run git as a person would, with an identity and no configuration of the host, and return its output."""
    identity = {f"GIT_{who}_{what}": "t@t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    env = {**os.environ, **identity, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        ["git", *args], cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, f"git {' '.join(args)}: {done.stderr}"
    return done.stdout


def make_remote(root: Path, name: str = "repo", files: Mapping[str, str] = FILES) -> Path:
    """Make a bare repository with one commit on main."""
    bare, seed = root / f"{name}.git", root / f"{name}.seed"
    git("init", "-q", "--bare", "-b", "main", str(bare))
    git("init", "-q", "-b", "main", str(seed))
    for path, text in files.items():
        (seed / path).parent.mkdir(parents=True, exist_ok=True)
        (seed / path).write_text(text)
    git("add", "-A", cwd=seed)
    git("commit", "-qm", "base", cwd=seed)
    git("push", "-q", str(bare), "main", cwd=seed)
    return bare


def branches(bare: Path) -> dict[str, str]:
    """Return the branches of a bare repository and their commits."""
    out = git("for-each-ref", "--format=%(refname:short) %(objectname)", "refs/heads", cwd=bare)
    return dict(line.split() for line in out.splitlines())


def hook(bare: Path, name: str, script: str) -> None:
    """Let the remote run a script of ours, to be slow or to refuse."""
    path = bare / "hooks" / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@dataclass(frozen=True, slots=True)
class Push:
    """A branch that was moved, as the remote itself has written it down."""

    ref: str
    old: str
    new: str


def count_pushes(bare: Path) -> None:
    """Let the remote write down every move of a branch from now on; see `pushes`."""
    git("config", "core.logAllRefUpdates", "always", cwd=bare)


def pushes(bare: Path) -> list[Push]:
    """Return every move of a branch, of those that took effect.

    Git writes the line before it moves the branch: one of a push that was cut between the two did nothing,
    and the next line starts where it did.
    """
    found = []
    now = branches(bare)
    for log in sorted((bare / "logs/refs/heads").rglob("*")):
        if not log.is_file():
            continue
        ref = log.relative_to(bare / "logs").as_posix()
        moves = [Push(ref, *line.split(" ", 2)[:2]) for line in log.read_text(errors="replace").splitlines()]
        then = [*(move.old for move in moves[1:]), now.get(ref.removeprefix("refs/heads/"), "")]
        found += [move for move, next_old in zip(moves, then, strict=True) if move.new == next_old]
    return found
