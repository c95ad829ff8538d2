"""Egress through the whole: agents and gates reach what the operator lists, and the journal says so."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kit.remote import make_remote
from tests.kit.service import Service

FETCH = """python3 -c "
import urllib.request as u; print(u.urlopen('{}', timeout=20).read().decode())" >> fetched 2>&1"""


class Hello(http.server.BaseHTTPRequestHandler):
    """Says hello to whatever is asked."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def registry() -> Iterator[str]:
    """Serve on the loopback."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hello)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.slow
def test_agent_and_gate_reach_what_is_listed_and_each_host_has_an_event(reachable_path: Path) -> None:
    with registry() as listed, registry() as other, Service(reachable_path, SANDBOX_EGRESS=listed) as service:
        url, unlisted = f"http://{listed}/", f"http://{other}/"
        gate = f"{FETCH.format(url)}; grep -c hello fetched | grep -q 2 && echo 1..1 && echo ok 1 - twice\n"
        files = {"orchestrator.toml": "[gates.tests]\ncommand = ['sh', 'gate.sh']\n", "gate.sh": gate}
        remote = make_remote(service.remotes, "r", files)
        script = f"{FETCH.format(url)}; {FETCH.format(unlisted)} || echo no >> fetched"
        agent = service.spawn(remote, script, "reaches", gates=["tests"])
        assert service.wait(agent)["status"] == "completed", service.task_events("reaches")
        told = [
            (event["type"], f"{event['data']['host']}:{event['data']['port']}")
            for event in service.task_events("reaches")
            if event["type"].startswith("egress")
        ]
        assert told == [("egress.allowed", listed), ("egress.refused", other)]
        narrowed = service.spawn(
            remote,
            f"{FETCH.format(url)} && exit 1; echo no > fetched",
            "narrowed",
            options={"network": {"allow": []}},
        )
        assert service.wait(narrowed)["status"] == "completed"
        bad = service.request_body(remote, "true", "bad")
        bad["options"]["network"] = {"allow": ["a:b:c"]}
        status, problem = service.call("POST", "/agents/spawn", bad)
        assert (status, problem["errors"][0]["field"]) == (422, "options.network.allow.0"), problem
