"""The scripts of the client's guide run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.kit.remote import git, make_remote
from tests.kit.service import Service

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "client.md"


def test_the_scripts_of_the_guide_run(reachable_path: Path) -> None:
    scripts = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert len(scripts) == 3
    with Service(reachable_path) as service:
        remote = make_remote(service.remotes, "guided")
        env = {
            **os.environ,
            "PYTHONPATH": str(GUIDE.parents[1]),
            "URL": str(service.http.base_url),
            "TOKEN": service.env["ORCHESTRATOR_API_KEY"],
            "REPOSITORY": f"file://{remote}",
        }
        for script in scripts:
            done = subprocess.run(
                [sys.executable, "-c", script],
                env=env,
                capture_output=True,
                text=True,
                timeout=50,
                check=False,
            )
            assert done.returncode == 0, done.stderr
        assert git("show", "agent/DOC-1:hello.txt", cwd=remote) == "hello\n"
        assert git("show", "agent/DOC-2:bye.txt", cwd=remote) == "bye\n"
