"""The rules of the house that no linter knows, as functions from a module's syntax tree to its violations.

Each rule carries examples that break it, and `tests/test_architecture.py` proves that the rule sees them: a
rule that cannot fail is no rule. Where a rule has exceptions, they are listed here with the reason.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

MODULE_LINES, FUNCTION_LINES = 300, 50
TEST_MODULE_LINES, TEST_FUNCTION_LINES = 600, 80

#: Who may open a nursery: the parts whose children they end themselves.
NURSERIES = {
    "orchestrator/agents/acp/client.py",
    "orchestrator/agents/egress.py",
    "orchestrator/agents/proxy.py",
    "orchestrator/agents/serving.py",
    "orchestrator/agents/terminal.py",
    "orchestrator/api/server.py",
    "orchestrator/api/dialogue.py",
    "orchestrator/api/stream.py",
    "orchestrator/assembly.py",
    "orchestrator/cli/attach.py",
    "orchestrator/coordinator/service.py",
    "orchestrator/gates/base.py",
    "orchestrator/journal/store.py",
    "orchestrator/supervise/kill_switch.py",
    "orchestrator/supervise/signals.py",
    "orchestrator/supervise/supervisor.py",
    "sandbox/process.py",
    "sandbox/relay.py",
}

#: Who may hold off a cancellation, for a grace that has an end.
SHIELDS = {
    "orchestrator/journal/logs.py",
    "orchestrator/journal/store.py",
    "orchestrator/repo/checkouts.py",
    "orchestrator/repo/worktree.py",
    "sandbox/confined.py",
    "sandbox/process.py",
    "sandbox/warded.py",
}

#: The names that pyproject.toml bans: the linter keeps most files from all of them.
BANNED = frozenset(
    tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]["flake8-tidy-imports"][
        "banned-api"
    ]
)

#: Who may use which of them, and why; the linter can only lift its ban for a whole file.
BANNED_BUT = {
    "orchestrator/agents/acp/inside.py": {"subprocess": "it runs inside a sandbox, by another Python"},
    "orchestrator/agents/acp/inside_files.py": {"os.environ": "it runs inside a sandbox, by another Python"},
    "orchestrator/agents/acp/inside_terminals.py": {
        "subprocess": "it runs inside a sandbox, by another Python",
        "os.environ": "the same",
    },
    "orchestrator/agents/claude/tool_shell.py": {
        "os.posix_spawn": "it runs inside a sandbox, by another Python",
        "os.environ": "the same",
    },
    "orchestrator/config.py": {"os.environ": "it is where settings come from"},
    "orchestrator/gates/launch_build.py": {
        "os.fork": "it runs inside a sandbox, by another Python, and looks at what its child has built",
    },
    "orchestrator/gates/launch_tool.py": {"os.execv": "it runs inside a sandbox, by another Python"},
    "orchestrator/gates/launch_python.py": {
        "os.execv": "it runs inside a sandbox, by another Python",
        "os.fork": "the same, and has no thread: its child must not know what it learns next",
    },
    "orchestrator/journal/thread.py": {"threading.Thread": "it is the writer"},
    "sandbox/spawn.py": {"os.posix_spawn": "it is where processes are started"},
    "sandbox/warden.py": {"os.posix_spawn": "it is a program, the parent of one command"},
}

#: Where waiting for time itself is the purpose.
SLEEPS = {
    "bench/journal.py": "it plays a slower disk",
    "orchestrator/client_stream.py": "a client that lost its server tries again after a while",
    "orchestrator/mirror/valkey.py": "a Valkey that is away is tried again; a burst is gathered",
    "orchestrator/supervise/restarts.py": "a crash loop is slowed down",
    "orchestrator/supervise/liveness.py": "what does nothing tells nobody",
    "orchestrator/supervise/radar.py": "nobody tells which files an agent changes",
    "orchestrator/supervise/host.py": "nobody tells when a host gets short of something",
    "orchestrator/supervise/watchdog.py": "nobody tells when a tree that no cgroup holds has grown",
    "tests/kit/messages/connection.py": "a script says how slowly an answer comes",
    "tests/kit/messages/exchange.py": "a script says how late an answer comes",
    "tests/kit/until.py": "the world outside can only be looked at, again and again, until a deadline",
}

CLUMSY = re.compile(r"(Manager|Helper|Util|Utils|Handler|Data|Info)$")


@dataclass(frozen=True, slots=True)
class Module:
    """One source file: where it stands, what it says, and its syntax tree."""

    path: str
    text: str
    tree: ast.Module

    @property
    def is_test(self) -> bool:
        """Whether it is part of the tests."""
        return self.path.startswith("tests/")

    @property
    def is_driver(self) -> bool:
        """Whether it drives the program from outside: a test or a bench."""
        return self.path.startswith(("tests/", "bench/"))

    @classmethod
    def of(cls, path: str, text: str) -> Module:
        """Parse a file's text."""
        return cls(path, text, ast.parse(text))


#: A violation is a line number and what is wrong there.
Violations = Iterator[tuple[int, str]]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, and a file (path, text) that breaks it."""

    check: Callable[[Module], Violations]
    broken: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """The rule as a sentence."""
        return self.check.__name__


def modules(*folders: str) -> list[Module]:
    """Read every module below the folders."""
    paths = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return [Module.of(path.relative_to(ROOT).as_posix(), path.read_text()) for path in paths]


def dotted(node: ast.AST) -> str:
    """Return `a.b.c` for a name or attribute, else the empty string."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=attr):
            return f"{dotted(value)}.{attr}"
    return ""


def uses(module: Module) -> Violations:
    """Yield every dotted name that the module uses or imports from somewhere, with its line."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute):
            yield node.lineno, dotted(node)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name


def nurseries_only_where_their_children_are_ended(module: Module) -> Violations:
    """See design part 5."""
    for line, name in uses(module):
        if name.endswith("open_nursery") and module.path not in NURSERIES and not module.is_driver:
            yield line, "opens a nursery"


def shields_only_with_a_deadline(module: Module) -> Violations:
    """Allow only the `shield=True` of a `with trio.move_on_after(CONSTANT_S, ...)`, in few files."""
    managers = {
        id(item.context_expr)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.With)
        for item in node.items
    }
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and node.attr == "shield" and isinstance(node.ctx, ast.Store):
            yield node.lineno, "assigns .shield"
        if isinstance(node, ast.Call) and any(keyword.arg == "shield" for keyword in node.keywords):
            if module.path not in SHIELDS and not module.is_test:
                yield node.lineno, "shields, which this file may not"
            elif (
                dotted(node.func) not in {"trio.move_on_after", "trio.fail_after"} or id(node) not in managers
            ):
                yield node.lineno, "shields without `with trio.move_on_after`"
            elif not re.fullmatch(r"([a-z_]+\.)?_?[A-Z_]+_S", grace_name(node)):
                yield node.lineno, "shields for a time that is no constant in seconds (`GRACE_S`)"


def grace_name(call: ast.Call) -> str:
    """Return the dotted name of the first argument."""
    return dotted(call.args[0]) if call.args else ""


def banned_names_only_where_they_belong(module: Module) -> Violations:
    """See `BANNED_BUT`."""
    if module.is_driver:
        return
    allowed = BANNED_BUT.get(module.path, {})
    for line, name in uses(module):
        for banned in BANNED - allowed.keys():
            if f"{name}.".startswith(f"{banned}."):
                yield line, f"uses {banned}"


def git_only_from_the_repository_room(module: Module) -> Violations:
    """Git on a hostile worktree runs code, so one room knows how to call it."""
    if module.is_test or module.path.startswith(("orchestrator/repo/", "bench/")):
        return
    nodes = list(ast.walk(module.tree))
    walked = {id(node.iter) for node in nodes if isinstance(node, ast.For | ast.comprehension)}
    for node in nodes:
        if isinstance(node, ast.List | ast.Tuple) and node.elts and id(node) not in walked:
            head = node.elts[0]
            if isinstance(head, ast.Constant) and str(head.value).rpartition("/")[2] == "git":
                yield node.lineno, "runs git"


def modules_and_functions_are_short(module: Module) -> Violations:
    """Keep to what a newcomer reads: a few screens a module, one a function."""
    module_cap, function_cap = (
        (TEST_MODULE_LINES, TEST_FUNCTION_LINES) if module.is_test else (MODULE_LINES, FUNCTION_LINES)
    )
    if (lines := len(module.text.splitlines())) > module_cap:
        yield 1, f"has {lines} lines, more than {module_cap}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > function_cap:
                yield node.lineno, f"{node.name} has {lines} lines, more than {function_cap}"


def everything_public_has_a_docstring(module: Module) -> Violations:
    """Ask modules always, and whatever has a public name; tests speak by their names."""
    if ast.get_docstring(module.tree) is None:
        yield 1, "has no docstring"
    pending: list[ast.AST] = [] if module.is_test else [module.tree]
    while pending:
        for node in ast.iter_child_nodes(pending.pop()):
            if (
                isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
                and node.name[0] != "_"
            ):
                overload = any(dotted(decorator).endswith("overload") for decorator in node.decorator_list)
                if ast.get_docstring(node) is None and not overload:
                    yield node.lineno, f"{node.name} has no docstring"
                if isinstance(node, ast.ClassDef):
                    pending.append(node)


def rooms_are_opened_without_running_code(module: Module) -> Violations:
    """Let a package's `__init__` say what the room is for, and nothing more."""
    if module.path.endswith("__init__.py"):
        for node in module.tree.body[1:]:
            yield node.lineno, "has code beside its docstring"


def time_is_never_a_synchronisation(module: Module) -> Violations:
    """Wait for the thing itself: an event, a descriptor, a line of output."""
    for line, name in uses(module):
        if name in {"trio.sleep", "trio.sleep_until", "time.sleep"} and module.path not in SLEEPS:
            yield line, f"calls {name}"


def the_core_has_no_clock(module: Module) -> Violations:
    """Time is an argument there; its imports are judged by import-linter."""
    if module.path.startswith("orchestrator/core/"):
        for line, name in uses(module):
            if re.search(r"\.(now|utcnow|today)$", name):
                yield line, f"reads the clock by {name}"


def classes_have_names_that_say_something(module: Module) -> Violations:
    """See the glossary."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ClassDef) and CLUMSY.search(node.name):
            yield node.lineno, f"class {node.name} could be anything"
    if re.search(r"(^|/)(utils?|helpers?|common|misc|managers?)\.py$", module.path):
        yield 1, "could hold anything, by its name"


def cancellation_is_never_swallowed(module: Module) -> Violations:
    """Refuse to suppress `Cancelled`: it makes a child that cannot be killed."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and dotted(node.func).endswith("suppress"):
            for argument in node.args:
                if dotted(argument) in {"BaseException", "trio.Cancelled", "KeyboardInterrupt", "SystemExit"}:
                    yield node.lineno, f"suppresses {dotted(argument)}"


def tests_use_real_parts(module: Module) -> Violations:
    """No patches of our own code, and no nursery that hides whose child is whose."""
    if not module.is_test:
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            if any("mock" in name.lower().split(".") for name in names):
                yield node.lineno, "imports a mock library"
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            for argument in node.args.args:
                if argument.arg in {"nursery", "mocker"}:
                    yield node.lineno, f"{node.name} asks for the fixture {argument.arg}"


def one_example(path: str, text: str) -> tuple[tuple[str, str], ...]:
    """Return one file that breaks a rule."""
    return ((path, text),)


ROOM = "orchestrator/repo/landing.py"
LONG = '"""D."""\n' + "x = 1\n" * MODULE_LINES
DEEP = '"""D."""\ndef f():\n    """D."""\n' + "    x = 1\n" * FUNCTION_LINES
SHIELD = "with trio.{}: ...\n"

RULES = (
    Rule(
        nurseries_only_where_their_children_are_ended,
        (
            (ROOM, "async with trio.open_nursery() as n: ...\n"),
            (ROOM, "from trio import open_nursery\n"),
        ),
    ),
    Rule(
        shields_only_with_a_deadline,
        (
            (ROOM, SHIELD.format("move_on_after(GRACE_S, shield=True)")),
            ("sandbox/process.py", SHIELD.format("CancelScope(shield=True)")),
            ("sandbox/process.py", SHIELD.format("move_on_after(math.inf, shield=True)")),
            ("sandbox/process.py", "scope = trio.move_on_after(GRACE_S, shield=True)\n"),
            ("sandbox/process.py", "scope.shield = True\n"),
        ),
    ),
    Rule(
        banned_names_only_where_they_belong,
        (
            (ROOM, "subprocess.Popen(['x'])\n"),
            (ROOM, "from subprocess import Popen\n"),
            (ROOM, "import subprocess as s\n"),
            (ROOM, "os.fork()\n"),
            (ROOM, "from os import posix_spawn\n"),
            ("sandbox/process.py", "os.posix_spawn('x', [], {})\n"),
            ("sandbox/process.py", "await trio.run_process(['x'])\n"),
            ("sandbox/spawn.py", "os.system('x')\n"),
            ("orchestrator/journal/store.py", "os.environ['X']\n"),
            ("orchestrator/config.py", "threading.Thread(target=f)\n"),
        ),
    ),
    Rule(
        git_only_from_the_repository_room,
        (
            ("orchestrator/gates/local.py", "run(['git', 'status'])\n"),
            ("sandbox/probe.py", "x = ('/usr/bin/git', 'a')\n"),
        ),
    ),
    Rule(modules_and_functions_are_short, ((ROOM, LONG), (ROOM, DEEP))),
    Rule(
        everything_public_has_a_docstring,
        (
            (ROOM, "x = 1\n"),
            (ROOM, '"""D."""\ndef f(): ...\n'),
            (ROOM, '"""D."""\nclass A:\n    """D."""\n    async def f(self): ...\n'),
            ("tests/repo/test_x.py", "x = 1\n"),
        ),
    ),
    Rule(
        rooms_are_opened_without_running_code,
        one_example("orchestrator/repo/__init__.py", '"""D."""\nfrom orchestrator.repo.git import Git\n'),
    ),
    Rule(
        time_is_never_a_synchronisation,
        (
            (ROOM, "await trio.sleep(1)\n"),
            ("tests/test_x.py", "time.sleep(1)\n"),
            (ROOM, "from trio import sleep\n"),
        ),
    ),
    Rule(the_core_has_no_clock, one_example("orchestrator/core/machine.py", "datetime.now(UTC)\n")),
    Rule(
        classes_have_names_that_say_something,
        ((ROOM, "class RunManager: ...\n"), ("orchestrator/repo/utils.py", "x = 1\n")),
    ),
    Rule(
        cancellation_is_never_swallowed,
        one_example(ROOM, "with contextlib.suppress(OSError, trio.Cancelled): ...\n"),
    ),
    Rule(
        tests_use_real_parts,
        (
            ("tests/test_x.py", "from unittest import mock\n"),
            ("tests/test_x.py", "async def test_a(nursery): ...\n"),
        ),
    ),
)
