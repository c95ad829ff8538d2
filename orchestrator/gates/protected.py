"""The paths by which a repository says how it is checked: an edit of one counts for no gate, and is told.

The invariant: what is told is a fact about the change, not a rejection: the gates are run as the base has
these files, and people decide about the rest when they read the branch. Pure. Callers: `gates.mechanical`,
`supervise.judging`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

#: The rule of the event that tells it.
RULE = "protected-path"
#: Orders to machines that check, build or deploy: CI, hooks, and our own.
_FILES = frozenset(
    {
        "orchestrator.toml",
        ".gitlab-ci.yml",
        ".travis.yml",
        ".drone.yml",
        ".woodpecker.yml",
        ".cirrus.yml",
        "Jenkinsfile",
        "appveyor.yml",
        "azure-pipelines.yml",
        "bitbucket-pipelines.yml",
        ".pre-commit-config.yaml",
        "lefthook.yml",
        ".lefthook.yml",
        "CODEOWNERS",
    }
)
_FOLDERS = (
    ".github/",
    ".gitlab/",
    ".gitea/",
    ".forgejo/",
    ".circleci/",
    ".buildkite/",
    ".woodpecker/",
    ".azure-pipelines/",
    ".ci/",
    ".husky/",
    ".githooks/",
)


def protected(changed: Iterable[str], sources: Sequence[str]) -> tuple[str, ...]:
    """Return those of the changed paths that say how the repository is checked; `sources` do by a gate."""
    own = frozenset(sources)
    return tuple(
        path
        for path in changed
        if path in own
        or path in _FILES
        or path.startswith(_FOLDERS)
        or any(path.startswith(f"{source}/") for source in own)
    )
