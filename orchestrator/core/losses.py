"""Which tests a change takes away, told by the change alone: where no run of the base has counted them.

The invariant: it looks at both sides line by line, so that a test that moves or is written anew is no loss,
and one that goes, is renamed to something else, gets a mark that skips it, or goes to a file in which no
runner looks for tests, is one. It knows words, not runners: a loss that it names is plain to see in the diff.
Pure. Caller: `gates.judgement`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from orchestrator.core.patch import FileChange

_JAVASCRIPT = (
    re.compile(r"^\s*(it|test|describe)(\.\w+)*\s*(\(|`)"),
    re.compile(r"\b(it|test|describe|suite)\.(skip|todo|fixme|failing|fails)\b|^\s*x(it|test|describe)\s*\("),
)
_JVM = (
    re.compile(r"^\s*@(Test|ParameterizedTest|RepeatedTest|TestFactory)\b"),
    re.compile(r"^\s*@(Disabled\w*|Ignore)\b"),
)
#: By the end of a file's name: a line that begins a test, and one that keeps tests from counting.
_LANGUAGES: dict[str, tuple[re.Pattern[str], re.Pattern[str]]] = {
    ".py": (
        re.compile(r"^\s*(async\s+)?(def\s+test|class\s+Test)"),
        re.compile(r"^\s*(@|pytestmark\b|pytest\.|self\.|raise\s).*(skip|xfail|expectedFailure|SkipTest)"),
    ),
    ".go": (
        re.compile(r"^func\s+(Test|Fuzz|Example)"),
        re.compile(r"\b\w+\.Skip(f|Now)?\(|^//\s*(\+|go:)build\b"),
    ),
    ".rs": (
        re.compile(r"^\s*#\[([\w:]+::)?(test|rstest|test_case)\b"),
        re.compile(r"^\s*#\[ignore\b"),
    ),
    **dict.fromkeys((".js", ".jsx", ".mjs", ".cjs", ".ts", ".tsx", ".mts", ".cts"), _JAVASCRIPT),
    **dict.fromkeys((".java", ".kt", ".groovy", ".scala"), _JVM),
}
#: By the same: the paths of files in which runners look for tests, where they do so by the name.
_PLACES: dict[str, re.Pattern[str]] = {
    ".py": re.compile(r"(^|/)(test[^/]*|([^/]*[_-])?tests?)\.py$"),
    ".go": re.compile(r"_test\.go$"),
    **dict.fromkeys(
        (".js", ".jsx", ".mjs", ".cjs", ".ts", ".tsx", ".mts", ".cts"),
        re.compile(r"(^|[/._-])_{0,2}(tests?|specs?)_{0,2}[/._-]"),
    ),
    **dict.fromkeys((".java", ".kt", ".groovy", ".scala"), re.compile(r"(?i:test|spec)|IT\.\w+$")),
}
#: Folders that they do not enter.
_ASIDE = re.compile(r"(^|/)(\.[^/]*|testdata|node_modules|vendor|build|dist|venv)/")
#: Files that are a test by their name, in whatever language.
_NAMED = re.compile(r"(^|[._-])(tests?|specs?)([._-]|$)|\.(bats|t)$")
#: As git's pathspecs take them: what has to be read to tell.
PATHS = (*(f"*{suffix}" for suffix in _LANGUAGES), "*test*", "*spec*", "*.bats", "*.t")
_MAX_NAMED = 5


def lost_tests(changes: Iterable[FileChange]) -> str | None:
    """Return in words which tests a change takes away, or keeps from counting; None where it does neither."""
    gone = placed = torn = marks = fresh = files = 0
    where: dict[str, None] = {}
    for change in changes:
        name = change.path.rpartition("/")[2]
        if (known := _LANGUAGES.get(suffix := "." + name.rpartition(".")[2])) is None:
            if _NAMED.search(name):
                files += change.removed - change.added
                where |= dict.fromkeys([change.path] if change.removed else [])
            continue
        fewer = -_balance(change, known[0])
        more = _balance(change, known[1])
        hidden = change.binary and not change.added and _is_place(change.path, suffix)
        gone, files, torn = gone + fewer, files + hidden, torn + max(0, fewer)
        placed += fewer if _is_place(change.path, suffix) else 0
        marks, fresh = (marks, fresh + more) if change.added else (marks + more, fresh)
        where |= dict.fromkeys([change.path] if fewer > 0 or more > 0 or hidden else [])
    # A mark in a new file skips what was never there, unless tests went there from another.
    gone, marks = max(gone, placed), marks + (fresh if torn else 0)
    told = [
        f"{number} {one if number == 1 else many}"
        for number, one, many in (
            (gone, "test", "tests"),
            (marks, "mark that skips", "marks that skip"),
            (files, "file of tests", "files of tests"),
        )
        if number > 0
    ]
    if not told:
        return None
    names = ", ".join(list(where)[:_MAX_NAMED]) + (", ..." if len(where) > _MAX_NAMED else "")
    return f"{' and '.join(told)} ({names})"


def _is_place(path: str, suffix: str) -> bool:
    """Return whether runners look for tests in a file of that path."""
    return not _ASIDE.search(path) and (suffix not in _PLACES or bool(_PLACES[suffix].search(path)))


def _balance(change: FileChange, pattern: re.Pattern[str]) -> int:
    """Return how many lines that fit a pattern the change brings more than it takes away."""
    fits = [row.mark for hunk in change.hunks for row in hunk if row.mark != " " and pattern.search(row.text)]
    return fits.count("+") - fits.count("-")
