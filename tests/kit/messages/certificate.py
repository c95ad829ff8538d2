"""A throwaway certificate authority and a certificate of it for the loopback address, for an API over TLS."""

from __future__ import annotations

from pathlib import Path

import trustme


def make_certificate(directory: Path, *names: str) -> tuple[Path, Path]:
    """Make a CA and a certificate for these names; return the server's PEM file and the CA's.

    Without names it is for 127.0.0.1 and localhost. The server's file holds key and chain. Trust the CA by
    `ssl.create_default_context(cafile=...)`, by SSL_CERT_FILE, or by NODE_EXTRA_CA_CERTS.
    """
    authority = trustme.CA()
    server, trusted = directory / "server.pem", directory / "ca.pem"
    authority.issue_cert(*(names or ("127.0.0.1", "localhost"))).private_key_and_cert_chain_pem.write_to_path(
        str(server)
    )
    authority.cert_pem.write_to_path(str(trusted))
    return server, trusted
