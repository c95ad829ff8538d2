"""The rules of the house hold in every module, and each rule can fail."""

from __future__ import annotations

import ast
import configparser
import math
import re
import tomllib
from collections.abc import Callable, Iterable
from functools import cache

import pytest

from tests.kit.architecture import (
    BANNED_BUT,
    NURSERIES,
    ROOT,
    RULES,
    SHIELDS,
    SLEEPS,
    Module,
    Rule,
    Violations,
    banned_names_only_where_they_belong,
    grace_name,
    modules,
    nurseries_only_where_their_children_are_ended,
    shields_only_with_a_deadline,
    time_is_never_a_synchronisation,
    uses,
)

NAMES = [rule.name for rule in RULES]


@cache
def everything() -> list[Module]:
    """Return every module of ours: by the one worker that asks, not by each that collects."""
    return modules("orchestrator", "sandbox", "bench", "tests")


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_rule_holds_in_every_module(rule: Rule) -> None:
    found = [f"{module.path}:{line}: {what}" for module in everything() for line, what in rule.check(module)]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [(rule, path, text) for rule in RULES for path, text in rule.broken],
    ids=[f"{rule.name}-{number}" for rule in RULES for number in range(len(rule.broken))],
)
def test_rule_catches_its_violation(rule: Rule, path: str, text: str) -> None:
    assert list(rule.check(Module.of(path, text)))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("sandbox/process.py", "with trio.move_on_after(GRACE_S, shield=True): ...\n"),
        ("orchestrator/assembly.py", "async with trio.open_nursery() as n: ...\n"),
        ("orchestrator/config.py", "os.environ['X']\n"),
        ("orchestrator/repo/git.py", "x = ['git', 'status']\n"),
        ("orchestrator/cli/checks.py", "for tool in ('git', *TOOLS): ...\n"),
    ],
)
def test_rules_allow_what_the_design_allows(path: str, text: str) -> None:
    module = Module.of(path, f'"""D."""\n{text}')
    assert [found for rule in RULES for found in rule.check(module)] == []


def exceptions() -> list[tuple[Callable[[Module], Violations], str]]:
    """Return each rule with exceptions beside each file that is one."""
    lists: tuple[tuple[Callable[[Module], Violations], Iterable[str]], ...] = (
        (nurseries_only_where_their_children_are_ended, NURSERIES),
        (shields_only_with_a_deadline, SHIELDS),
        (banned_names_only_where_they_belong, BANNED_BUT),
        (time_is_never_a_synchronisation, SLEEPS),
    )
    return [(check, path) for check, paths in lists for path in sorted(paths)]


@pytest.mark.parametrize(
    ("check", "path"), exceptions(), ids=[f"{check.__name__}-{path}" for check, path in exceptions()]
)
def test_exception_names_a_file_that_still_needs_it(check: Callable[[Module], Violations], path: str) -> None:
    text = (ROOT / path).read_text()
    assert list(check(Module.of("orchestrator/repo/no_exception.py", text)))


@pytest.mark.parametrize("path", BANNED_BUT)
def test_file_uses_each_banned_name_that_it_may_use(path: str) -> None:
    used = {name for _, name in uses(Module.of(path, (ROOT / path).read_text()))}
    assert BANNED_BUT[path].keys() <= used


def test_linter_lifts_its_ban_for_the_same_files() -> None:
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]["per-file-ignores"]
    lifted = {path for path, codes in rules.items() if "TID251" in codes}
    assert lifted == {*BANNED_BUT, "bench/*", "tests/*"}


def test_every_room_has_its_layer() -> None:
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layered = set(re.findall(r"[\w.]+", " ".join(next(r["layers"] for r in rules if r["type"] == "layers"))))
    inside = {f"orchestrator.{path.stem}" for path in (ROOT / "orchestrator").iterdir() if is_room(path.name)}
    assert inside <= layered, f"not in any layer of pyproject.toml: {sorted(inside - layered)}"


def is_room(name: str) -> bool:
    return name != "__init__.py" and (
        name.endswith(".py") or (ROOT / "orchestrator" / name / "__init__.py").exists()
    )


def constants(module: Module) -> dict[str, float]:
    """Return the numbers that the module gives names to."""
    found = {}
    for node in module.tree.body:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=int() | float() as value))
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.Constant(value=int() | float() as value))
            ):
                found[name] = float(value)
    return found


def graces(sources: list[Module]) -> dict[str, float]:
    """Return the seconds of each shield by where it stands; infinite where no constant says them."""
    everywhere = {name: value for module in sources for name, value in constants(module).items()}
    found = {}
    for module in sources:
        known = everywhere | constants(module)
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and any(keyword.arg == "shield" for keyword in node.keywords):
                found[f"{module.path}:{node.lineno}"] = known.get(
                    grace_name(node).rpartition(".")[2], math.inf
                )
    return found


def test_graces_are_those_of_the_shields_own_modules() -> None:
    text = "GRACE_S = {}\nwith trio.move_on_after(GRACE_S, shield=True): ...\n"
    sources = [
        Module.of("sandbox/process.py", text.format(2.5)),
        Module.of("sandbox/bubblewrap.py", text.format(3)),
    ]
    assert graces(sources) == {"sandbox/process.py:2": 2.5, "sandbox/bubblewrap.py:2": 3.0}


def test_service_manager_waits_longer_than_all_graces_together() -> None:
    unit = ROOT / "systemd" / "orchestrator.service"
    found = graces([module for module in everything() if not module.is_test])
    if unit.exists():
        parser = configparser.ConfigParser(strict=False, interpolation=None)
        parser.read_string(unit.read_text())
        stop_s = float(parser["Service"]["TimeoutStopSec"].removesuffix("s"))
    else:
        stop_s = 90.0  # what systemd waits where a unit says nothing
    assert sum(found.values()) < stop_s, found
