"""Which tests a change takes away, told by its two sides."""

from __future__ import annotations

import pytest

from orchestrator.core.losses import lost_tests
from orchestrator.core.patch import parse_patch
from tests.gates.conftest import patch_of

PY = "def test_a():\n    assert 1\n\n\ndef test_b():\n    assert 2\n"
JS = "test('a', () => {});\nit('b', () => {});\n"
GO = "func TestA(t *testing.T) {\n}\nfunc TestB(t *testing.T) {\n}\n"
RUST = "#[test]\nfn a() {}\n#[tokio::test]\nasync fn b() {}\n"
JAVA = "@Test\nvoid a() {}\n@ParameterizedTest\nvoid b() {}\n"
BASE = {
    "tests/test_a.py": PY,
    "a.test.ts": JS,
    "a_test.go": GO,
    "src/a.rs": RUST,
    "ATest.java": JAVA,
    "run-tests.sh": "true\n",
    "a.py": "x = 1\n",
}


@pytest.mark.parametrize(
    ("path", "text", "told"),
    [
        ("tests/test_a.py", None, "2 tests (tests/test_a.py)"),
        ("tests/test_a.py", PY.replace("test_b", "b"), "1 test (tests/test_a.py)"),
        ("tests/test_a.py", "@pytest.mark.skip\n" + PY, "1 mark that skips (tests/test_a.py)"),
        ("tests/test_a.py", "pytestmark = pytest.mark.xfail\n" + PY, "1 mark that skips (tests/test_a.py)"),
        ("a.test.ts", JS.replace("it(", "it.skip("), "1 mark that skips (a.test.ts)"),
        ("a.test.ts", JS.replace("it(", "// it("), "1 test (a.test.ts)"),
        ("a_test.go", GO.replace("TestB", "B"), "1 test (a_test.go)"),
        ("a_test.go", GO.replace(") {\n}", ") {\n\tt.Skip()\n}", 1), "1 mark that skips (a_test.go)"),
        ("src/a.rs", RUST.replace("#[test]\n", ""), "1 test (src/a.rs)"),
        ("src/a.rs", RUST.replace("fn a", "#[ignore]\nfn a"), "1 mark that skips (src/a.rs)"),
        ("ATest.java", JAVA.replace("@Test", "@Disabled\n@Test"), "1 mark that skips (ATest.java)"),
        ("run-tests.sh", None, "1 file of tests (run-tests.sh)"),
        ("run-tests.sh", "false\n", None),
        ("tests/test_a.py", PY.replace("assert 2", "assert 3"), None),
        ("a.py", None, None),
        ("a_test.go", "//go:build never\n\n" + GO, "1 mark that skips (a_test.go)"),
        ("b_test.go", "//go:build linux\n\n" + GO, None),
        ("tests/__init__.py", "", None),
    ],
)
def test_a_test_that_goes_or_is_kept_from_counting_is_named(path: str, text: str | None, told: str) -> None:
    after = {name: content for name, content in {**BASE, path: text}.items() if content is not None}
    assert lost_tests(parse_patch(patch_of(BASE, after, ()))) == told


def test_a_test_that_moves_or_has_another_in_its_place_is_no_loss() -> None:
    moved = {**BASE, "tests/test_b.py": PY.replace("test_b", "test_c"), "tests/test_a.py": ""}
    assert lost_tests(parse_patch(patch_of(BASE, moved, ()))) is None
    renamed = {name: text for name, text in BASE.items() if name != "run-tests.sh"} | {
        "run-test.sh": "true\n"
    }
    assert lost_tests(parse_patch(patch_of(BASE, renamed, ()))) is None


@pytest.mark.parametrize(
    ("path", "to", "lost"),
    [
        ("tests/test_a.py", "tests/a_checks.py", True),
        ("tests/test_a.py", "tests/conftest.py", True),
        ("tests/test_a.py", "build/test_a.py", True),
        ("tests/test_a.py", "tests/new/b_test.py", False),
        ("a.test.ts", "a.checks.ts", True),
        ("a.test.ts", "__tests__/a.ts", False),
        ("a_test.go", "a_testing.go", True),
        ("a_test.go", "testdata/a_test.go", True),
        ("ATest.java", "A.java", True),
        ("src/a.rs", "src/b.rs", False),
    ],
)
def test_a_test_that_goes_where_no_runner_looks_is_lost(path: str, to: str, lost: bool) -> None:
    after = {**{name: text for name, text in BASE.items() if name != path}, to: BASE[path]}
    told = lost_tests(parse_patch(patch_of(BASE, after, ())))
    assert told == (f"2 tests ({path})" if lost else None)


def test_a_file_of_tests_that_git_cannot_show_is_lost() -> None:
    head = "diff --git a/a.test.ts b/a.test.ts\nindex 1..2 100644\n"
    patch = f"{head}Binary files a/a.test.ts and b/a.test.ts differ\n".encode()
    assert lost_tests(parse_patch(patch)) == "1 file of tests (a.test.ts)"
