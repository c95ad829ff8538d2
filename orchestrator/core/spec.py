"""What a client asks for: the task's specification, validated once at the edge and carried through unchanged.

The same model is the body of `POST /agents/spawn`, the argument of the client, and what the journal keeps,
so a task means the same thing everywhere. Field names on the wire are camelCase. Every bound here keeps
invariant J15.
"""

from __future__ import annotations

import re
from enum import StrEnum
from operator import not_
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationInfo, field_validator
from pydantic.alias_generators import to_camel

#: Patterns are for whole strings (`re.fullmatch`, or pydantic's `$`): `re.match` lets a last newline through.
TASK_ID = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$"
#: The names that git allows for a branch, less what only confuses: no `..`, `@{`, `//`, leading `-` or `.`,
#: trailing `/`, `.` or `.lock`, and only plain characters.
BRANCH = r"^[A-Za-z0-9_][A-Za-z0-9._/+@#=-]{0,199}$"
ENV_NAME = r"^[A-Za-z_][A-Za-z0-9_]{0,127}$"
GATE_NAME = r"^[a-z][a-z0-9-]{0,63}$"
#: No control characters, and no line or paragraph separators: what a log, a header or a trailer takes as one
#: line.
PRINTABLE = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]+$"

MAX_INSTRUCTIONS = 256 * 1024  # characters
MAX_ENV = 64  # variables
MAX_COMMAND = 256  # arguments
#: Characters of one argument or variable: Linux takes 128 KiB, and a character is up to 4 bytes.
MAX_ARGUMENT = MAX_ENV_VALUE = 32_000
MAX_TIMEOUT_S = 7 * 24 * 3600


class Role(StrEnum):
    """What an agent is for."""

    WORKER = "worker"
    REVIEWER = "reviewer"
    TESTER = "tester"
    STARTER = "starter"
    CODING = "coding"
    DEPLOYER = "deployer"
    VERIFIER = "verifier"
    AUDITOR = "auditor"


class GateProfile(StrEnum):
    """A named set of gates."""

    STRICT = "strict"
    STANDARD = "standard"
    MINIMAL = "minimal"
    CUSTOM = "custom"


#: The profile of a role where the task names none.
PROFILE_OF_ROLE: dict[Role, GateProfile] = {
    Role.REVIEWER: GateProfile.STRICT,
    Role.TESTER: GateProfile.MINIMAL,
}


_LAST_DOT = re.compile(r"\.(?=(?:lock)?\Z)")


def branch_trouble(name: str) -> str | None:
    """Return what is wrong with a branch name, or None where git and we both take it."""
    if not re.fullmatch(BRANCH, name):
        return "must be 1 to 200 of letters, digits and . _ / + @ # = - and begin with a letter, digit or _"
    bad = ("..", "//", "@{", "/.", "./")
    if (
        any(part in name for part in bad)
        or name.endswith(("/", ".", ".lock"))
        or ".lock/" in name
        or name in {"@", "HEAD"}
    ):
        return "is not a name that git allows for a branch"
    return None


class Wire(BaseModel):
    """A frozen value with camelCase names on the wire; unknown fields are errors."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        ser_json_inf_nan="strings",
        allow_inf_nan=False,
    )


def _is_none(value: object) -> bool:
    return value is None


class Ceilings(Wire):
    """How much may be spent; a missing field is no ceiling."""

    cost_usd: Annotated[float, Field(gt=0, le=1_000_000)] | None = None
    tokens: Annotated[int, Field(ge=1, le=10**12)] | None = None
    turns: Annotated[int, Field(ge=1, le=100_000)] | None = None
    tool_calls: Annotated[int, Field(ge=1, le=10_000_000)] | None = Field(None, exclude_if=_is_none)


class Budget(Ceilings):
    """How much an agent may spend; `task` is for all attempts at the task together."""

    task: Ceilings | None = Field(None, exclude_if=_is_none)


class Resources(Wire):
    """Ceilings for the agent's sandbox; a missing field is the host's default."""

    memory_mb: Annotated[int, Field(ge=16, le=4 * 1024 * 1024)] | None = None
    cpus: Annotated[float, Field(gt=0, le=1024)] | None = None
    pids: Annotated[int, Field(ge=8, le=1_000_000)] | None = None
    disk_mb: Annotated[int, Field(ge=1, le=64 * 1024 * 1024)] | None = None


HostPattern = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9*][A-Za-z0-9.*:-]{0,252}$")]

Seconds = Annotated[int, Field(ge=0, le=MAX_TIMEOUT_S)]


class OwnDeadlines(Wire):
    """How long the agent may take without a sign of life; 0 is for ever, a missing field the default."""

    #: From the launch of its program to the first sign, for one prompt, and without a sign.
    boot_seconds: Seconds | None = None
    turn_seconds: Seconds | None = None
    stall_seconds: Seconds | None = None


class Network(Wire):
    """Hosts that the agent may reach: it can only narrow what the operator allows.

    Without `allow` that is all; an empty list is nothing.
    """

    allow: Annotated[tuple[HostPattern, ...], Field(max_length=64, strict=False)] | None = None


TaskName = Annotated[str, StringConstraints(pattern=TASK_ID)]
BranchName = Annotated[str, StringConstraints(min_length=1, max_length=200)]

Columns = Annotated[int, Field(ge=20, le=300)]
Rows = Annotated[int, Field(ge=5, le=100)]


class OnTerminal(Wire):
    """How a program on a terminal is spoken to, and when it is taken to be idle."""

    #: Silence after which a program that says nothing about itself is idle.
    idle_seconds: Annotated[float, Field(ge=0.2, le=3600)] = 5.0
    #: What stands in the title or in the cursor's line when, and only when, the program is idle.
    idle_marker: Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=PRINTABLE)] | None = (
        None
    )
    #: The keys that send a typed prompt off.
    submit: Annotated[str, StringConstraints(max_length=16, pattern=r"^[^\x00]*$")] = "\r"
    columns: Columns = 120
    rows: Rows = 40


def _is_squash(value: object) -> bool:
    return value == "squash"


class Landing(Wire):
    """Where the work goes: a branch, and a pull request onto a target where asked."""

    branch: BranchName | None = None
    pull_request: bool | None = None
    target: BranchName | None = None
    #: One commit for all that the agent did, or each of its own, made anew.
    commits: Annotated[Literal["squash", "keep"], Field(exclude_if=_is_squash)] = "squash"

    @field_validator("branch", "target")
    @classmethod
    def _plain_branch(cls, value: str | None) -> str | None:
        if value is not None and (trouble := branch_trouble(value)):
            raise ValueError(trouble)
        return value


Argument = Annotated[str, StringConstraints(max_length=MAX_ARGUMENT, pattern=r"^[^\x00]*$")]
EnvValue = Annotated[str, StringConstraints(max_length=MAX_ENV_VALUE, pattern=r"^[^\x00]*$")]
Word = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=PRINTABLE)]


class Options(Wire):
    """How the agent runs."""

    sandbox: bool = True
    timeout: Annotated[int, Field(ge=1, le=MAX_TIMEOUT_S)] | None = None
    max_retries: Annotated[int, Field(ge=0, le=100)] = 3
    runtime: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,31}$")] | None = None
    model: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}$")] | None = None
    command: (
        Annotated[tuple[Argument, ...], Field(min_length=1, max_length=MAX_COMMAND, strict=False)] | None
    ) = None
    env: Annotated[dict[str, EnvValue], Field(max_length=MAX_ENV)] = Field(default_factory=dict)
    budget: Budget = Budget()
    resources: Resources = Resources()
    deadlines: OwnDeadlines = OwnDeadlines()
    network: Network = Network()
    landing: Landing = Landing()
    terminal: OnTerminal = OnTerminal()

    @field_validator("env")
    @classmethod
    def _plain_environment(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if not re.fullmatch(ENV_NAME, name):
                raise ValueError(f"the name {name[:40]!r} is not one of letters, digits and _")
            if name.startswith("ORCHESTRATOR_"):
                raise ValueError(f"{name} is set by the orchestrator itself")
        return value

    @field_validator("command")
    @classmethod
    def _named_program(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and not value[0]:
            raise ValueError("the program has an empty name")
        return value


class Context(Wire):
    """The work: which repository, from which branch, and what to do there."""

    repository: Annotated[str, StringConstraints(min_length=1, max_length=2000, pattern=PRINTABLE)]
    branch: BranchName = "main"
    work_items: Annotated[tuple[Word, ...], Field(max_length=256, strict=False)] = ()
    skills: Annotated[tuple[Word, ...], Field(max_length=64, strict=False)] = ()
    instructions: Annotated[str, StringConstraints(max_length=MAX_INSTRUCTIONS, pattern=r"^[^\x00]*$")] = ""

    @field_validator("branch")
    @classmethod
    def _plain_branch(cls, value: str) -> str:
        if trouble := branch_trouble(value):
            raise ValueError(trouble)
        return value


class TaskSpec(Wire):
    """A task as a client asks for it."""

    task_id: TaskName
    agent_type: Annotated[Role, Field(strict=False)] = Role.WORKER
    gate_profile: Annotated[GateProfile, Field(strict=False)] | None = None
    gates: (
        Annotated[
            tuple[Annotated[str, StringConstraints(pattern=GATE_NAME)], ...],
            Field(max_length=32, strict=False),
        ]
        | None
    ) = Field(default=None, validate_default=True)
    priority: Annotated[int, Field(ge=1, le=10)] = 5
    #: Tasks that must be completed before this one is taken from the queue.
    depends_on: Annotated[tuple[TaskName, ...], Field(max_length=64, strict=False, exclude_if=not_)] = ()
    context: Context
    options: Options = Options()

    @field_validator("task_id")
    @classmethod
    def _fit_for_a_branch(cls, value: str) -> str:
        if ".." in value:
            raise ValueError("must not hold `..`: git allows it in no branch name")
        return value

    @field_validator("gates")
    @classmethod
    def _named_by_a_custom_profile(
        cls, value: tuple[str, ...] | None, seen: ValidationInfo
    ) -> tuple[str, ...] | None:
        if value is None and seen.data.get("gate_profile") is GateProfile.CUSTOM:
            raise ValueError("is needed where gateProfile is custom: the names of the gates to run")
        return value

    @property
    def profile(self) -> GateProfile:
        """The gate profile asked for, or the one of the role."""
        return self.gate_profile or PROFILE_OF_ROLE.get(self.agent_type, GateProfile.STANDARD)

    @property
    def landing_branch(self) -> str:
        """The branch that the work lands on: the one asked for, else `agent/` and the task's id.

        What git allows in no branch name is written by a character that no task id has, so that two tasks
        never share a branch: a colon as `=`, a last dot (of the id, or of `.lock` at its end) as `+`.
        """
        return self.options.landing.branch or "agent/" + _LAST_DOT.sub("+", self.task_id.replace(":", "="))
