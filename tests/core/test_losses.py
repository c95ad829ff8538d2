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
