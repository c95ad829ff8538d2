"""How tests are run is found in the base, in a documented order, or refused in words that help."""

from __future__ import annotations

import io
import tarfile

import pytest

from orchestrator.gates.definition import Definition, Unrunnable, plain_path, scripts_named, shadows
from orchestrator.gates.local import find
from tests.gates.conftest import base_with


async def find_in(base: dict[str, str], gate: str = "tests") -> Definition:
    return await find(gate, base_with(base))


def restored(definition: Definition) -> dict[str, str]:
    with tarfile.open(fileobj=io.BytesIO(definition.stdin)) as archive:
        return {name: archive.extractfile(name).read().decode() for name in archive.getnames()}  # type: ignore[union-attr]


OWN = {"orchestrator.toml": '[gates.tests]\ncommand = ["./t"]\n'}
MAKE = {"Makefile": "test:\n\ttrue\n"}
PYTHON = {"pyproject.toml": "", "tests/test_a.py": ""}
NODE = {"package.json": '{"scripts": {"test": "node --test"}}'}
GO = {"go.mod": "module x\n"}
RUST = {"Cargo.toml": ""}


async def test_order_is_own_word_make_python_node_go_rust() -> None:
    kinds = [
        (OWN, ("./t",)),
        (MAKE, ("make", "test")),
        (PYTHON, ("python3", "-m", "pytest")),
        (NODE, ("npm", "test")),
        (GO, ("go", "test", "./...")),
        (RUST, ("cargo", "test")),
    ]
    while kinds:
        everything = {path: text for base, _ in kinds for path, text in base.items()}
        assert (await find_in(everything)).shown == kinds.pop(0)[1]
    with pytest.raises(Unrunnable, match=r"add an orchestrator\.toml with \[gates\.tests\]"):
        await find_in({"README": ""})


@pytest.mark.parametrize(
    "base",
    [
        {"setup.py": ""},
        {"test_a.py": ""},
        {"a_test.py": ""},
        {"tests/a.py": ""},
        {"conftest.py": ""},
        {"tox.ini": ""},
    ],
)
async def test_python_is_known_by_its_marks(base: dict[str, str]) -> None:
    assert (await find_in(base)).shown == ("python3", "-m", "pytest")


async def test_folder_of_tests_alone_makes_no_python_of_another_language() -> None:
    assert (await find_in({**RUST, "tests/it.rs": ""})).shown == ("cargo", "test")


@pytest.mark.parametrize(
    "text",
    ["test :\n", "test:: x\n", "lint test: x\n", "test check:\n", ".PHONY: test\ntest: a b\n\tx\n"],
)
async def test_makefile_counts_where_it_has_the_target(text: str) -> None:
    assert (await find_in({"Makefile": text})).shown == ("make", "test")


@pytest.mark.parametrize("text", ["test := 1\n", "tests:\n", "all: test\n", "\ttest: x\n", "test = x\n"])
async def test_makefile_does_not_count_without_the_target(text: str) -> None:
    with pytest.raises(Unrunnable):
        await find_in({"Makefile": text})


async def test_makefile_is_restored_with_all_that_it_includes_and_runs() -> None:
    base = {
        "Makefile": (
            "include a.mk deep/b.mk $(computed)\n-include missing.mk\ntest:\n\t./run.sh && sh deep/x.sh\n"
        ),
        "a.mk": "include deep/c.mk\n",
        "deep/b.mk": "",
        "deep/c.mk": "include ../../outside.mk a.mk\n",
        "run.sh": "#!/bin/sh\n",
        "deep/x.sh": "",
        "app.py": "",
    }
    names = set(restored(await find_in(base)))
    assert names == {"Makefile", "a.mk", "deep/b.mk", "deep/c.mk", "run.sh", "deep/x.sh"}


async def test_script_that_npm_wrote_is_no_test() -> None:
    unset = '{"scripts": {"test": "echo \\"Error: no test specified\\" && exit 1"}}'
    for text in (unset, "{}", '{"scripts": []}', '{"scripts": {"test": 1}}'):
        with pytest.raises(Unrunnable, match="does not say how"):
            await find_in({"package.json": text})


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"orchestrator.toml": "[gates.tests]\n"}, "command must be a text or a list"),
        ({"orchestrator.toml": "[gates.tests]\ncommand = []\n"}, "command must be"),
        ({"orchestrator.toml": "[gates.tests]\ncommand = [1]\n"}, "command must be"),
        ({"orchestrator.toml": '[gates.tests]\ncommand = "  "\n'}, "command must be"),
        ({"orchestrator.toml": '[gates.tests]\ncommand = "a\\u0000"\n'}, "command must be"),
        ({"orchestrator.toml": '[gates.tests]\ncommand = "x"\ntimeout = -1\n'}, "timeout must be"),
        ({"orchestrator.toml": '[gates.tests]\ncommand = "x"\ntimeout = true\n'}, "timeout must be"),
        ({"orchestrator.toml": '[gates.tests]\ncommand = "x"\nextra = 1\n'}, "takes command and timeout"),
        ({"orchestrator.toml": "gates = 1\n"}, "takes command and timeout"),
        ({"orchestrator.toml": "[gates\n"}, r"orchestrator\.toml in the base commit cannot be read"),
        ({"package.json": "{"}, r"package\.json in the base commit cannot be read"),
        ({"package.json": "[]"}, "is no object"),
        ({"package.json": "[" * 100_000}, "cannot be read"),
        ({"pyproject.toml": "]"}, r"pyproject\.toml in the base commit cannot be read"),
        ({"Makefile": "test:\ninclude big.mk\n", "big.mk": "#" * (1 << 21)}, "too large"),
    ],
)
async def test_base_that_cannot_be_followed_is_refused_in_words(
    files: dict[str, str], complaint: str
) -> None:
    with pytest.raises(Unrunnable, match=complaint):
        await find_in(files)


async def test_own_word_about_other_gates_leaves_the_tests_to_be_found() -> None:
    other = {"orchestrator.toml": '[gates.lint]\ncommand = "x"\n[deploy]\ncommand = "y"\n'}
    assert (await find_in({**other, **MAKE})).shown == ("make", "test")


async def test_time_limit_comes_from_the_base() -> None:
    text = '[gates.tests]\ncommand = "./t"\ntimeout = 2.5\n'
    assert (await find_in({"orchestrator.toml": text})).timeout_s == 2.5


def test_programs_of_the_repository_are_told_from_its_test_files() -> None:
    text = (
        "./run --all && sh ci/check.sh; python3 -u scripts/all.py; python3 test_a.py\n"
        "node test.js; node a.spec.js\n"
        "./../up.sh /abs/x.sh bash -e x.bash; python -m pytest tests; deno run tools/t.ts"
    )
    assert set(scripts_named(text)) == {"run", "ci/check.sh", "scripts/all.py", "x.bash", "tools/t.ts"}


def test_paths_that_lead_out_of_the_repository_are_none() -> None:
    assert plain_path("./a//b") == "a/b"
    for path in ("/a", "../a", "a/../../b", "", ".", ".git/config"):
        assert plain_path(path) is None


def test_names_of_runners_are_forbidden_only_where_they_would_matter() -> None:
    assert "pytest.py" in shadows("python -m pytest", ())
    assert "pytest.py" not in shadows("python -m pytest", ("pytest.py",))
    assert shadows("cargo test", ()) == ()


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "text", ["@" * 1_000_000, "sh " + "-a " * 300_000, "a." * 500_000, "test " * 200_000]
)
async def test_hostile_base_is_read_in_bounded_time(text: str) -> None:
    scripts_named(text)
    with pytest.raises(Unrunnable):
        await find_in({"Makefile": text})
