"""From POST to the agent's first instruction, beside the same steps done by hand in a shell.

The floor is a shell script that mounts an overlay over a ready checkout, enters bubblewrap with the same
namespaces and executes the same command; as root it changes to the same user first. Both take turns in one
run, on a repository of 300 and one of 50,000 files. The client asks nothing while the agent starts: on few
cores its questions would be measured as well. Prints one JSON line a figure: milliseconds, and the ratio to
the floor.
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
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.kit.remote import git
from tests.kit.service import Service
from tests.kit.until import pause

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "40"))
SIZES = (300, 50_000)
#: How long the client keeps quiet after its POST was answered.
QUIET_S = 0.15

FLOOR = r"""
set -eu
dir=$1 base=$2
mkdir -p "$dir/up/.git" "$dir/work" "$dir/merged"
cp "$base.index" "$dir/up/.git/index"
exec unshare --user --map-root-user --mount sh -c '
  mount -t overlay overlay -o "lowerdir=$2,upperdir=$1/up,workdir=$1/work,userxattr" "$1/merged"
  exec bwrap --unshare-all --unshare-user --disable-userns --die-with-parent --new-session --clearenv \
    --cap-drop ALL --uid 1000 --gid 1000 \
    --ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib --symlink usr/lib64 /lib64 \
    --proc /proc --ro-bind /proc/sys /proc/sys --dev /dev --tmpfs /tmp --tmpfs /home/agent \
    --bind "$1/merged" /workspace --chdir /workspace --setenv PATH /usr/bin:/bin -- date +%s%N
' sh "$dir" "$base"
"""


def make_repository(root: Path, files: int) -> Path:
    """Make a bare repository with so many small files, 100 a directory."""
    seed, bare = root / f"seed-{files}", root / f"repo-{files}.git"
    git("init", "-q", "-b", "main", str(seed))
    for number in range(files):
        path = seed / f"d{number // 100}" / f"f{number}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{number}\n")
    git("add", "-A", cwd=seed)
    git("commit", "-qm", "base", cwd=seed)
    git("clone", "-q", "--bare", str(seed), str(bare))
    return bare


def as_agent() -> list[str]:
    """Return the prefix that runs a command as the user that agents run as."""
    return ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"] if os.geteuid() == 0 else []


def floor_ms(root: Path, base: Path, number: int) -> float:
    """Do the steps by hand and return the milliseconds to the first instruction."""
    place = root / f"floor-{number}"
    began = time.time_ns()
    done = subprocess.run(
        [*as_agent(), "sh", "-c", FLOOR, "sh", str(place), str(base)],
        capture_output=True,
        text=True,
        check=True,
    )
    subprocess.run(
        [*as_agent(), "sh", "-c", 'chmod -R u+rwX "$1"; rm -rf "$1"', "sh", str(place)], check=True
    )
    return (int(done.stdout) - began) / 1e6


def spawn_ms(service: Service, remote: Path) -> float:
    """Spawn an agent whose first instruction tells the time; return the milliseconds from the POST to it."""
    began = time.time_ns()
    agent = service.spawn(remote, "", options={"command": ["date", "+%s%N"]})
    pause(QUIET_S)
    service.wait(agent)
    said = [
        json.loads(line) for line in service.http.get(f"/agents/{agent}/logs?stream=stdout").text.splitlines()
    ]
    return (int(said[0]["content"]) - began) / 1e6


def percentile(values: list[float], share: float) -> float:
    """Return the value below which this share lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def report(files: int, spawns: list[float], floors: list[float]) -> None:
    """Print the figures of one size."""
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        ours, floor = percentile(spawns, share), percentile(floors, share)
        figure = {
            "bench": "spawn",
            "figure": f"POST to first instruction, {files} files, {name}",
            "ms": round(ours, 1),
            "floor_ms": round(floor, 1),
            "ratio": round(ours / floor, 2),
            "rounds": len(spawns),
        }
        print(json.dumps(figure), flush=True)


def main() -> None:
    """Run the bench in a temporary directory."""
    root = Path(tempfile.mkdtemp(prefix="bench-spawn-"))
    root.chmod(0o755)
    medians = {}
    try:
        with Service(root, LOG_LEVEL="warning") as service:
            for files in SIZES:
                remote = make_repository(service.remotes, files)
                base = root / f"base-{files}"
                git("clone", "-q", str(remote), str(base))
                shutil.move(base / ".git/index", f"{base}.index")
                shutil.rmtree(base / ".git")
                floor_place = root / f"floors-{files}"
                floor_place.mkdir()
                if os.geteuid() == 0:
                    subprocess.run(["chown", "-R", "65534:65534", str(base), str(floor_place)], check=True)
                spawn_ms(service, remote)  # the shared checkout is made once for a commit
                floor_ms(floor_place, base, -1)
                spawns, floors = [], []
                for number in range(ROUNDS):
                    floors.append(floor_ms(floor_place, base, number))
                    spawns.append(spawn_ms(service, remote))
                report(files, spawns, floors)
                medians[files] = statistics.median(spawns)
        ratio = medians[SIZES[1]] / medians[SIZES[0]]
        print(
            json.dumps(
                {"bench": "spawn", "figure": "50,000 files against 300, p50", "ratio": round(ratio, 2)}
            )
        )
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
