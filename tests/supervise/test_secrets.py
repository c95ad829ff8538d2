"""What an agent did is looked through for secrets before anything of it leaves, whatever its gates say."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from orchestrator.core import events as e
from orchestrator.core.model import AgentStatus, Reason
from orchestrator.secrets.held import HeldValue
from orchestrator.secrets.redactor import Redactor
from orchestrator.secrets.scan import Scanner
from sandbox.base import User
from tests.kit.plane import Plane, open_plane
from tests.kit.remote import branches, git, make_remote
from tests.secrets.planted import PLANTED, chance

HELD = "tok-" + chance("our own token", 24)


async def facts(plane: Plane) -> list[e.SecretDetected]:
    """Return what was found, as it is journaled."""
    recorded = await plane.store.events_after(0, types=["secret.detected"])
    return [each.event for each in recorded if isinstance(each.event, e.SecretDetected)]


async def test_agent_hears_where_its_secret_stands_and_lands_without_it(
    reachable_path: Path, ordinary_user: User
) -> None:
    home, remote = reachable_path / "home", make_remote(reachable_path)
    secret = PLANTED["stripe"]
    script = (
        f'a={secret[:12]} b={secret[12:]}; case "$ORCHESTRATOR_TURN" in 1) echo "key = $a$b" > conf.ini;; '
        '*) cp "$ORCHESTRATOR_PROMPT_FILE" heard.txt; echo "key = from the environment" > conf.ini;; esac'
    )
    with trio.fail_after(50):
        async with open_plane(home, user=ordinary_user, roots=reachable_path) as plane:
            agent = await plane.over(await plane.submit(remote, script, "leak"))
            [found] = await facts(plane)
    assert agent.status is AgentStatus.COMPLETED
    assert (found.rule, found.path, found.line) == ("stripe-access-token", "conf.ini", 1)
    assert found.hmac
    heard = git("show", "agent/leak:heard.txt", cwd=remote)
    assert "secret stripe-access-token: conf.ini:1" in heard
    assert secret not in git("log", "-p", "--all", cwd=remote)
    assert not [path for path in home.glob("orchestrator.db*") if secret.encode() in path.read_bytes()]


@pytest.mark.parametrize("yolo", [False, True])
async def test_what_we_hold_never_leaves_and_the_agent_fails(
    reachable_path: Path, ordinary_user: User, yolo: bool
) -> None:
    home, remote = reachable_path / "home", make_remote(reachable_path)
    before = branches(remote)
    scanner = Scanner([HeldValue("GITHUB_TOKEN", HELD.encode())])
    script = f"printf %s {HELD} | base64 > $(date +%N).txt"
    with trio.fail_after(50):
        async with open_plane(
            home, user=ordinary_user, roots=reachable_path, scanner=scanner, yolo=yolo
        ) as plane:
            agent = await plane.over(await plane.submit(remote, script, "held"))
            found = await facts(plane)
    assert (agent.status, agent.reason) == (AgentStatus.FAILED, Reason.SECRET_DETECTED)
    assert {each.rule for each in found} == {"held:GITHUB_TOKEN"}
    assert branches(remote) == before


async def test_what_a_task_hands_its_agent_as_secret_stays_with_the_agent(
    reachable_path: Path, ordinary_user: User
) -> None:
    home, remote = reachable_path / "home", make_remote(reachable_path)
    before = branches(remote)
    env = {"NPM_TOKEN": HELD, "GREETING": "hello, dear world", "JOB_KEY": "secret_detected"}
    script = (
        'echo "it is $NPM_TOKEN, $GREETING"; echo "$GREETING" > hello; printf %s "$NPM_TOKEN" | base64 > t'
    )
    with trio.fail_after(50):
        async with open_plane(home, user=ordinary_user, roots=reachable_path) as plane:
            Redactor().guard(plane.store)
            agent = await plane.over(await plane.submit(remote, script, "own", env=env))
            found = await facts(plane)
            lines = [line.content for line in await plane.store.logs.read(agent.id)]
            [turn, *_] = await plane.store.events_after(0, types=["agent.turn"])
    assert (agent.status, agent.reason) == (AgentStatus.FAILED, Reason.SECRET_DETECTED)
    assert {(each.rule, each.path) for each in found} == {("held:options.env.NPM_TOKEN", "t")}
    assert branches(remote) == before
    assert "it is [redacted], hello, dear world" in lines
    assert isinstance(turn.event, e.AgentTurn)
    assert turn.event.text.strip() == "it is [redacted], hello, dear world"
