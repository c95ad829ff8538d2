"""What is wrong with a Valkey, in one line that says what would help, and how soon it may be tried again.

The invariant: whatever a server answers becomes one of these, without a byte of its own but a short printable
part, and never with our password. Raised by `link`; `valkey` shows it and waits.
"""

from __future__ import annotations

import re

from orchestrator.mirror.address import Address

#: What servers answer, by the first word of the error, and what would help.
_REFUSED = {
    "NOAUTH": "it asks for a password: name one in VALKEY_URL",
    "WRONGPASS": "it refuses the user or the password of VALKEY_URL",
    "NOPERM": "the user of VALKEY_URL may not do what the mirror needs (docs/mirror.md)",
    "READONLY": "it is a replica, which cannot be written: name the primary in VALKEY_URL",
    "OOM": "it has no memory left: give it more (maxmemory), or a database of its own",
    "MISCONF": "it refuses to write because it cannot save to its disk",
    "MOVED": "it is part of a cluster: the mirror needs a server of its own",
    "ASK": "it is part of a cluster: the mirror needs a server of its own",
    "CROSSSLOT": "it is part of a cluster: the mirror needs a server of its own",
    "CLUSTERDOWN": "it is part of a cluster: the mirror needs a server of its own",
    "DENIED": "it is in protected mode: give it a password, or bind it to this host",
    "NOREPLICAS": "it refuses to write because it has too few replicas",
}
#: What passes by itself.
_PASSING = {
    "LOADING": "it is loading its data",
    "BUSY": "it is busy with a script",
    "MASTERDOWN": "its primary is away",
    "TRYAGAIN": "it asks to be tried again",
    "UNBLOCKED": "it has changed its role",
}
SHOWN = 120


class MirrorTrouble(Exception):
    """The mirror cannot be written now; `passing` where that may be over at any moment."""

    def __init__(self, detail: str, *, passing: bool) -> None:
        super().__init__(detail)
        self.detail, self.passing = detail, passing


def nonsense(why: str) -> MirrorTrouble:
    """Return what is raised for a server that does not keep to the protocol."""
    return MirrorTrouble(f"what answers there is no Valkey that can be used: {why}", passing=False)


def refusal(error: Exception, address: Address) -> MirrorTrouble:
    """Return the trouble of an error that the server answered with."""
    said = address.hidden(printable(str(error)))
    word = getattr(error, "status_code", None) or said.partition(" ")[0]
    if "password are required" in said or "invalid password" in said:
        word = "WRONGPASS"
    if word in _REFUSED:
        return MirrorTrouble(_REFUSED[word], passing=False)
    if word in _PASSING:
        return MirrorTrouble(_PASSING[word], passing=True)
    if "max number of clients" in said:
        return MirrorTrouble("it has as many clients as it may have", passing=True)
    return MirrorTrouble(f"it refuses: {said[:SHOWN]}", passing=False)


def printable(text: str) -> str:
    """Return the text as one line of what can be shown."""
    return re.sub(r"[^\x20-\x7e]+", " ", text[:2000]).strip()
