"""Agents on real projects of TypeScript and Go read the gate's reason in their next turn, then land."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gates.conftest import SYSTEM_PATH, Files, Toolchain
from tests.gates.conftest import shared_path as shared_path  # noqa: PLC0414 - fixtures
from tests.gates.conftest import with_node_tools as with_node_tools  # noqa: PLC0414
from tests.kit.projects import GO, TYPESCRIPT
from tests.kit.remote import git, make_remote
from tests.kit.service import Service

pytestmark = pytest.mark.slow


def turns(first: str, second: str) -> str:
    """Return a script that does one thing at its first turn, and at the second keeps what it was told."""
    told = 'cp "$ORCHESTRATOR_PROMPT_FILE" told'
    return f'if [ "$ORCHESTRATOR_TURN" = 1 ]; then {first}; else {told}; {second}; fi'


@pytest.fixture
def with_tools(reachable_path: Path, with_node_tools: tuple[Toolchain, Files]) -> Iterator[Service]:
    """Return a supervisor that shows its agents TypeScript's tools."""
    (tools,) = with_node_tools[0].read_only
    path = f"{tools}/.bin:{SYSTEM_PATH}"
    with Service(reachable_path, SANDBOX_READ_ONLY=str(tools), SANDBOX_PATH=path) as running:
        yield running


def test_typescript_agent_reads_what_tsc_says_and_lands_at_its_second_turn(with_tools: Service) -> None:
    service = with_tools
    project = {name: TYPESCRIPT[name] for name in ("package.json", "tsconfig.json", "src/price.ts")}
    remote = make_remote(service.remotes, "typed", project)
    script = turns(
        "echo 'export const tax: number = \"high\";' > src/tax.ts; sed -i 's/tsc /true /' package.json",
        "echo 'export const tax: number = 20;' > src/tax.ts; sed -i 's/true /tsc /' package.json",
    )
    agent = service.spawn(remote, script, "typed", gateProfile="custom", gates=["typecheck"])
    end = service.wait(agent, within_s=180)
    assert (end["status"], end["reason"]) == ("completed", "done"), end
    told = git("show", "agent/typed:told", cwd=remote)
    assert "typecheck failed with exit status 2" in told
    assert "src/tax.ts(1,14): error TS2322" in told
    assert "high" not in git("show", "agent/typed:src/tax.ts", cwd=remote)


def test_go_agent_reads_the_failing_test_and_lands_at_its_second_turn(
    service: Service, remotes: Path
) -> None:
    if shutil.which("go", path=SYSTEM_PATH) is None:
        pytest.skip("go is missing")
    remote = make_remote(remotes, "gone", GO)
    script = turns("sed -i 's,rate/100,rate/10,' price.go", "sed -i 's,rate/10$,rate/100,' price.go")
    agent = service.spawn(remote, script, "gone", gateProfile="custom", gates=["tests"])
    end = service.wait(agent, within_s=180)
    assert (end["status"], end["reason"]) == ("completed", "done"), end
    told = git("show", "agent/gone:told", cwd=remote)
    assert "the tests failed with exit status 1" in told
    assert "--- FAIL: TestGross" in told
