"""Counts are read from the summaries of the usual runners, and reading never gets expensive."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.gates.tally import SCAN_BYTES, Tally, told_by_go

SUMMARIES = [
    ("===== 3 passed, 1 skipped in 0.12s =====", 3),
    ("1 failed, 2 passed, 1 error, 1 xfailed, 2 warnings in 61.02s (0:01:01)", 5),
    ("\x1b[32m\x1b[1m12 passed\x1b[0m\x1b[32m in 0.01s\x1b[0m", 12),
    ("no tests ran in 0.00s", 0),
    ("4 deselected in 0.01s", 0),
    ("Ran 5 tests in 0.003s\n\nOK (skipped=2)", 3),
    ("Ran 1 test in 0.000s\n\nFAILED (failures=1)", 1),
    ("Ran 0 tests in 0.000s\n\nNO TESTS RAN", 0),
    ("=== RUN   TestA\n--- PASS: TestA (0.00s)\n--- SKIP: TestB (0.00s)\nPASS\nok  \tx\t0.01s", 1),
    ("ok  \tx\t0.01s\n?   \tx/y\t[no test files]", None),
    ("?   \tx\t[no test files]\nok  \ty\t0.01s [no tests to run]", 0),
    ('{"Time":"t","Action":"pass","Package":"x","Test":"TestA","Elapsed":0}', 1),
    ('{"Time":"t","Action":"skip","Package":"x","Test":"TestA","Elapsed":0}', 0),
    ('{"Time":"t","Action":"pass","Package":"x","Elapsed":0}', None),
    (
        "test result: ok. 2 passed; 0 failed; 1 ignored\ntest result: ok. 1 passed; 0 failed; 0 ignored",
        3,
    ),
    ("test result: ok. 0 passed; 0 failed; 3 ignored", 0),
    ("TAP version 13\nok 1 - a\n1..1\n# tests 1\n# pass 1\n# fail 0\n# cancelled 0\n# skipped 0", 1),
    ("\u2139 tests 3\n\u2139 pass 2\n\u2139 fail 0\n\u2139 cancelled 0\n\u2139 skipped 1", 2),
    ("1..0 # SKIP", 0),
    ("1..4\nok 1\nok 2\nok 3\nok 4", 4),
    ("Files=2, Tests=9,  1 wallclock secs", 9),
    ("Tests:       1 failed, 2 skipped, 4 passed, 7 total", 5),
    ("No tests found, exiting with code 0", 0),
    ("No test files found, exiting with code 0", 0),
    ("      Tests  4 passed | 1 skipped (5)", 4),
    ("  7 passing (12ms)\n  1 pending\n  2 failing", 9),
    ("  0 passing (1ms)", 0),
    ("all good", None),
    ("", None),
]


def counted(text: bytes, size: int = 1 << 20) -> int | None:
    tally = Tally()
    for start in range(0, len(text), size):
        tally.add("stdout", text[start : start + size])
    tally.finish()
    return tally.ran


@pytest.mark.parametrize(("said", "ran"), SUMMARIES)
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_summary_is_recognised_however_it_comes(said: str, ran: int | None, size: int) -> None:
    assert counted(said.encode(), size) == ran
    assert counted(f"noise\n{said}\nmore noise\n".encode(), size) == ran


def test_summary_at_the_end_of_a_flood_is_found() -> None:
    tally = Tally()
    line = b"y\n" * 32768
    for _ in range(SCAN_BYTES // len(line) + 10):
        tally.add("stdout", line)
    tally.add("stderr", b"Ran 3 tests in 1.0s\n")
    tally.finish()
    assert tally.ran == 3


@given(st.binary(max_size=300))
def test_any_bytes_can_be_counted(text: bytes) -> None:
    counted(text, 16)


@pytest.mark.parametrize(
    "hostile",
    [
        b"Tests: " + b"1" * 16000,
        b"\n" * 16000,
        b" " * 16000 + b"1 passin",
        b"1 passed, " * 1600,
        b"ok " + b"x " * 8000,
        b"OK (" + b"skipped" * 2000,
        b'{"Time":"' + b"x" * 16000,
        b"\x1b[" * 8000,
        b"=" * 16000,
    ],
    ids=range(9),
)
@pytest.mark.timeout(10)
def test_hostile_output_is_read_in_bounded_time(hostile: bytes) -> None:
    counted((hostile + b"\n") * 300)


def test_line_of_a_test_that_is_nested_without_end_is_shown_as_it_is() -> None:
    deep = b"[" * 100_000
    assert told_by_go(deep + b'\n{"Output": "ok\\n"}\n') == deep + b"\nok\n"
