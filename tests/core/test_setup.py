"""What a repository asks for: its own word, its lock files, and what the result is known by."""

from __future__ import annotations

import pytest

from orchestrator.core.setup import (
    SetupUnclear,
    choose,
    environment,
    find_recipe,
    key_of,
    read_recipe,
)


def test_its_own_word_is_a_command_with_its_inputs_and_its_time() -> None:
    recipe = read_recipe(b'[setup]\ncommand = "make deps"\ninputs = ["./Makefile", "deps/"]\ntimeout = 60\n')
    assert recipe is not None
    assert (recipe.argv, recipe.inputs, recipe.timeout_s) == (
        ("/bin/sh", "-c", "make deps"),
        ("Makefile", "deps"),
        60.0,
    )
    words = read_recipe(b'[setup]\ncommand = ["npm", "ci"]\n')
    assert words is not None
    assert (words.argv, words.shown, words.inputs) == (("npm", "ci"), "npm ci", None)
    assert read_recipe(b"[gates.tests]\ncommand = 'x'\n") is None


@pytest.mark.parametrize(
    "text",
    [
        "[setup]\n",
        "setup = 1\n",
        "[setup\n",
        "[setup]\ncommand = ''\n",
        '[setup]\ncommand = "a\\u0000"\n',
        "[setup]\ncommand = 'x'\nenv = {}\n",
        "[setup]\ncommand = 'x'\ninputs = ['../x']\n",
        "[setup]\ncommand = 'x'\ninputs = ['/etc/passwd']\n",
        "[setup]\ncommand = 'x'\ninputs = 'x'\n",
        "[setup]\ncommand = 'x'\ntimeout = true\n",
        "[setup]\ncommand = 'x'\ntimeout = -1\n",
        "[setup]\ncommand = 'x'\ntimeout = 1e9\n",
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(text: str) -> None:
    with pytest.raises(SetupUnclear, match=r"^orchestrator\.toml in the base commit"):
        read_recipe(text.encode())


@pytest.mark.parametrize(
    ("names", "project", "shown"),
    [
        (["package.json", "package-lock.json"], None, "npm ci --no-audit --no-fund"),
        (["package.json", "package-lock.json", "pnpm-lock.yaml"], None, "pnpm install --frozen-lockfile"),
        (["package-lock.json"], None, None),
        (["pyproject.toml", "uv.lock"], b"[project]\nname = 'x'\n", "uv sync --frozen"),
        (["go.mod", "go.sum", "Cargo.lock"], None, "cargo fetch --locked && go mod download"),
        (["go.mod", "go.sum", "vendor"], None, None),
        (["pyproject.toml"], b"[tool.ruff]\n", None),
        (["README.md"], None, None),
    ],
)
def test_lock_files_tell_what_is_to_be_fetched(
    names: list[str], project: bytes | None, shown: str | None
) -> None:
    recipe = find_recipe(names, project)
    assert (recipe and recipe.shown) == shown
    assert recipe is None or recipe.detected


def test_pip_installs_requirements_or_the_project_with_what_its_tests_need() -> None:
    recipe = find_recipe(["requirements.txt", "requirements-dev.txt", "pyproject.toml"], None)
    assert recipe is not None
    assert recipe.shown.endswith(" -r requirements-dev.txt -r requirements.txt")
    assert recipe.inputs is not None
    assert {"requirements.txt", "requirements-dev.txt", "pyproject.toml"} <= set(recipe.inputs)
    project = b"[project]\nname = 'x'\n[project.optional-dependencies]\ntest = []\nother = []\n"
    found = find_recipe(["pyproject.toml"], project)
    assert found is not None
    assert found.shown.endswith("-e '.[test]'")


def test_inputs_name_files_directories_and_globs() -> None:
    paths = ["a.txt", "a.txt.bak", "dir/x", "dir/y/z", "other/p.json"]
    assert choose(["a.txt", "dir", "*/p.json", "none"], paths) == {
        "a.txt": ("a.txt",),
        "dir": ("dir/x", "dir/y/z"),
        "*/p.json": ("other/p.json",),
        "none": (),
    }


def test_a_key_stands_for_command_inputs_and_tools() -> None:
    recipe, other = (read_recipe(f"[setup]\ncommand = '{word}'\n".encode()) for word in "ab")
    assert recipe is not None
    assert other is not None
    key = key_of(recipe, {"p": "1", "q": "2"}, ["host"])
    assert key == key_of(recipe, {"q": "2", "p": "1"}, ["host"])
    others = {
        key_of(other, {"p": "1", "q": "2"}, ["host"]),
        key_of(recipe, {"p": "1", "q": "3"}, ["host"]),
        key_of(recipe, {"p": "1", "q": "2"}, ["image"]),
    }
    assert len({key, *others}) == 4


def test_caches_are_found_by_the_variables_of_their_tools() -> None:
    assert environment("/workspace", ["GOMODCACHE", "MAVEN_OPTS", "unknown"]) == {
        "GOMODCACHE": "/workspace/.orchestrator-setup/go",
        "MAVEN_OPTS": "-Dmaven.repo.local=/workspace/.orchestrator-setup/m2",
    }
