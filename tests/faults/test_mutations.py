"""The rows of `make mutations` still fit the code and the document, also when nobody runs them."""

from __future__ import annotations

import pytest

from tests.kit.architecture import ROOT
from tests.mutations import MUTATIONS, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_what_a_mutation_takes_out_is_there(mutation: Mutation) -> None:
    assert mutation.old in (ROOT / mutation.file).read_text()
    assert f"| `{mutation.name}` |" in (ROOT / "docs/reliability.md").read_text()
    file, _, function = mutation.test.partition("::")
    assert f"def {function}" in (ROOT / file).read_text()
