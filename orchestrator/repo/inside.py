"""Git on what an agent wrote: only ever inside a sandbox, its words taken as claims.

The invariant: the host learns from here one word and some text, and believes neither; what counts is what
arrived in quarantine. Every run ends by its deadline, and nothing of it is left. Callers: `worktree` and
`quarantine`.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from orchestrator.core.text import tail_of
from sandbox.base import Backend, Spec

_TAIL_BYTES = 16 * 1024
_DETAIL_CHARS = 600

#: What every script begins with: `say WORD` ends the run; `g` is git without the agent's hooks and habits.
_PRELUDE = """exec 2>&1 </dev/null
top=$(pwd) || exit 1
say() { printf '\\n%s %s\\n' "$MARK" "$1"; exit 0; }
g() {
  git -c core.hooksPath=/dev/null -c core.fsmonitor=false -c gc.auto=0 -c maintenance.auto=false \\
      -c commit.gpgSign=false -c push.gpgSign=false -c push.followTags=false -c push.recurseSubmodules=no \\
      -c submodule.recurse=false -c protocol.fd.allow=always -c core.quotePath=true "$@"
}
"""

#: What is said of files that a collection finds and leaves out, where there is nothing else, by its word.
LEFT_OUT = {
    "stashed": "nothing landed: the work is in a git stash, which is not collected and is gone now",
    "ignored": "nothing landed: all files written are ignored by git (.gitignore, .git/info/exclude)",
}

#: Commit what was left uncommitted and push HEAD into quarantine. `$FRESH` is a repository of ours to use in
#: place of the agent's, where that one is of no use; the files are what counts then.
COLLECT = (
    _PRELUDE
    + """
if [ -n "$FRESH" ]; then
  export GIT_DIR="$FRESH" GIT_WORK_TREE="$top"
  # Git would wait for ever at a FIFO called .gitignore.
  find . -xdev \\( -type p -o -type s \\) -exec rm -f -- {} +
else
  export GIT_DIR="$top/.git" GIT_WORK_TREE="$top"
  rm -f .git/index.lock .git/HEAD.lock
fi
add() {
  answer=$(g add -A "$@" . 2>&1)
  ended=$?
  printf '%s\\n' "$answer" | head -c 4096
  case $answer in *"ermission denied"*) return 1 ;; esac  # a directory that cannot be read is but a warning
  return $ended
}
if ! add; then
  # Files that their owner has forbidden himself.
  for round in 1 2 3; do
    find . -xdev \\( -type f ! -perm -u=r -o -type d ! -perm -u=rwx \\) -exec chmod u+rwX {} +
  done
  add || { [ -n "$FRESH" ] && add --ignore-errors; } || [ -n "$FRESH" ] || say broken
fi
tree=$(g write-tree) || say broken
# Three answers, or one where HEAD leads nowhere.
set -- $(g rev-parse "$BASE^{tree}" 'HEAD^{commit}' 'HEAD^{tree}' 2>/dev/null)
[ $# = 3 ] || set -- "$1" "$BASE" "$1"
[ -n "$1" ] || say broken
if [ "$tree" = "$1" ]; then
  g rev-parse -q --verify refs/stash >/dev/null 2>&1 && say stashed
  made=$GIT_DIR/info/made
  [ -f "$made" ] && [ ! -L "$made" ] || made=/dev/null
  [ -z "$(g ls-files -z -o -i --exclude-standard --directory 2>/dev/null | tr '\\0' '\\n' |
    grep -vxF -f "$made" | head -n 1)" ] || say ignored
  say unchanged
fi
head=$2
if [ "$tree" != "$3" ]; then
  head=$(printf '%s\\n' "$MESSAGE" | g commit-tree "$tree" -p "$head") || say broken
  g update-ref HEAD "$head"
fi
answer=$(g push --porcelain "fd::$FD" "$head:$REF" 2>&1)
ended=$?
printf '%s\\n' "$answer"
[ $ended != 0 ] || say pushed
case $answer in *"unpacker error"* | *"remote unpack failed"* | *"[remote rejected]"*) say refused ;; esac
say broken
"""
)

#: Bring the agent's files from one tree to another, with a repository of ours (`$FRESH`), and its own
#: repository to the commit that they belong to now. `$REPLACE` puts ours in the place of the agent's own.
MOVE = (
    _PRELUDE
    + """
export GIT_DIR="$FRESH" GIT_WORK_TREE="$top"
find . -xdev \\( -type p -o -type s \\) -exec rm -f -- {} +
g read-tree "$FROM" || say broken
g update-index -q --refresh >/dev/null
# First with care for what was written since; then without, since the files have to be these.
move() { g read-tree -m -u "$FROM" "$TREE" 2>/dev/null || g read-tree --reset -u "$TREE"; }
if ! move; then
  find . -xdev \\( -type f -o -type d \\) -exec chmod u+rwX {} +
  move || say broken
fi
own() {
  rm -f .git/index.lock .git/HEAD.lock .git/MERGE_HEAD .git/CHERRY_PICK_HEAD .git/info/made
  # What the set-up of the new base made is left out, and no more what that of the older one did.
  [ ! -f .git/info/exclude ] || sed -i "/^$MADE$/,/^$/d" .git/info/exclude || return 1
  if [ -f "$FRESH/info/made" ]; then
    mkdir -p .git/info && cp "$FRESH/info/made" .git/info/made || return 1
    { echo; cat "$FRESH/info/exclude"; } >>.git/info/exclude || return 1
  fi
  g update-ref "refs/heads/before-$(printf %.12s "$ONTO")" HEAD 2>/dev/null
  g update-ref HEAD "$ONTO" && g read-tree "$ONTO" || return 1
  [ "$(g rev-parse -q --verify 'HEAD^{commit}')" = "$ONTO" ]
}
if [ -z "$REPLACE" ]; then
  export GIT_DIR="$top/.git"
  own || say useless
else
  rm -rf .git && cp -R "$FRESH" .git && printf '%s\\n' "$OBJECTS" > .git/objects/info/alternates || say broken
  export GIT_DIR="$top/.git"
  own || say broken
fi
g update-ref "refs/remotes/origin/$BRANCH" "$ONTO" 2>/dev/null
say done
"""
)

#: Turn the files of one commit of ours into those of another; nothing here was written by an agent but the
#: files.
CHECKOUT = _PRELUDE + 'g read-tree -m -u "$BASE" "$COMMIT" || say broken\nsay done\n'


@dataclass(frozen=True, slots=True)
class Claim:
    """What a run in a sandbox says: its word (empty: it ended without one), and its last output."""

    word: str
    detail: str


def script_spec(spec: Spec, script: str, env: Mapping[str, str]) -> tuple[Spec, str]:
    """Return a spec that runs one of the scripts, and the mark by which its word is known."""
    mark = secrets.token_hex(8)
    settings = {
        "MARK": mark,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_OPTIONAL_LOCKS": "0",
        "LC_ALL": "C",
        **env,
    }
    return replace(spec, command=("/bin/sh", "-c", script), env={**spec.env, **settings}), mark


async def run_script(
    backend: Backend, spec: Spec, mark: str, *, deadline_s: float, started: Callable[[], None] | None = None
) -> Claim:
    """Run a script in a fresh sandbox and return what it claims; the sandbox is gone on return.

    Calls `started` once the command runs, when descriptors passed to it may be closed here.
    """
    tail = bytearray()
    said = re.compile(rb"\n" + mark.encode() + rb" ([a-z]+)\n")
    found = None
    with backend.clock.move_on_after(deadline_s):
        async with backend.open(spec) as sandbox:
            if started is not None:
                started()
            while found is None and (chunk := await sandbox.stdout.receive_some()):
                tail += chunk
                del tail[:-_TAIL_BYTES]
                found = said.search(tail)
    text = bytes(tail[: found.start()] if found else tail)
    return Claim(found[1].decode() if found else "", tail_of(text, _DETAIL_CHARS).strip())
