"""The pages for people: `/` and `/docs`, whole in one file each, so that they work offline.

The invariant: a page holds no data and no secret. It asks for the token, keeps it in memory alone, and
fetches what it shows with it; without a token a browser gets the same page under 401. Its script and
style are pinned by hash in a policy that allows nothing else, and whatever it shows, it shows as text.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio
from quart import Response

from orchestrator.api.route import Call, Query

_WEB = Path(__file__).parent / "web"
HTML = "text/html; charset=utf-8"


class Page:
    """One page and the policy that pins it."""

    def __init__(self, name: str) -> None:
        self.body = (_WEB / name).read_bytes()
        scripts, styles = self._hashes(b"script"), self._hashes(b"style")
        self.policy = (
            f"default-src 'none'; script-src {scripts}; style-src {styles}; connect-src 'self'; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )

    def _hashes(self, tag: bytes) -> str:
        parts: list[bytes] = re.findall(rb"<%b>(.*?)</%b>" % (tag, tag), self.body, re.DOTALL)
        digests = [base64.b64encode(hashlib.sha256(part).digest()).decode() for part in parts]
        return " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"


PAGES = {"/": Page("status.html"), "/docs": Page("docs.html")}


def wanted(path: str) -> bool:
    """Return whether there is a page at the path."""
    return path in PAGES


async def show(call: Call) -> Response:
    """Answer with the page."""
    await trio.lowlevel.checkpoint()
    call.query(Query)
    page = PAGES[call.path]
    return Response(page.body, content_type=HTML, headers={"Content-Security-Policy": page.policy})


async def send_locked(path: str, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
    """Answer who has no token with the page that asks for one."""
    page = PAGES[path]
    headers = [
        (b"content-type", HTML.encode()),
        (b"content-length", b"%d" % len(page.body)),
        (b"content-security-policy", page.policy.encode()),
        (b"www-authenticate", b'Bearer realm="orchestrator"'),
    ]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": page.body, "more_body": False})
