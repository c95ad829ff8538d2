"""What the demo works on and with: a small project, and three agents that are its own scripts.

The invariant: everything runs in a POSIX shell with the tools of every Linux system, so that the demo needs
nothing inside its sandbox. Called by `orchestrator.demo.stage` and `orchestrator.demo.play`.
"""

from __future__ import annotations

from dataclasses import dataclass

#: The variable that every process of the demo's agents carries, so that /proc can be asked for them.
MARK = "ORCHESTRA_DEMO"

FILES = {
    "README.md": "# greeter\n\nGreets whoever is named, or the world: `sh greet.sh Ada`.\n",
    "greet.sh": """\
# Greets whoever is named, or the world.
echo "Hello, ${1:-world}!"
""",
    "test.sh": """\
# Runs every tests/*.sh and prints what happened as TAP.
number=0
failed=0
for test in tests/*.sh; do
  number=$((number + 1))
  name=$(basename "$test" .sh | tr _ ' ')
  if said=$(sh "$test" 2>&1); then
    echo "ok $number - $name"
  else
    failed=1
    echo "not ok $number - $name: $said"
  fi
done
echo "1..$number"
exit $failed
""",
    "tests/greets_the_world.sh": """\
said=$(sh greet.sh)
[ "$said" = "Hello, world!" ] || { echo "got '$said', not 'Hello, world!'"; exit 1; }
""",
    "tests/greets_by_name.sh": """\
said=$(sh greet.sh Ada)
[ "$said" = "Hello, Ada!" ] || { echo "got '$said', not 'Hello, Ada!'"; exit 1; }
""",
    "orchestrator.toml": """\
# How the supervisor judges what agents make of this; read from the base commit, never from an agent's.
[gates.tests]
command = ["sh", "test.sh"]
""",
}

FAREWELL = r"""
echo "I am asked to: $(sed -n '/^```task/,/^```$/p' "$ORCHESTRATOR_PROMPT_FILE" | sed -n 2p)"
cat > farewell.sh <<'END'
# Bids farewell to whoever is named, or to the world.
echo "Goodbye, ${1:-world}!"
END
cat > tests/bids_farewell.sh <<'END'
said=$(sh farewell.sh)
[ "$said" = "Goodbye, world!" ] || { echo "got '$said', not 'Goodbye, world!'"; exit 1; }
END
echo "added farewell.sh and a test for it"
"""

SHOUT = r"""
if grep -q '^not ok' "$ORCHESTRATOR_PROMPT_FILE"; then
  echo "the gate told me: $(grep -m1 '^not ok' "$ORCHESTRATOR_PROMPT_FILE")"
  echo "so shouting must be asked for: -l"
  cat > greet.sh <<'END'
# Greets whoever is named, or the world; aloud with -l.
loud=
if [ "$1" = -l ]; then loud=yes; shift; fi
said="Hello, ${1:-world}!"
if [ -n "$loud" ]; then said=$(echo "$said" | tr a-z A-Z); fi
echo "$said"
END
  cat > tests/greets_aloud.sh <<'END'
said=$(sh greet.sh -l Ada)
[ "$said" = "HELLO, ADA!" ] || { echo "got '$said', not 'HELLO, ADA!'"; exit 1; }
END
else
  echo "a greeting is louder in capitals"
  cat > greet.sh <<'END'
# Greets whoever is named, or the world, aloud.
echo "Hello, ${1:-world}!" | tr a-z A-Z
END
fi
"""

RUNAWAY = r"""
for number in 1 2 3; do (trap '' TERM INT HUP; while :; do sleep 1; done) & done
for number in 1 2 3; do setsid sh -c 'trap "" TERM HUP; while :; do sleep 1; done' & done
(setsid sh -c '(trap "" TERM; exec sleep 3600) & exec sleep 3600' >/dev/null 2>&1 &)
echo "out of control"
while :; do sleep 1; done
"""
#: What the runaway says once all its processes are on their way.
LOOSE = "out of control"


@dataclass(frozen=True, slots=True)
class Role:
    """One agent of the demo: its name, its task, what it is said to do, and its script."""

    name: str
    task_id: str
    about: str
    instructions: str
    script: str
    colour: str

    def request(self, repository: str, mark: str) -> dict[str, object]:
        """Return the body of its spawn."""
        return {
            "taskId": self.task_id,
            "gateProfile": "custom",
            "gates": ["tests"],
            "context": {"repository": repository, "branch": "main", "instructions": self.instructions},
            "options": {
                "runtime": "command",
                "command": ["sh", "-c", self.script],
                "env": {MARK: mark},
                "timeout": 120,
                "maxRetries": 0,
            },
        }


ADA = Role("ada", "farewell", "adds a farewell and a test for it", "Say goodbye, too.", FAREWELL, "cyan")
BEN = Role(
    "ben",
    "louder",
    "makes the greeting louder, and breaks two tests on the way",
    "Make the greeting louder.",
    SHOUT,
    "magenta",
)
CYD = Role(
    "cyd",
    "runaway",
    "runs away: deaf to SIGTERM, in sessions of its own, and never done",
    "Never end.",
    RUNAWAY,
    "yellow",
)
CAST = (ADA, BEN, CYD)
