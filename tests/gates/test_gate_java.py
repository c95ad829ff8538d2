"""The gates of a Maven project: Maven judges, offline, by the base's project files."""

from __future__ import annotations

import pytest

from orchestrator.gates.definition import Undefined
from orchestrator.gates.local import find
from tests.gates.conftest import Changes, Judge, Toolchain, base_with
from tests.kit.projects import JAVA

pytestmark = pytest.mark.slow

#: Two virtual machines start for each.
DEADLINE_S = 300.0
PRICE, TEST = "src/main/java/shop/Price.java", "src/test/java/shop/PriceTest.java"
WRONG = {PRICE: JAVA[PRICE].replace("rate / 100", "rate")}


def pom(*, properties: str = "", dependencies: str = "", build: str = "") -> Changes:
    """Return a project file that says more."""
    text = JAVA["pom.xml"].replace("  </properties>", f"{properties}  </properties>")
    text = text.replace("  </dependencies>", f"{dependencies}  </dependencies>")
    return {"pom.xml": text.replace("</project>", f"{build}</project>")}


def plugin(name: str, configuration: str) -> str:
    """Return the build of a project that configures a plugin."""
    return (
        f"<build><plugins><plugin><artifactId>{name}</artifactId>"
        f"<configuration>{configuration}</configuration></plugin></plugins></build>"
    )


async def test_sound_candidate_that_needs_another_library_passes(judge: Judge, with_maven: Toolchain) -> None:
    library = (
        "<dependency><groupId>org.hamcrest</groupId><artifactId>hamcrest</artifactId>"
        "<version>debian</version></dependency>"
    )
    uses = {
        TEST: JAVA[TEST].replace(
            "import org.junit.Test;", "import org.hamcrest.Matchers;\nimport org.junit.Test;"
        )
    }
    verdict = await judge(
        JAVA, {**uses, **pom(dependencies=library)}, toolchain=with_maven, deadline_s=DEADLINE_S
    )
    assert (verdict.approved, verdict.tests) == (True, 2), verdict
    assert verdict.command == ("mvn", "test")


async def test_sound_candidate_is_packaged(judge: Judge, with_maven: Toolchain) -> None:
    verdict = await judge(JAVA, gate="build", toolchain=with_maven, deadline_s=DEADLINE_S)
    assert verdict.approved, verdict
    assert "shop-1.jar" in verdict.output_tail


#: A fault for each gate, with what would hide it, were it the candidate's to say.
FAULTS: dict[str, tuple[str, Changes, str, str]] = {
    "failing tests that are skipped": (
        "tests",
        {
            **WRONG,
            **pom(
                properties="<skipTests>true</skipTests><maven.test.skip>true</maven.test.skip>",
                build=plugin(
                    "maven-surefire-plugin",
                    "<skipTests>true</skipTests><testFailureIgnore>true</testFailureIgnore>"
                    "<excludes><exclude>**</exclude></excludes>",
                ),
            ),
            ".mvn/maven.config": "-DskipTests\n-Dmaven.repo.local=/usr/share/maven-repo\n",
            "target/surefire-reports/TEST-forged.xml": '<testsuite tests="9" failures="0" errors="0"/>\n',
        },
        "2 of 2 tests failed (exit status 1)",
        "expected:<120> but was:<2100>",
    ),
    "a type that is wrong": (
        "typecheck",
        {PRICE: JAVA[PRICE].replace("return net", 'return ""')},
        "typecheck failed with exit status 1",
        "incompatible types",
    ),
    "a library that is not there": (
        "build",
        pom(
            dependencies="<dependency><groupId>org.example</groupId><artifactId>none</artifactId>"
            "<version>1</version></dependency>"
        ),
        "org.example:none:jar:1 is missing in the sandbox, which has no network",
        "",
    ),
    "a project file that cannot be read": (
        "tests",
        {"pom.xml": '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><project>&a;</project>\n'},
        "pom.xml of the candidate cannot be read: ",
        "DOCTYPE",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_fault_is_rejected_whatever_the_candidate_says_of_the_gate(
    judge: Judge, with_maven: Toolchain, fault: str
) -> None:
    gate, changes, message, told = FAULTS[fault]
    verdict = await judge(JAVA, changes, gate=gate, toolchain=with_maven, deadline_s=DEADLINE_S)
    assert not verdict.approved
    assert verdict.message.startswith(message), verdict
    assert told in verdict.output_tail, verdict.output_tail


async def test_linter_coverage_and_integration_are_run_where_the_base_configures_them() -> None:
    for gate, name, goals in (
        ("lint", "maven-checkstyle-plugin", ("checkstyle:check",)),
        ("coverage", "jacoco-maven-plugin", ("test", "jacoco:report")),
        ("integration", "maven-failsafe-plugin", ("verify",)),
    ):
        with pytest.raises(Undefined):
            await find(gate, base_with(JAVA))
        base = {**JAVA, "pom.xml": JAVA["pom.xml"].replace("</project>", f"<!-- {name} --></project>")}
        assert (await find(gate, base_with(base))).shown == ("mvn", *goals)
