"""The prices of models: those that come with the package, and before them the operator's own.

A file of prices is TOML: a table a model, see `prices.toml`. The invariant: what cannot be read is one line
that names the file, at the start. Called by `assembly`.
"""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path

from pydantic import ValidationError

from orchestrator.core.price import Price, Prices
from orchestrator.errors import SettingsError

#: Bytes of a file of prices that are read.
MAX_BYTES = 1 << 20


def read_prices(own: Path | None = None) -> Prices:
    """Return the prices of the package, and before them those of a file; raises `SettingsError`."""
    ours = parse_prices(files("orchestrator.agents").joinpath("prices.toml").read_text())
    if own is None:
        return Prices(ours)
    try:
        with own.open("rb") as file:
            text = file.read(MAX_BYTES).decode()
        return Prices({**ours, **parse_prices(text)})
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(f"MODEL_PRICES={str(own)!r} cannot be used: {why}") from None


def parse_prices(text: str) -> dict[str, Price]:
    """Return the prices of a file's text; raises `ValueError` with one line that says what is wrong."""
    found: dict[str, Price] = {}
    for model, table in tomllib.loads(text).items():
        try:
            found[model] = Price.model_validate(table)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, (model, *first["loc"])))
            raise ValueError(f"{place}: {first['msg']}") from None
    return found
