"""What a repository is made of, as far as the names of its files tell.

Pure. The invariant: the answer is bounded, whatever the repository, and its languages are words of ours.
Made by `repo.survey`; told by `agents.prompt`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

#: How many languages and build files are told.
MAX_LANGUAGES = 6
MAX_BUILD_FILES = 16

_LANGUAGES = {
    "c": "C", "h": "C", "cc": "C++", "cpp": "C++", "hpp": "C++", "cs": "C#", "css": "CSS", "dart": "Dart",
    "ex": "Elixir", "exs": "Elixir", "go": "Go", "hs": "Haskell", "html": "HTML", "java": "Java",
    "js": "JavaScript", "jsx": "JavaScript", "mjs": "JavaScript", "kt": "Kotlin", "lua": "Lua", "php": "PHP",
    "pl": "Perl", "py": "Python", "pyi": "Python", "r": "R", "rb": "Ruby", "rs": "Rust", "scala": "Scala",
    "sh": "Shell", "bash": "Shell", "sql": "SQL", "swift": "Swift", "tf": "Terraform", "ts": "TypeScript",
    "tsx": "TypeScript", "vue": "Vue", "zig": "Zig",
}  # fmt: skip
#: At the top of a repository, these say how it is built, tested or worked on.
_BUILD_FILES = {
    "AGENTS.md", "BUILD.bazel", "CLAUDE.md", "CMakeLists.txt", "CONTRIBUTING.md", "Cargo.toml",
    "Dockerfile", "GNUmakefile", "Gemfile", "Makefile", "README.md", "build.gradle", "build.gradle.kts",
    "composer.json", "deno.json", "go.mod", "justfile", "makefile", "meson.build", "mix.exs",
    "noxfile.py", "orchestrator.toml", "package-lock.json", "package.json", "pnpm-lock.yaml", "pom.xml",
    "pyproject.toml", "requirements.txt", "setup.cfg", "setup.py", "tox.ini", "tsconfig.json", "uv.lock",
    "yarn.lock",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Survey:
    """A look at the tree of a commit; `whole` says that nothing of it was left out."""

    #: Languages with their number of files, the most first.
    languages: tuple[tuple[str, int], ...] = ()
    #: Files at the top that say how it is built, tested or worked on.
    build_files: tuple[str, ...] = ()
    whole: bool = True


def survey_of(top: Iterable[str], suffixes: Mapping[str, int], *, whole: bool) -> Survey:
    """Return what the names at the top, and how often each suffix (lower case, no dot) was seen, tell."""
    languages: Counter[str] = Counter()
    for suffix, number in suffixes.items():
        if language := _LANGUAGES.get(suffix):
            languages[language] += number
    ordered = sorted(languages.items(), key=lambda pair: (-pair[1], pair[0]))
    files = sorted(_BUILD_FILES.intersection(top))
    return Survey(tuple(ordered[:MAX_LANGUAGES]), tuple(files[:MAX_BUILD_FILES]), whole)
