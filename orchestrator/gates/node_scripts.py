"""What a script of package.json runs, and how its runner is made to report what it ran.

The invariant: a script is rewritten only where its whole text is understood; another is run as it stands, and
its tests are counted by its output. Pure; the texts are the base's. Caller: `gates.node`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

#: The directory for what a run makes, as scripts name it.
PLACE = '"$ORCHESTRATOR_GATE"'

#: What makes a text more than programs run one after the other.
_BEYOND = re.compile(r"[;|<>`#\\()\n]|\$\(|(?<!&)&(?!&)")
_MAX_TEXT, _MAX_DEPTH = 2000, 5
_CALL = re.compile(
    r"(?:npm|pnpm|yarn|bun)(?: run(?:-script)?)?(?: -s| --silent)? "
    r"(?!install\b|ci\b|exec\b)([\w:.-]{1,80})(?: -- (.{1,500}))?"
)

_C8 = f" --reporter=text --reporter=json-summary --reports-dir={PLACE}/coverage"
#: What is written after the whole command, so that the runner tells its results in a file of ours.
_REPORTING = {
    "vitest": f" --reporter=default --reporter=json --outputFile.json={PLACE}/results.json",
    "jest": f" --json --outputFile={PLACE}/results.json",
    "mocha": f" --reporter json --reporter-option output={PLACE}/results.json",
}
#: The same for how much of the code was reached.
_COVERING = {
    "vitest": (
        " --coverage.enabled --coverage.reporter=text --coverage.reporter=json-summary"
        f" --coverage.reportsDirectory={PLACE}/coverage"
    ),
    "jest": (
        " --coverage --coverageReporters=text --coverageReporters=json-summary"
        f" --coverageDirectory={PLACE}/coverage"
    ),
}
_NODE = (
    f" --test-reporter=spec --test-reporter-destination=stdout --test-reporter={PLACE}/reporter.mjs"
    f" --test-reporter-destination={PLACE}/results.json"
)


@dataclass(frozen=True, slots=True)
class Run:
    """A text for `sh -c`, and who reports in it."""

    text: str
    #: `vitest`, `jest`, `mocha` or `node`; None where none was recognised, or more than one.
    runner: str | None


def reporting(name: str, scripts: Mapping[str, str], *, coverage: bool = False, tools: set[str]) -> Run:
    """Return a script with what it calls of the others, made to report; `tools` are the project's."""
    parts = _unfold(name, scripts, 0)
    runners = [_runner(part) for part in parts or ()]
    known = [runner for runner in runners if runner is not None]
    if parts is None or len(known) != 1:
        return plain(name, scripts)
    told = [
        part if runner is None else _reporting(part, runner, coverage=coverage, tools=tools)
        for part, runner in zip(parts, runners, strict=True)
    ]
    return Run(" && ".join(told), known[0])


def measurable(name: str, scripts: Mapping[str, str], tools: set[str]) -> bool:
    """Return whether the script's tests can be made to tell what they reach, by the project's tools."""
    match reporting(name, scripts, tools=tools).runner:
        case "jest" | "node":
            return True
        case "vitest":
            return any(tool.startswith("@vitest/coverage-") for tool in tools)
        case "mocha":
            return bool({"c8", "nyc"} & tools)
    return False


def plain(name: str, scripts: Mapping[str, str]) -> Run:
    """Return a script as it stands, with what npm runs before and after it."""
    around = (scripts.get(step) for step in (f"pre{name}", name, f"post{name}"))
    return Run(" && ".join(f"({text}\n)" for text in around if text), None)


def _unfold(name: str, scripts: Mapping[str, str], depth: int) -> list[str] | None:
    """Return the programs that a script runs, one after the other, or None where its text is beyond us."""
    found: list[str] = []
    for step in (f"pre{name}", name, f"post{name}"):
        text = scripts.get(step)
        if text is None:
            continue
        if depth > _MAX_DEPTH or len(text) > _MAX_TEXT or _BEYOND.search(text):
            return None
        for part in map(str.strip, text.split("&&")):
            if part.count('"') % 2 or part.count("'") % 2:
                return None
            inner = _called(part, scripts, depth)
            if inner is None:
                return None
            found += inner
    return found or None


def _called(part: str, scripts: Mapping[str, str], depth: int) -> list[str] | None:
    """Return the part itself, or the programs of the script that it calls by npm and its like."""
    call = _CALL.fullmatch(part)
    if call is None or call[1] not in scripts:
        return [part]
    inner = _unfold(call[1], scripts, depth + 1)
    if inner is None or call[2] is None:
        return inner
    return [f"{inner[0]} {call[2]}"] if len(inner) == 1 else None


def _runner(part: str) -> str | None:
    words = part.split()
    if "--" in words or any(word.startswith(("--reporter", "--test-reporter")) for word in words):
        return None
    if "node" in words and "--test" in words[words.index("node") :]:
        return "node"
    return next((word for word in ("vitest", "jest", "mocha") if word in words), None)


def _reporting(part: str, runner: str, *, coverage: bool, tools: set[str]) -> str:
    words = part.split()
    if runner == "node":
        covering = (
            " --experimental-test-coverage" if coverage and not {"c8", "nyc"} & {*words, *tools} else ""
        )
        text = re.sub(r" --test(?= |$)", f" --test{_NODE}{covering}", part, count=1)
    else:
        text = part + _REPORTING[runner] + (_COVERING.get(runner, "") if coverage else "")
    if not coverage or runner in _COVERING:
        return text
    for tool, options in (("c8", _C8), ("nyc", _C8.replace("reports-dir", "report-dir"))):
        if tool in words:
            return re.sub(rf"(?<!\S){tool}(?= )", tool + options, text, count=1)
    if runner == "node" and "c8" not in tools and "nyc" not in tools:
        return text
    return f"nyc{_C8.replace('reports-dir', 'report-dir')} {text}" if "nyc" in tools else f"c8{_C8} {text}"
