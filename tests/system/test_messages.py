"""What is said to an agent that works reaches it by a further turn, whatever happens to the supervisor."""

from __future__ import annotations

from tests.kit.remote import git, make_remote
from tests.kit.service import Service
from tests.system.test_resume import wait_for_file

#: Told something it writes it down; else it works until the supervisor is killed under it.
LISTENER = (
    'if [ -n "$ORCHESTRATOR_MESSAGE" ]; then cat "$ORCHESTRATOR_PROMPT_FILE" >> told;'
    'echo "$ORCHESTRATOR_TURN $ORCHESTRATOR_MESSAGE" >> heard; exit; fi;'
    'echo work >> done; [ "$ORCHESTRATOR_RESUMED" = 1 ] || { touch there; sleep 1000; }'
)


def say(service: Service, agent: str, text: str) -> int:
    status, answer = service.call("POST", f"/agents/{agent}/message", {"text": text})
    assert status == 202, answer
    return int(answer["message"])


def test_what_was_said_before_a_crash_is_told_after_the_answer_and_before_it_is_judged(
    own_service: Service,
) -> None:
    service = own_service
    service.start()
    remote = make_remote(service.remotes)
    agent = service.spawn(remote, LISTENER, "told")
    wait_for_file(service, agent, "told", "there")
    assert [say(service, agent, text) for text in ("first\n", "second")] == [1, 2]
    service.kill9()
    service.start()
    assert service.wait(agent)["status"] == "completed"
    assert git("show", "agent/told:done", cwd=remote) == "work\nwork\n"
    assert git("show", "agent/told:heard", cwd=remote) == "1 2\n"
    told = git("show", "agent/told:told", cwd=remote)
    assert told.index("# Message 1, from admin\n\nfirst\n") < told.index("# Message 2, from admin\n\nsecond")
    events = service.task_events("told")
    heard = [x["data"]["number"] for x in events if x["type"] == "agent.message" and "delivered" in x["data"]]
    assert heard == [2]
    status, page = service.call("GET", f"/agents/{agent}/transcript")
    assert (status, [turn["turn"] for turn in page["turns"]]) == (200, [1, 1])


def test_what_is_said_while_the_work_is_judged_is_told_before_it_lands(own_service: Service) -> None:
    service = own_service
    service.start()
    gate = '[gates.tests]\ncommand = ["sh", "-c", "sleep 3; echo 1 passed"]\n'
    remote = make_remote(service.remotes, files={"orchestrator.toml": gate})
    script = 'echo x >> f; [ -z "$ORCHESTRATOR_MESSAGE" ] || touch listened'
    agent = service.spawn(remote, script, "late", gateProfile="minimal", gates=None)
    service.wait_phase(agent, "checking")
    say(service, agent, "and one more thing")
    end = service.wait(agent)
    assert (end["status"], len(end["gates"])) == ("completed", 2), end
    assert "listened" in git("ls-tree", "--name-only", "agent/late", cwd=remote)
    status, refused = service.call("POST", f"/agents/{agent}/message", {"text": "thanks"})
    assert (status, refused["code"]) == (409, "already_ended")
