"""What a base commit tells: languages, build files, texts; read from the mirror, within bounds."""

from __future__ import annotations

import pytest

from orchestrator.core.survey import MAX_BUILD_FILES, MAX_LANGUAGES, survey_of
from orchestrator.repo import survey as looking
from orchestrator.repo.survey import read_texts, survey
from orchestrator.repo.worktree import Base
from tests.kit.remote import make_remote
from tests.repo.stage import Stage


async def base_of(stage: Stage, files: dict[str, str]) -> Base:
    """Return the base of a remote with these files."""
    url = f"file://{make_remote(stage.remotes, 'surveyed', files=files)}"
    return await stage.repositories.resolve(url, "main")


async def test_languages_are_counted_and_build_files_named(stage: Stage) -> None:
    files = {"a.py": "", "b.PY": "", "src/deep/er/c.ts": "", "Makefile": "", "x/Makefile": "", "odd.": ""}
    base = await base_of(stage, files)
    found = await stage.repositories.survey(base)
    assert found.languages == (("Python", 2), ("TypeScript", 1))
    assert "Makefile" in found.build_files
    assert found.whole
    assert await stage.repositories.survey(base) is found


async def test_of_a_large_tree_a_part_is_looked_at_and_that_is_said(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = await base_of(stage, {f"d{number}/f.go": "" for number in range(5)} | {"go.mod": ""})
    monkeypatch.setattr(looking, "MAX_TREES", 3)
    found = await survey(base)
    assert found.languages == (("Go", 2),)
    assert "go.mod" in found.build_files
    assert not found.whole
    monkeypatch.setattr(looking, "MAX_TREE_BYTES", 1)
    assert await survey(base) == survey_of((), {}, whole=False)


async def test_texts_that_are_there_are_read_and_large_ones_are_left_out(stage: Stage) -> None:
    base = await base_of(stage, {"skills/a.md": "one\n", "skills/big.md": "x" * 1000, "skills/c.md": "two\n"})
    paths = ["skills/none.md", "skills/a.md", "skills/big.md", "skills", "a\nb", "skills/c.md"]
    assert await read_texts(base, paths, max_bytes=100) == {"skills/a.md": "one\n", "skills/c.md": "two\n"}


def test_what_a_survey_tells_is_bounded() -> None:
    suffixes = dict.fromkeys(("py", "go", "rs", "ts", "c", "cpp", "rb", "zig", "evil\u202e"), 1)
    found = survey_of([f"{number}.md" for number in range(999)] + ["\u202eMakefile"], suffixes, whole=True)
    assert len(found.languages) == MAX_LANGUAGES
    assert found.build_files == ()
    assert MAX_BUILD_FILES < 40
