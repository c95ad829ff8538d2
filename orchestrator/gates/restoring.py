"""A definition whose command runs where the base's files are in the place of the candidate's.

The invariant: nothing of the candidate's that says what is checked is left when the command starts; what
would take the place of its tools ends it. Callers: the modules of `gates` that know a language,
`gates.settings`, and `gates.nested`, which learns from the candidate's changes what else is to be put back.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import replace

from orchestrator.gates.definition import OURS, Below, Definition, Kind, Silence

# $@: names to remove, `--`, names that must not be there, `--`, the command. Input: the base's files.
_PRELUDE = """
complain() { echo "orchestrator: $1" >&2; exit 125; }
command -v tar >/dev/null || complain "tar is missing: install it under /usr or into the image"
while [ "$1" != -- ]; do rm -rf -- "./$1" || complain "cannot restore $1"; shift; done
shift
tar -xf - --no-same-owner || complain "cannot restore the files that define the tests"
nl='
'
made=$nl
[ ! -f .git/info/made ] || while IFS= read -r name; do made=$made${name%/}$nl; done <.git/info/made
while [ "$1" != -- ]; do
  case $made in *"$nl$1$nl"*) shift; continue;; esac
  [ ! -e "./$1" ] && [ ! -L "./$1" ] ||
    complain "the candidate adds $1, which would take the place of the test runner"
  shift
done
shift
exec "$@" </dev/null
"""


#: Where in the arguments of such a command the names to remove begin.
_FIRST_NAME = 4


def restoring(
    *,
    shown: tuple[str, ...],
    command: tuple[str, ...],
    files: Mapping[str, bytes],
    remove: Iterable[str] = (),
    forbidden: Iterable[str] = (),
    env: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
    counted: bool = False,
    nonce: str | None = None,
    kind: Kind = Kind.TESTS,
    minimum: float | None = None,
    percent: re.Pattern[bytes] | None = None,
    sources: tuple[str, ...] | None = None,
    silences: tuple[Silence, ...] = (),
    below: Below | None = None,
) -> Definition:
    """Return a definition that first puts the base's files in the place of the candidate's.

    `remove` names what would define the run too, had the candidate added it; `forbidden`, what the candidate
    may not have at all.
    """
    gone = dict.fromkeys((OURS, *remove, *files))
    argv = ("/bin/sh", "-c", _PRELUDE, "gate", *gone, "--", *forbidden, "--", *command)
    return Definition(
        shown=shown,
        argv=argv,
        stdin=_archive(files),
        env=env or {},
        timeout_s=timeout_s,
        counted=counted,
        nonce=nonce,
        kind=kind,
        minimum=minimum,
        percent=percent,
        sources=(*remove, *files) if sources is None else sources,
        silences=silences,
        below=below,
    )


def also(definition: Definition, files: Mapping[str, bytes], gone: Iterable[str]) -> Definition:
    """Return a definition by `restoring` that puts further files of the base back, and removes others."""
    names = tuple(dict.fromkeys((*gone, *files)))
    if not names:
        return definition
    with tarfile.open(fileobj=io.BytesIO(definition.stdin)) as archive:
        opened = {entry.name: archive.extractfile(entry) for entry in archive}
        before = {name: file.read() for name, file in opened.items() if file}
    argv = (*definition.argv[:_FIRST_NAME], *names, *definition.argv[_FIRST_NAME:])
    sources = (*definition.sources, *names)
    return replace(definition, argv=argv, stdin=_archive({**before, **files}), sources=sources)


def _archive(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = 0o755 if content.startswith(b"#!") else 0o644
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
