"""What the base says about gates is known before a turn is paid for, and stays the base's word."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import trio

from orchestrator.core import events as e
from orchestrator.core.model import Agent, AgentStatus, Reason
from orchestrator.core.spec import GateProfile
from orchestrator.gates.base import Base, Gates, Plan
from orchestrator.gates.mechanical import MechanicalGate
from sandbox.base import User
from tests.kit.plane import GATED, open_plane
from tests.kit.remote import make_remote

OWN = "[gates.tests]\ncommand = 'grep -q good app'\n[gates.smoke]\ncommand = 'test ! -e smoke'\n"
OTHER = """printf '[gates.tests]\\ncommand = "true"\\n' > orchestrator.toml"""
EDITED = f"{OTHER}; mkdir -p .github; echo x > .github/ci.yml"


class Told:
    """How an agent ended, and what was told on the way."""

    def __init__(self, agent: Agent, events: list[e.Event]) -> None:
        self.agent = agent
        self.turns = sum(isinstance(event, e.AgentPhase) and event.answered is not None for event in events)
        self.edits = [(event.rule, event.path) for event in events if isinstance(event, e.PolicyViolated)]
        self.skipped = [event.gate for event in events if isinstance(event, e.GateSkipped)]
        self.verdicts = [
            event.verdict for event in events if isinstance(event, e.GatePassed | e.GateRejected)
        ]
        self.complaints = [
            text for event in events if isinstance(event, e.AgentPhase) for text in event.complaints or ()
        ]


class Asked(Gates):
    """The gates of a host, that count how often a base is asked for its plan."""

    asked = 0

    async def plan_on(self, profile: GateProfile, gates: Sequence[str] | None, base: Base) -> Plan:
        """See `Gates.plan_on`."""
        self.asked += 1
        return await super().plan_on(profile, gates, base)


async def carry_out(
    place: Path,
    user: User,
    files: dict[str, str],
    script: str,
    *gates: str,
    gated: bool = False,
    host: Gates | None = None,
) -> Told:
    """Have a script work on a repository of these files, to its end."""
    remote = make_remote(place, files=files)
    with trio.fail_after(120):
        own = {} if host is None else {"gates": host}
        async with open_plane(place / "home", user=user, roots=place, **own) as plane:
            agent = await plane.submit(remote, script, "t", gates=gates, gated=gated)
            ended = await plane.over(agent)
            return Told(ended, [recorded.event for recorded in await plane.store.events_after(0)])


async def test_base_without_tests_ends_the_task_before_its_first_turn(
    reachable_path: Path, ordinary_user: User
) -> None:
    told = await carry_out(reachable_path, ordinary_user, {"README": "x"}, "echo y > y", gated=True)
    assert (told.agent.status, told.agent.reason) == (AgentStatus.FAILED, Reason.GATE_REJECTED)
    assert "does not say how the gate 'tests' is run: add an orchestrator.toml" in (told.agent.error or "")
    assert told.turns == 0


async def test_gate_of_the_repository_is_run_where_the_task_names_it_and_missed_where_it_is_not(
    reachable_path: Path, ordinary_user: User
) -> None:
    files = {"app": "good", "orchestrator.toml": OWN}
    told = await carry_out(reachable_path, ordinary_user, files, "echo x > smoke", "smoke")
    assert (told.agent.reason, told.turns) == (Reason.GATE_REJECTED, 3)
    assert {verdict.message for verdict in told.verdicts} == {"smoke failed with exit status 1"}
    (reachable_path / "other").mkdir()
    told = await carry_out(reachable_path / "other", ordinary_user, files, "echo x > y", "no-such-gate")
    assert "gate no-such-gate: the base commit does not say" in (told.agent.error or "")
    assert told.turns == 0


async def test_edit_of_what_defines_a_gate_counts_for_nothing_and_is_told(
    reachable_path: Path, ordinary_user: User
) -> None:
    files = {"app": "good", "orchestrator.toml": OWN}
    script = f'if [ "$ORCHESTRATOR_TURN" = 1 ]; then echo bad > app; {EDITED}; else echo good > app; fi'
    host = Asked([MechanicalGate("tests")])
    told = await carry_out(reachable_path, ordinary_user, files, script, gated=True, host=host)
    assert (told.agent.status, told.turns) == (AgentStatus.COMPLETED, 2), told.agent
    assert [verdict.approved for verdict in told.verdicts] == [False, True]
    assert host.asked == 1  # of one base, however many candidates stand on it
    edits = [("protected-path", ".github/ci.yml"), ("protected-path", "orchestrator.toml")]
    assert told.edits == edits * 2
    assert any("your edits of these count for no gate" in text for text in told.complaints)
    assert [verdict.protected for verdict in told.verdicts] == [("orchestrator.toml",)] * 2


async def test_tool_that_is_missing_ends_the_agent_at_its_first_rejection(
    reachable_path: Path, ordinary_user: User
) -> None:
    files = {**GATED, "orchestrator.toml": "[gates.tests]\ncommand = ['no-such-tool']\n"}
    told = await carry_out(reachable_path, ordinary_user, files, "echo 2 > value", gated=True)
    assert (told.agent.reason, told.turns) == (Reason.GATE_REJECTED, 1)
    assert "no-such-tool is missing in the sandbox" in (told.agent.error or "")
    assert [verdict.lasting for verdict in told.verdicts] == [True]


async def test_tests_that_the_base_had_are_missed(reachable_path: Path, ordinary_user: User) -> None:
    files = {
        "all.sh": "cat tests/*.tap; echo 1..$(cat tests/*.tap | wc -l)\n",
        "tests/a.tap": "ok 1\n",
        "tests/b.tap": "ok 2\n",
        "orchestrator.toml": "[gates.tests]\ncommand = ['sh', 'all.sh']\n",
    }
    told = await carry_out(reachable_path, ordinary_user, files, "rm -f tests/b.tap; echo x > y", gated=True)
    assert told.agent.reason is Reason.GATE_REJECTED
    assert [(verdict.tests, verdict.tests_base) for verdict in told.verdicts] == [(1, 2)] * 3
    assert "tests are lost: 2 ran on the base, and 1 here" in told.verdicts[0].message
