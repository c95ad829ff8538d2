"""What a candidate adds is read from git's patch, and what of it concerns how it is judged is seen."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from orchestrator.gates.additions import TooLarge, commented, read_additions, silenced
from orchestrator.gates.definition import Definition, Silence
from orchestrator.gates.protected import protected
from orchestrator.repo.compare import read_diff
from orchestrator.repo.git import Git


def patch(place: Path, old: dict[str, str], new: dict[str, str]) -> bytes:
    """Return git's own patch from one set of files to another."""
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@x", "-C", str(place)]
    subprocess.run([*git, "init", "-q"], check=True)
    for files in (old, new):
        for path in old.keys() - files.keys():
            (place / path).unlink()
        for path, text in files.items():
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            if text.startswith("->"):
                (place / path).unlink(missing_ok=True)
                (place / path).symlink_to(text[2:])
                continue
            (place / path).write_text(text)
        subprocess.run([*git, "add", "-A"], check=True)
        subprocess.run([*git, "commit", "-qm", "x"], check=True)
    asked = [*git, "diff-tree", "-r", "-p", "--no-renames", "HEAD^", "HEAD"]
    return subprocess.run(asked, check=True, capture_output=True).stdout


def test_added_lines_are_told_by_file_and_number(tmp_path: Path) -> None:
    old = {"a.py": "1\n2\n3\n4\n5\n6\n7\n8\n9\n", "gone.py": "x\n"}
    new = {"a.py": "0\n1\n2\n3\n4\n5\n6\n7\n9\nten # x", "new é \t.py": "+++ b/other.py\n@@ -1 +1 @@\n"}
    added = read_additions(patch(tmp_path, old, new))
    assert added == {
        "a.py": {1: "0", 10: "ten # x"},
        "new é \t.py": {1: "+++ b/other.py", 2: "@@ -1 +1 @@"},
    }
    assert commented(added) == {"a.py": [10]}


def test_link_to_what_is_not_looked_through_is_refused(tmp_path: Path) -> None:
    silences = (Silence(re.compile("x"), ("*.py",)),)
    definition = Definition(shown=("lint",), argv=("lint",), silences=silences)
    old = {"a.py": "1\n", "b.py": "->c.py", "d.txt": "x\n"}
    rows = (
        ({**old, "a.py": "->d.txt"}, "a.py is a link to d.txt, which is not looked through"),
        ({**old, "b.py": "->d.txt"}, "b.py is a link to d.txt"),
        ({**old, "sub/e.py": "->../d.txt"}, "sub/e.py is a link to ../d.txt"),
        ({**old, "sub/e.py": "->../c.py"}, ""),
        ({**old, "a.py": "->b.py", "z.py": "2\n"}, ""),
    )
    for number, (new, why) in enumerate(rows):
        place = tmp_path / str(number)
        place.mkdir()
        found = silenced("lint", definition, read_additions(patch(place, old, new)))
        assert (found or "").startswith(why)
        assert bool(found) is bool(why)


async def test_file_that_git_takes_for_binary_is_read_all_the_same(tmp_path: Path) -> None:
    patch(tmp_path, {"a.ts": "1\n"}, {"a.ts": "// @ts-nocheck \0\n1\n"})
    git = Git(tmp_path / ".git")
    old, new = (await git.run("rev-parse", "HEAD^", "HEAD")).decode().split()
    told = await read_diff(git, old, new, max_bytes=9999, paths=("*.ts",), text=True)
    assert read_additions(told) == {"a.ts": {1: "// @ts-nocheck \0"}}
    assert not read_additions(await read_diff(git, old, new, max_bytes=9999, paths=("*.ts",)))


def test_change_too_large_to_be_read_is_no_way_around() -> None:
    with pytest.raises(TooLarge, match="16 MiB"):
        read_additions(b"+++ b/a.py\n\n[cut here: the diff is longer than 5 bytes]\n")


def test_paths_by_which_a_repository_is_checked_are_protected() -> None:
    changed = (
        ".github/workflows/ci.yml",
        ".husky/pre-commit",
        "Jenkinsfile",
        "orchestrator.toml",
        "pytest.ini",
        "scripts/check.sh",
        "src/app.py",
        "docs/Jenkinsfile",
        "tests/test_app.py",
    )
    assert protected(changed, ("pytest.ini", "scripts/check.sh")) == changed[:6]
    assert protected(changed, ()) == changed[:4]
