"""How many tests ran, read from what the runners print.

The invariant: reading costs a bounded amount however much is printed (the first `SCAN_BYTES` and the tail
are read), and a count is only told where a runner's own summary was recognised. Whoever writes the code
under test can print such a summary too; a count is evidence, and only a count of nothing decides. Caller:
`gates.trial`.
"""

from __future__ import annotations

import json
import re

from sandbox.relay import Tail

SCAN_BYTES = 32 * 1024 * 1024
TAIL_BYTES = 64 * 1024
#: No line of a summary is longer; what is, is skipped.
_MAX_LINE = 16 * 1024

# Hostile programs write what is searched here. So no pattern spans lines, repeats without a bound what the
# next part could match too, or reads a number without end.
_ANSI = re.compile(rb"\x1b\[[0-?]*[ -/]*[@-~]")
_NUMBERED = re.compile(rb"(\d{1,9}) (\w{1,20})")


def _line(pattern: bytes) -> re.Pattern[bytes]:
    """Compile a pattern that matches from the start of a line: `_` is white space, `#` a number."""
    return re.compile(b"^" + pattern.replace(b"_", rb"[ \t]+").replace(b"#", rb"(\d{1,9})"), re.MULTILINE)


#: For each runner: a literal that its summary holds (looked for first: it is cheap), and the summary.
_PATTERNS: tuple[tuple[str, bytes, re.Pattern[bytes]], ...] = (
    ("words", b" in ", _line(rb"=*[ ]?((?:\d{1,9} [a-z]{1,20}(?:, )?){1,12}) in \d[\d.]*s\b")),
    ("none", b"no tests ran in ", _line(rb"=*[ ]?no tests ran in \d")),
    ("sum", b"Ran ", _line(rb"Ran # tests? in \d")),
    ("less", b"skipped=", _line(rb"(?:OK|FAILED) \([^\n]{0,100}?\bskipped=#")),
    ("none", b"NO TESTS RAN", _line(rb"NO TESTS RAN\b")),
    ("one", b"--- ", _line(rb"--- (?:PASS|FAIL): ")),
    ("none", b"[no test", _line(rb"\?_\S+_\[no test files\]")),
    ("none", b"[no tests to run]", _line(rb"ok_\S+_\S+_\[no tests to run\]")),
    ("unknown", b"ok", _line(rb"ok_\S+_(?:\d[\d.]*s|\(cached\))(?:_coverage: [^\n]*)?$")),
    ("begun", b"running ", _line(rb"running \d{1,9} tests?$")),
    ("ended", b"test result: ", _line(rb"test result: \w")),
    ("sum", b"test result: ", _line(rb"test result: \w+\. # passed; # failed; \d+ ignored")),
    ("sum", b"pass", _line(rb"(?:\x23 |\xe2\x84\xb9 )(?:pass|fail|cancelled) #$")),
    ("plan", b"1..", _line(rb"1\.\.#")),
    ("sum", b"Tests=", _line(rb"Files=\d+, Tests=#,")),
    ("sum", b" failures", _line(rb"# (?:tests?|examples?), \d+ failures?")),
    ("words", b"Tests:", _line(rb"Tests:_([^\n]{0,200}) total")),
    ("none", b"No test", _line(rb"No test(?:s| files) found")),
    ("words", b" Tests  ", _line(rb"_Tests  (\d[^\n]{0,200})\(\d+\)")),
    ("sum", b"ing", _line(rb"_# (?:passing|failing)\b")),
)
#: The outcomes of a test that ran, in the words of pytest, jest and vitest.
_RAN = {b"passed", b"failed", b"error", b"errors", b"xfailed", b"xpassed"}

#: The coverage of the whole in what the usual tools print: istanbul and c8, coverage.py, Go, node.
TOTALS = re.compile(
    rb"^(?:All files[ ]*\|(?:[^|\n]{1,40}\|){3}[ ]*|TOTAL[ ][ \d]{1,200}[ ]"
    rb"|total:[ \t]+\(statements\)[ \t]+|(?:\x23|\xe2\x84\xb9) all files[ ]*\|[ ]*)(\d{1,3}(?:\.\d{1,6})?)",
    re.MULTILINE,
)

_GO_EVENT = _line(
    rb'\{"Time":"[^"\n]*","Action":"(pass|fail|skip)","Package":"([^"\n]{1,500})"(,"Test":"[^"\n]*")?'
)
#: How a package says that it has no test at all, among the outputs of `go test -json`.
_GO_NONE = _line(
    rb'\{"Time":"[^"\n]*","Action":"output","Package":"([^"\n]{1,500})","Output":"testing: warning: no tests'
)
_MAX_PACKAGES = 10_000
#: What is counted, but is no count of tests.
_NO_COUNT = {"none", "unknown", "plan", "begun", "ended"}


def told_by_go(raw: bytes) -> bytes:
    """Return what `go test -json` reports as a person would have seen it."""
    told = []
    for line in raw.splitlines(keepends=True):
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            told.append(line)
            continue
        if isinstance(event, dict) and isinstance(text := event.get("Output"), str):
            told.append(text.encode(errors="replace"))
    return b"".join(told)


class Tally:
    """Counts the tests in the output of a run, as it comes."""

    def __init__(self) -> None:
        #: What was printed last, both streams together: the evidence.
        self.tail = Tail(TAIL_BYTES)
        self._pending = {"stdout": b"", "stderr": b""}
        self._scanned = 0
        self._counts: dict[str, int] = {}
        #: Go's packages that passed, and those that told of a test or that they have none.
        self._passed: set[bytes] = set()
        self._told: set[bytes] = set()

    def add(self, stream: str, chunk: bytes) -> None:
        """Take the next bytes of a stream."""
        self.tail.add(chunk)
        if self._scanned > SCAN_BYTES:
            return
        self._scanned += len(chunk)
        whole, newline, rest = (self._pending[stream] + chunk).rpartition(b"\n")
        self._pending[stream] = rest[-_MAX_LINE:]
        if newline:
            self._scan(whole)

    def finish(self) -> None:
        """Read what is left at the end: unfinished lines, or the tail of an output too long to read."""
        if self._scanned > SCAN_BYTES:
            self._scan(self.tail.bytes().partition(b"\n")[2])
            return
        for stream, pending in self._pending.items():
            self._scan(pending)
            self._pending[stream] = b""

    @property
    def ran(self) -> int | None:
        """How many tests ran, or None where no summary was recognised or one tells no number."""
        counts = self._counts
        if not counts:
            return None
        known = {key: count for key, count in counts.items() if key not in _NO_COUNT}
        total = sum(known.values())
        if not known and "plan" in counts:  # TAP without a summary of node's kind
            total = counts["plan"]
        if total <= 0 and "unknown" in counts:
            return None
        return max(0, total)

    @property
    def cut_short(self) -> bool:
        """Whether a part of the tests ended without telling what came of it, as code does that exits."""
        unfinished = self._counts.get("begun", 0) > self._counts.get("ended", 0)
        return unfinished or bool(self._passed - self._told)

    def _scan(self, text: bytes) -> None:
        if b"\x1b" in text:
            text = _ANSI.sub(b"", text)
        if text.startswith(b"{") or b"\n{" in text:
            self._scan_go(text)
        for runner, literal, pattern in _PATTERNS:
            if literal in text:
                for match in pattern.finditer(text):
                    self._count(*_read(runner, match))

    def _scan_go(self, text: bytes) -> None:
        for match in _GO_EVENT.finditer(text):
            if match[3] is not None:
                self._count("go-json", match[1] != b"skip")
            elif match[1] == b"skip":  # a package without a file of tests
                self._count("none", 0)
            if len(self._passed) + len(self._told) < _MAX_PACKAGES and match[1] != b"fail":
                (self._passed if match[3] is None and match[1] == b"pass" else self._told).add(match[2])
        for match in _GO_NONE.finditer(text):
            self._told.add(match[1])

    def _count(self, key: str, number: int) -> None:
        self._counts[key] = self._counts.get(key, 0) + number


def _read(kind: str, match: re.Match[bytes]) -> tuple[str, int]:
    """Return under which key a summary counts, and how much."""
    match kind:
        case "words":
            return kind, sum(int(count) for count, word in _NUMBERED.findall(match[1]) if word in _RAN)
        case "one" | "begun" | "ended":
            return kind, 1
        case "less":
            return kind, -int(match[1])
    return kind, sum(map(int, match.groups()))
