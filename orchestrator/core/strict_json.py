"""The one JSON parser for what strangers send: RFC 8259 and nothing more, with limits.

Refuses what other parsers read in different ways (duplicate keys, NaN, lone surrogates, a byte order
mark) or what only serves to hurt (deep nesting, endless numbers). Whatever it is given, it returns an
object or raises `NotJson`. Callers: `api.strict_json`, for the bodies of requests, and `core.quality`, for
a coordinator's answers.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

MAX_DEPTH = 32
#: Digits of a number; 64-bit integers have up to 19.
MAX_DIGITS = 19

Json = dict[str, Any]


class NotJson(ValueError):
    """The text is not one JSON object as RFC 8259 has it; says in one line why."""


def parse_object(body: bytes) -> Json:
    """Return the object that the body is."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NotJson(f"the body is not UTF-8 at byte {error.start}") from None
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise NotJson(f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise NotJson(f"the body is nested deeper than {MAX_DEPTH}") from None
    if not isinstance(value, dict):
        raise NotJson(f"the body is {_NAMES.get(type(value), 'no object')}, not an object")
    _check_depth(value)
    canonical(value)
    return value


def canonical(value: Json) -> bytes:
    """Return the same bytes for the same object, however it was written."""
    try:
        return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        raise NotJson("the body holds half a surrogate pair, which is no character") from None


_NAMES = {
    list: "an array",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "a boolean",
    type(None): "null",
}


def _pairs(pairs: list[tuple[str, Any]]) -> Json:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise NotJson(f"the key {key[:80]!r} is there twice")
            seen.add(key)
    return value


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > MAX_DIGITS:
        raise NotJson(f"a number has more than {MAX_DIGITS} digits")
    return int(digits)


def _decimal(digits: str) -> float:
    number = float(digits)
    if len(digits) > 4 * MAX_DIGITS or not math.isfinite(number):
        raise NotJson("a number is too large or too long")
    return number


def _constant(name: str) -> NoReturn:
    raise NotJson(f"{name} is no JSON")


def _check_depth(value: Json) -> None:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for container in level
            for item in (container.values() if isinstance(container, dict) else container)
            if isinstance(item, dict | list)
        ]
        if not level:
            return
    raise NotJson(f"the body is nested deeper than {MAX_DEPTH}")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_pairs, parse_int=_integer, parse_float=_decimal, parse_constant=_constant
)
