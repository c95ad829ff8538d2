"""Secrets for tests, put together when they are needed: nothing in this repository looks like one."""

from __future__ import annotations

import base64
import hashlib
import json
import string

_ALNUM = string.ascii_letters + string.digits


def chance(seed: str, length: int, alphabet: str = _ALNUM) -> str:
    """Return characters that look random and are the same each time."""
    digits = hashlib.shake_256(seed.encode()).digest(length)
    return "".join(alphabet[byte % len(alphabet)] for byte in digits)


def _jwt() -> str:
    head, body = {"alg": "HS256", "typ": "JWT"}, {"sub": "1234567890", "name": "somebody", "iat": 1516239022}
    parts = [
        base64.urlsafe_b64encode(json.dumps(each).encode()).decode().rstrip("=") for each in (head, body)
    ]
    return ".".join([*parts, chance("jwt", 43)])


def _private_key() -> str:
    body = base64.b64encode(chance("pem", 300).encode()).decode()
    lines = "\n".join(body[at : at + 64] for at in range(0, len(body), 64))
    mark = "-" * 5
    return f"{mark}BEGIN RSA PRIVATE KEY{mark}\n{lines}\n{mark}END RSA PRIVATE KEY{mark}"


#: One secret of each kind that must never reach a remote.
PLANTED = {
    "aws": "AKI" + "A" + chance("aws", 16, "ABCDEFGHJKLMNPQRSTUVWXYZ234567"),
    "github": "gh" + "p_" + chance("github", 36),
    "github-fine-grained": "github" + "_pat_" + chance("pat", 82),
    "slack": "xox"
    + "b-"
    + f"{chance('s1', 12, string.digits)}-{chance('s2', 12, string.digits)}-{chance('s3', 24)}",
    "stripe": "sk" + "_live_" + chance("stripe", 24),
    "gcp": "AI" + "za" + chance("gcp", 35),
    "anthropic": "sk-" + "ant-api03-" + chance("anthropic", 93) + "AA",
    "anthropic-oauth": "sk-" + "ant-oat01-" + chance("oauth", 80),
    "openai": "sk-" + "proj-" + chance("o1", 74) + "T3Blbk" + "FJ" + chance("o2", 74),
    "openai-old": "sk-" + chance("old", 48),
    "npm": "npm" + "_" + chance("npm", 36, string.ascii_lowercase + string.digits),
    "pypi": "pypi-" + "AgEIcHlwaS5vcmc" + chance("pypi", 80),
    "private-key": _private_key(),
    "jwt": _jwt(),
    "database-url": "postgres" + "ql://shop:" + chance("db", 16) + "@db.internal.net:5432/shop",
}
