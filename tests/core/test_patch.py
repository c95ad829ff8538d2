"""Patches as git writes them, read line by line; and nothing in a file passes for more than a line of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.patch import PatchMalformed, parse_patch
from tests.kit.remote import git

LIKE_A_PATCH = (
    b"1\n@@ -1 +1 @@\n--- a/x\n+++ b/x\ndiff --git a/x b/x\n\\ No newline at end of file\r\n"
    b"Binary files a/x and b/x differ\n3"
)


@pytest.fixture
def patch(tmp_path: Path) -> bytes:
    """Return the patch of a commit that does all that a commit can, made by git itself."""
    git("init", "-q", cwd=tmp_path)
    old = {"a b": b"1\n2\n3", "gone": b"x\n", "bin": b"\0\1", "kind": b"x\n"}
    new = {"a b": LIKE_A_PATCH, 'ü"\n\t': b"x", "empty": b"", "bin": b"\0\2", "\udcff": b"\xff\x1b[31m\n"}
    for files in (old, new):
        for name, content in files.items():
            (tmp_path / name).write_bytes(content)
        if files is new:
            (tmp_path / "gone").unlink()
            (tmp_path / "kind").unlink()
            (tmp_path / "kind").symlink_to("/etc/passwd")
            (tmp_path / "a b").chmod(0o755)
        git("add", "-A", cwd=tmp_path)
        git("commit", "-qm", "x", cwd=tmp_path)
    return os.fsencode(git_raw(tmp_path))


def git_raw(place: Path) -> str:
    words = ("diff-tree", "-r", "-p", "--no-renames", "--full-index", "HEAD^", "HEAD", "--output=patch")
    git(*words, cwd=place)
    return os.fsdecode((place / "patch").read_bytes())


def test_every_file_is_there_with_the_lines_that_are_shown(patch: bytes) -> None:
    changes = {(change.path, change.removed): change for change in parse_patch(patch)}
    assert {name for name, _ in changes} == {
        "a b", "gone", "bin", "kind", "empty", 'ü"\\x0a\\x09', "\\xff",
    }  # fmt: skip
    odd = changes["a b", False]
    assert odd.notes == ("old mode 100644", "new mode 100755")
    assert odd.numbers == frozenset(range(1, 9))
    [rows] = odd.hunks
    assert [row.text for row in rows if row.mark == "+"][:3] == ["@@ -1 +1 @@", "--- a/x", "+++ b/x"]
    assert [row.text for row in rows if row.mark == "-"] == ["2"]
    assert any(row.text == "\\ No newline at end of file\\x0d" for row in rows)
    assert changes["gone", True].numbers == {0}
    assert changes["bin", False].binary
    assert changes["empty", False].hunks == ()
    assert changes["kind", False].notes == ("new file mode 120000",)
    assert changes["\\xff", False].hunks[0][0].text == "\\xff\\x1b[31m"


@pytest.mark.parametrize("unseen", ["\u3164", "\ufe01", "\U000e0145", "\u2800", "\u00a0", "\u115f", "\u202e"])
def test_what_shows_as_nothing_is_shown_as_an_escape(unseen: str) -> None:
    name = f"a{unseen}b".encode()
    patch = b"diff --git a/%s b/%s\n@@ -0,0 +1 @@\n+const %s = 1\n" % (name, name, unseen.encode())
    (change,) = parse_patch(patch)
    ((row,),) = change.hunks
    shown = row.text.removeprefix("const ").removesuffix(" = 1")
    assert shown.encode().decode("unicode_escape") == unseen
    assert shown.isascii()
    assert change.path == f"a{shown}b"


def test_no_change_is_no_file() -> None:
    assert parse_patch(b"") == ()
    with pytest.raises(PatchMalformed):
        parse_patch(b"\n")


@pytest.mark.parametrize(
    "broken",
    [
        b"hello\n",
        b"diff --git a/x b/y\n",
        b"diff --git a/x b/xx\n",
        b'diff --git "a/x b/x"\n',
        b"diff --git a/x b/x\nwords\n",
        b"diff --git a/x b/x\n@@ -1 +1 @@\n+1\n",
        b"diff --git a/x b/x\n@@ -0,0 +1 @@\n-1\n",
        b"diff --git a/x b/x\n@@ -0,0 +1 @@\n+1\n+2\n",
        b"diff --git a/x b/x\n@@ nonsense @@\n+1\n",
        b"diff --git a/x b/x\n@@ -0,0 +1 @@\n+1",
    ],
)
def test_what_is_no_patch_is_refused(broken: bytes) -> None:
    with pytest.raises(PatchMalformed):
        parse_patch(broken)


def test_a_patch_that_is_cut_anywhere_is_refused_or_has_fewer_files(patch: bytes) -> None:
    whole = parse_patch(patch)
    for end in range(len(patch)):
        try:
            changes = parse_patch(patch[:end])
        except PatchMalformed:
            continue
        assert end == 0 or len(changes) < len(whole) or changes[-1] != whole[-1] or changes == whole


@given(st.binary(max_size=200))
def test_anything_else_is_a_patch_or_malformed(raw: bytes) -> None:
    try:
        parse_patch(b"diff --git a/x b/x\n" + raw)
    except PatchMalformed:
        return
