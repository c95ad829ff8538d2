"""How Maven projects are checked: by Maven's lifecycle, offline, and the plugins that the base configures.

The invariant: the candidate's pom.xml gives its dependencies and modules, and nothing that says how the
project is built, tested or measured. Caller: `gates.local`.
"""

from __future__ import annotations

import re
import secrets
from pathlib import Path, PurePosixPath

from orchestrator.gates.definition import (
    KIND_OF,
    MAX_FILES,
    MIN_COVERAGE,
    OURS,
    Base,
    Definition,
    Kind,
    Silence,
    plain_path,
    read_all,
)
from orchestrator.gates.restoring import restoring

#: What leads Maven elsewhere.
_CONFIGS = tuple(f".mvn/{name}" for name in ("maven.config", "jvm.config", "extensions.xml", "settings.xml"))
_MODULE = re.compile(r"<module>\s{0,99}([\w@%+.,/-]{1,200})\s{0,99}</module>")
#: Files beside a project file that a plugin reads for its rules.
_RULES = re.compile(r">\s{0,99}(?:\$\{[\w.]{1,80}\}/)?([\w@%+.,/-]{1,200}\.xml)\s{0,99}<")
_LAUNCHER = Path(__file__).with_name("LaunchMaven.java")
_ALWAYS = (
    "--batch-mode",
    "--offline",
    "-Dstyle.color=never",
    "-Dmaven.test.failure.ignore=false",
)
_TESTING = ("-DskipTests=false", "-Dmaven.test.skip=false")

#: For each gate: the plugin that has to be configured, and the goals.
_GOALS: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "typecheck": (("", ("-DskipTests", "test-compile")),),
    "lint": (
        ("maven-checkstyle-plugin", ("checkstyle:check",)),
        ("spotless-maven-plugin", ("spotless:check",)),
    ),
    "tests": (("", ("test",)),),
    "coverage": (("jacoco-maven-plugin", ("test", "jacoco:report")),),
    "build": (("", ("-DskipTests", "package")),),
    "integration": (("maven-failsafe-plugin", ("verify",)),),
}

#: Lines by which files are not looked at.
_UNLINTED = Silence(re.compile(r"\bCHECKSTYLE[: \t]{1,3}OFF\b|\bspotless:off\b"), ("*.java",))


async def find_maven(base: Base, gate: str) -> Definition | None:
    """Return how a gate is run on a Maven project, or None where the base is none or has nothing to run."""
    content = await base.read("pom.xml") if "pom.xml" in base.names else None
    if content is None:
        return None
    poms = await _poms(base, content)
    text = "\n".join(pom.decode(errors="replace") for pom in poms.values())
    if (goals := _goals(gate, text)) is None:
        return None
    kind = KIND_OF.get(gate, Kind.CHECK)
    reports = (
        "" if kind is Kind.CHECK else "failsafe-reports" if gate == "integration" else "surefire-reports"
    )
    nonce = secrets.token_hex(16) if reports else None
    rules = [
        path for name in _RULES.findall(text) if (path := plain_path(name)) and not path.endswith("pom.xml")
    ]
    names = "\\n".join(poms)
    order = f"nonce={nonce}\nreports={reports}\npoms={names}\n"
    ours = {f"{OURS}/base/{name}": pom for name, pom in poms.items()}
    ours |= {f"{OURS}/order": order.encode(), f"{OURS}/LaunchMaven.java": _LAUNCHER.read_bytes()}
    testing = () if kind is Kind.CHECK else _TESTING
    return restoring(
        shown=("mvn", *goals),
        command=(
            "java",
            "-XX:TieredStopAtLevel=1",
            f"{OURS}/LaunchMaven.java",
            "mvn",
            *_ALWAYS,
            *testing,
            *goals,
        ),
        files=await read_all(base.read, (*_CONFIGS, *rules)) | ours,
        remove=_CONFIGS,
        counted=kind is not Kind.CHECK,
        nonce=nonce,
        kind=kind,
        minimum=MIN_COVERAGE if kind is Kind.COVERAGE else None,
        silences=(_UNLINTED,) if gate == "lint" else (),
    )


def _goals(gate: str, text: str) -> tuple[str, ...] | None:
    """Return Maven's goals for a gate by what the project files configure."""
    return next((goals for plugin, goals in _GOALS.get(gate, ()) if plugin in text), None)


async def _poms(base: Base, content: bytes) -> dict[str, bytes]:
    """Return the base's project files: the top one, and those of its modules."""
    found, pending = {"pom.xml": content}, ["pom.xml"]
    while pending and len(found) < MAX_FILES:
        name = pending.pop()
        folder = PurePosixPath(name).parent
        modules = _MODULE.findall(found[name].decode(errors="replace"))
        paths = [plain_path(str(folder / module / "pom.xml")) for module in modules]
        fresh = await read_all(base.read, (path for path in paths if path and path not in found))
        found |= fresh
        pending += fresh
    return found
