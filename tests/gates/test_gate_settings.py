"""Behind a makefile or a command of its own a project's tools are led by the base's settings all the same."""

from __future__ import annotations

import json

import pytest

from orchestrator.gates.make import targets_of
from tests.gates.conftest import Changes, Files, Judge

#: A tool that obeys the settings as the usual ones do: it says nothing where they exclude all.
CHECK = (
    "#!/bin/sh\nfor s in ruff.toml pyproject.toml; do grep -qs exclude $s && exit 0; done\ngrep -q good app\n"
)
MAKE = {
    "Makefile": "lint: style\nstyle:\n\t@./check.sh\ntest:\n\t@npm test\n",
    "check.sh": CHECK,
    "app": "good\n",
}
OWN = {"orchestrator.toml": '[gates.lint]\ncommand = "./check.sh"\n', "check.sh": CHECK, "app": "good\n"}
PROJECT = '[project]\nname = "p"\n\n[tool.ruff]\nline-length = 100\n'
BAD = {"app": "bad\n"}


@pytest.mark.parametrize("base", [MAKE, OWN], ids=["make", "own word"])
@pytest.mark.parametrize(
    "game",
    [
        {"ruff.toml": 'exclude = ["*"]\n'},
        {"pyproject.toml": PROJECT + 'exclude = ["*"]\n'},
        {"pyproject.toml": '[project]\nname = "p"\n\n["tool".ruff]\nexclude = ["*"]\n'},
        {"pyproject.toml": "this is no TOML, exclude\n"},
    ],
)
async def test_settings_of_a_tool_behind_a_command_are_the_bases(
    judge: Judge, base: Files, game: Changes
) -> None:
    verdict = await judge({**base, "pyproject.toml": PROJECT}, {**BAD, **game}, gate="lint")
    assert not verdict.approved, verdict
    assert "lint failed" in verdict.message


@pytest.mark.parametrize(
    "game",
    [{"sub/ruff.toml": 'exclude = ["*"]\n'}, {"sub/Makefile": "lint:\n"}, {"sub/check.sh": "exit 0\n"}],
)
async def test_settings_in_a_folder_that_a_command_goes_into_are_the_bases(
    judge: Judge, game: Changes
) -> None:
    base = {
        "Makefile": "lint:\n\t@./sub/check.sh\n\t@$(MAKE) -C sub lint\n",
        "sub/Makefile": "lint:\n\t@./check.sh\n",
        "app": "good\n",
    }
    base["sub/check.sh"] = CHECK.replace("grep -q good app", "cd ${0%/*} && grep -q good ../app")
    assert (await judge(base, gate="lint")).approved
    verdict = await judge(base, {**BAD, **game}, gate="lint")
    assert not verdict.approved, verdict


@pytest.mark.parametrize("name", ["lint", "style"])
async def test_file_of_a_targets_name_does_not_take_its_place(judge: Judge, name: str) -> None:
    verdict = await judge(MAKE, {**BAD, name: "up to date\n"}, gate="lint")
    assert not verdict.approved, verdict
    assert f"the candidate adds {name}, which" in verdict.message


async def test_prerequisites_are_found_through_rules_and_calls_of_make() -> None:
    text = ".PHONY: all\nall: a \\\n  b\n\t$(MAKE) c\na b: d\nc d:\n\ttrue\ne:\n\ttrue\nx := all:e\n"
    assert sorted(targets_of(text, "all")) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("place", ["node_modules/.bin/tool", ".venv/bin/tool"])
@pytest.mark.parametrize("base", [MAKE, OWN], ids=["make", "own word"])
async def test_tools_that_the_candidate_brings_are_refused_and_those_of_a_set_up_are_not(
    judge: Judge, base: Files, place: str
) -> None:
    folder = place.partition("/")[0]
    verdict = await judge(base, {place: "#!/bin/sh\n"}, gate="lint")
    assert f"the candidate adds {folder}, which" in verdict.message, verdict
    verdict = await judge(
        base, {place: "#!/bin/sh\n", ".git/info/made": f"vendor/\n{folder}/\n"}, gate="lint"
    )
    assert verdict.approved, verdict


NPM = {"package.json": json.dumps({"name": "p", "scripts": {"test": "grep -q good app && echo 1 passing"}})}


@pytest.mark.parametrize(
    "manifest",
    [
        {"name": "p", "scripts": {"test": "echo; echo '  1 passing'"}},
        {"name": "p", "scripts": {"test": "grep -q good app", "pretest": "echo good >app"}},
    ],
)
async def test_scripts_that_make_calls_are_the_bases(judge: Judge, manifest: dict[str, object]) -> None:
    game = {**BAD, "package.json": json.dumps(manifest)}
    verdict = await judge({**MAKE, **NPM}, game)
    assert not verdict.approved, verdict
    assert verdict.protected == ("package.json",)


async def test_new_dependency_and_version_stay_the_candidates_behind_make(judge: Judge) -> None:
    base = {
        "Makefile": "test:\n\tgrep -q two pyproject.toml && grep -q left-pad package.json\n",
        "pyproject.toml": PROJECT,
        "package.json": '{"scripts": {"test": "true"}}',
    }
    good = {
        "pyproject.toml": PROJECT.replace('"p"', '"p"\nversion = "two"'),
        "package.json": '{"scripts": {"test": "true"}, "dependencies": {"left-pad": "1"}}',
    }
    verdict = await judge(base, good)
    assert verdict.approved, verdict


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "text", ["test " * 100_000 + ": " + "a " * 200_000, "a " * 200_000 + ":\n" + "\tmake\n" * 90_000]
)
def test_targets_of_a_hostile_makefile_are_found_in_bounded_time(text: str) -> None:
    assert targets_of(text, "test") == ("test",)
