"""The rules at work on one text: which parts of it look like a secret.

A rule is looked at only where one of its keywords stands in the text, found for all rules by one
Aho-Corasick pass; its expression runs in RE2, in time linear in the text, because the text is hostile. The
invariant: nothing in the text, and no file of the repository, can switch a rule off. Runs in a process of
its own (`inside`), never in the supervisor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import re2
from ahocorasick_rs import BytesAhoCorasick

#: Matches of one rule in one text that are looked at, allowed ones too. What is beyond is not passed over: it
#: blocks.
MAX_MATCHES = 50_000
#: Rules that guess by names and entropy: for these, and only these, some files are never looked at.
GUESSES = frozenset({"generic-api-key"})

_OPTIONS = re2.Options()
_OPTIONS.encoding = re2.Options.Encoding.LATIN1
_OPTIONS.log_errors = False
_OPTIONS.max_mem = 64 << 20


class Match(Protocol):
    """A match of RE2, which has no types of its own."""

    def group(self, group: int = 0) -> bytes:
        """Return a group's bytes; of one that took no part, None."""
        ...

    def groups(self) -> tuple[bytes | None, ...]:
        """Return all groups but the whole."""
        ...

    def start(self, group: int = 0) -> int:
        """Return where a group begins."""
        ...

    def span(self) -> tuple[int, int]:
        """Return where the whole begins and ends."""
        ...


class Pattern(Protocol):
    """An expression of RE2 over bytes."""

    def search(self, text: bytes, pos: int = 0) -> Match | None:
        """Return its first match from there on."""
        ...

    def finditer(self, text: bytes) -> Iterator[Match]:
        """Yield its matches."""
        ...

    def sub(self, repl: Callable[[Match], bytes], text: bytes) -> bytes:
        """Return the text with every match replaced."""
        ...


def compiled(pattern: str) -> Pattern:
    """Return the expression over bytes."""
    made: Pattern = re2.compile(pattern.encode(), _OPTIONS)
    return made


class TooMuch(Exception):
    """The text holds more than is looked through; the message says of what."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A part of a text that looks like a secret."""

    rule: str
    start: int
    secret: bytes


class AllowList:
    """What a rule takes for no secret: the rules' own words, never the repository's."""

    def __init__(self, words: dict[str, Any]) -> None:
        self._words = words
        self._target = words.get("regexTarget", "secret")
        self._stopwords = [word.lower().encode() for word in words.get("stopwords", ())]

    @cached_property
    def _patterns(self) -> list[Pattern]:
        return [compiled(pattern) for pattern in self._words.get("regexes", ())]

    @cached_property
    def _paths(self) -> list[Pattern]:
        return [compiled(pattern) for pattern in self._words.get("paths", ())]

    def prepare(self) -> None:
        """Compile its expressions now."""
        _ = self._patterns, self._paths

    def names(self, path: bytes) -> bool:
        """Return whether it lists the path."""
        return any(pattern.search(path) for pattern in self._paths)

    def allows(self, path: bytes, secret: bytes, match: bytes, line: bytes) -> bool:
        """Return whether it takes the match for no secret."""
        target = {"match": match, "line": line}.get(self._target, secret)
        checks = []
        if "paths" in self._words:
            checks.append(self.names(path))
        if "regexes" in self._words:
            checks.append(any(pattern.search(target) for pattern in self._patterns))
        if self._stopwords:
            checks.append(any(word in secret.lower() for word in self._stopwords))
        return bool(checks) and (all if self._words.get("condition") == "AND" else any)(checks)


class Rule:
    """One rule of the data; its expressions are compiled when they are first needed."""

    def __init__(self, words: dict[str, Any], everywhere: AllowList) -> None:
        self.id: str = words["id"]
        self.keywords = [word.lower().encode() for word in words.get("keywords", ())]
        self.by_name = "regex" not in words
        self._words = words
        self._group: int = words.get("secretGroup", 0)
        self._entropy: float = words.get("entropy", 0.0)
        self._allow = [AllowList(each) for each in words.get("allowlists", ())]
        self._everywhere = everywhere

    @cached_property
    def _pattern(self) -> Pattern:
        return compiled(self._words["regex"])

    @cached_property
    def _path(self) -> Pattern | None:
        return compiled(self._words["path"]) if "path" in self._words else None

    def prepare(self) -> None:
        """Compile its expressions now."""
        _ = self.by_name or self._pattern, self._path
        for allow in (*self._allow, self._everywhere):
            allow.prepare()

    def concerns(self, path: bytes) -> bool:
        """Return whether the rule looks at files of that name."""
        if self._path is not None and not self._path.search(path):
            return False
        return self.id not in GUESSES or not self._everywhere.names(path)

    def hits(self, text: bytes, path: bytes) -> Iterator[Hit]:
        """Yield what the rule finds, each value once; raises `TooMuch`."""
        seen: set[bytes] = set()
        for count, match in enumerate(self._pattern.finditer(text)):
            if count >= MAX_MATCHES:
                raise TooMuch(f"more than {MAX_MATCHES} places that rule {self.id} has to look at")
            secret, start = self._secret(match)
            if secret and secret not in seen and not self._is_harmless(match, secret, text, path):
                seen.add(secret)
                yield Hit(self.id, start, secret)

    def _secret(self, match: Match) -> tuple[bytes, int]:
        if self._group:
            return match.group(self._group) or b"", match.start(self._group)
        for number, group in enumerate(match.groups(), start=1):
            if group:
                return group, match.start(number)
        return match.group(0).strip(b"\n"), match.start()

    def _is_harmless(self, match: Match, secret: bytes, text: bytes, path: bytes) -> bool:
        if self._entropy and entropy(secret) <= self._entropy:
            return True
        if self.id in GUESSES and not any(byte in b"0123456789" for byte in secret):
            return True
        start, end = match.span()
        whole = match.group(0).strip(b"\n")
        line = text[text.rfind(b"\n", 0, start) + 1 : _line_end(text, end)]
        # Of the list for all rules, not its paths: a token in a lock file or a picture is a token.
        return self._everywhere.allows(b"", secret, whole, line) or any(
            allow.allows(path, secret, whole, line) for allow in self._allow
        )


def _line_end(text: bytes, at: int) -> int:
    end = text.find(b"\n", at)
    return len(text) if end < 0 else end


def entropy(value: bytes) -> float:
    """Return Shannon's entropy in bits a byte."""
    size = len(value)
    return -sum((n := value.count(byte)) / size * math.log2(n / size) for byte in set(value))


class Engine:
    """All rules together."""

    def __init__(self, rules: dict[str, Any], only: Iterable[str] | None = None) -> None:
        wanted = None if only is None else set(only)
        everywhere = AllowList(rules["allowlist"])
        made = [
            Rule(words, everywhere) for words in rules["rules"] if wanted is None or words["id"] in wanted
        ]
        self._by_name = [rule for rule in made if rule.by_name]
        self._rules = [rule for rule in made if not rule.by_name]
        keywords: dict[bytes, list[int]] = {}
        for number, rule in enumerate(self._rules):
            for word in rule.keywords:
                keywords.setdefault(word, []).append(number)
        self._of_keyword = list(keywords.values())
        self._automaton = BytesAhoCorasick(list(keywords)) if keywords else None

    def prepare(self) -> None:
        """Compile all expressions now, rather than each when it is first needed."""
        for rule in (*self._rules, *self._by_name):
            rule.prepare()

    def name_hits(self, path: bytes) -> Sequence[Hit]:
        """Return what is found in that a file of this name exists."""
        return [Hit(rule.id, 0, path) for rule in self._by_name if rule.concerns(path)]

    def hits(self, text: bytes, path: bytes) -> Iterator[Hit]:
        """Yield what looks like a secret in a text; raises `TooMuch`."""
        if self._automaton is None:
            return
        found = self._automaton.find_matches_as_indexes(text.lower(), overlapping=True)
        numbers = {number for word in {match[0] for match in found} for number in self._of_keyword[word]}
        for number in sorted(numbers):
            rule = self._rules[number]
            if rule.concerns(path):
                yield from rule.hits(text, path)
