"""Where a Valkey is: the parts of `VALKEY_URL`, whose password is shown to nobody.

Called by whoever opens the mirror; the text was read by `settings.reader` before.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from orchestrator.settings.reader import is_loopback

PORT = 6379
TLS = frozenset({"valkeys", "rediss"})


@dataclass(frozen=True, slots=True)
class Address:
    """A database of a server, and who we are there."""

    host: str
    port: int
    database: int
    user: str | None
    password: SecretStr | None
    tls: bool

    @classmethod
    def of(cls, url: SecretStr | None) -> Address | None:
        """Take a URL apart, where there is one."""
        if url is None:
            return None
        parts = urlsplit(url.get_secret_value())
        database = parts.path.strip("/")
        return cls(
            host=parts.hostname or "",
            port=parts.port or PORT,
            database=int(database) if database else 0,
            user=unquote(parts.username) if parts.username else None,
            password=SecretStr(unquote(parts.password)) if parts.password else None,
            tls=parts.scheme in TLS,
        )

    @property
    def in_the_open(self) -> bool:
        """Whether a password, and all that is mirrored, crosses a network that others may read."""
        return not self.tls and not is_loopback(self.host)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'valkeys' if self.tls else 'valkey'}://{host}:{self.port}/{self.database}"

    def hidden(self, text: str) -> str:
        """Return the text of a server or a library without what is secret in this address."""
        for secret in (self.password.get_secret_value() if self.password else "", self.user or ""):
            text = text.replace(secret, "[redacted]") if secret else text
        return text
