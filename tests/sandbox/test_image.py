"""The recipe of the agents' image: pinned, for nobody's root, with a health check that means something."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from orchestrator.cli.checks import ESSENTIAL

IMAGE = Path(__file__).parents[2] / "sandbox" / "image"
RECIPE = (IMAGE / "Containerfile").read_text().replace("\\\n", " ")


def lines(word: str) -> list[str]:
    """Return what follows an instruction, wherever it stands."""
    return re.findall(rf"^{word} +(.*)$", RECIPE, re.MULTILINE)


def test_bases_can_be_pinned_from_outside_and_only_the_first_stage_downloads_node() -> None:
    assert lines("FROM") == ["${NODE_IMAGE} AS agent", "${PYTHON_IMAGE}"]
    assert all(
        re.fullmatch(r"\w+_IMAGE=[a-z./]+:\d+\.\d+\.\d+-[a-z-]+", said)
        for said in lines("ARG")
        if "_IMAGE" in said
    )
    assert "npm install" not in RECIPE.partition("FROM ${PYTHON_IMAGE}")[2]


def test_agents_are_not_root_and_their_programs_are_checked() -> None:
    assert lines("USER") == ["1000:1000"]
    (check,) = lines("HEALTHCHECK")
    for program in (*ESSENTIAL, "python3 -m pytest", "node", "npm", "claude"):
        assert f"{program} --version" in check


def test_every_download_has_a_version_and_pythons_a_hash() -> None:
    assert "--require-hashes" in RECIPE
    wanted = [line for line in (IMAGE / "requirements.txt").read_text().splitlines() if re.match(r"\w", line)]
    assert wanted
    assert all(re.fullmatch(r"[\w-]+==[\w.]+ \\", line) for line in wanted)
    assert re.search(r"^ARG CLAUDE_CODE_VERSION=\d+\.\d+\.\d+$", RECIPE, re.MULTILINE)


def record(tools: Path, digest: str = "localhost/base@sha256:0") -> Path:
    """Put a podman into a directory that only says what it was asked for; return where it says so."""
    (tools / "podman").write_text(f"""#!/bin/sh
printf '%s\\n' "$*" >>{tools}/asked
case "$*" in
  image\\ inspect*) echo {digest} ;;
  *dpkg-query*) printf 'bash=1 git=2 ' ;;
  run\\ --detach*) echo running ;;
  exec*) echo "${{UID_INSIDE:-1000}}" ;;
  save*) touch "$6" ;;
esac
""")
    (tools / "podman").chmod(0o755)
    return tools / "asked"


def build(recipe: Path, tools: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a copy of the build with that podman."""
    command = [str(recipe / "build"), str(tools / "agent.tar"), "--network", "host"]
    env = {"PATH": f"{tools}:/usr/bin:/bin", **env}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Return a copy of the recipe, without a lock."""
    copy = tmp_path / "image"
    copy.mkdir()
    for name in ("build", "Containerfile", "requirements.txt"):
        (copy / name).write_bytes((IMAGE / name).read_bytes())
    (copy / "build").chmod(0o755)
    return copy


def test_first_build_pins_what_it_found_and_the_next_takes_exactly_that(recipe: Path, tmp_path: Path) -> None:
    asked = record(tmp_path)
    done = build(recipe, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"SANDBOX_IMAGE=docker-archive:{tmp_path}/agent.tar\n"
    bases = "NODE_IMAGE=localhost/base@sha256:0\nPYTHON_IMAGE=localhost/base@sha256:0\n"
    pins = f"{bases}DEBIAN_PACKAGES=bash=1 git=2\n"
    assert (recipe / "lock").read_text() == pins
    asked.unlink()
    assert build(recipe, tmp_path).returncode == 0
    (built,) = [line for line in asked.read_text().splitlines() if line.startswith("build")]
    assert built.startswith("build --format docker ")
    assert "--network host --build-arg NODE_IMAGE=localhost/base@sha256:0 " in built
    assert "--build-arg DEBIAN_PACKAGES=bash=1 git=2 " in built
    assert "pull" not in asked.read_text(), "nothing is looked up again"


def test_image_of_root_is_not_saved(recipe: Path, tmp_path: Path) -> None:
    record(tmp_path)
    done = build(recipe, tmp_path, UID_INSIDE="0")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "the image does not run as 1000")
    assert not (tmp_path / "agent.tar").exists()
    assert "rm --force --time 0 running" in (tmp_path / "asked").read_text()
