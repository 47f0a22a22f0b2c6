"""Rows packed: what they open with is run once, and comes out as if each had been run alone."""

import pytest
import torch

from kedit.forward import packed
from kedit.forward.packed import run_first_layers, unpacked
from kedit.forward.reading import read
from tests.conftest import FamilyOf

# two that open alike, a third that leaves them sooner, one alone, and one that opens another
ROWS = ((0, 5, 9, 20, 21, 30), (0, 5, 9, 20, 33), (0, 5, 40, 41), (7, 8), (0, 5, 9, 20, 33, 34))


@pytest.mark.parametrize("n_layers", [0, 1, 3])
@pytest.mark.parametrize("name", ["gpt2", "gemma3", "mistral"])  # learned, rotary, local positions
def test_rows_that_open_alike_are_as_if_read_alone(
    family: FamilyOf, name: str, n_layers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = family(name).model
    n_run = []
    embedded = packed.embedded

    def counted(model, tokens, mask, real):
        n_run.append(int(real.sum()))
        return embedded(model, tokens, mask, real)

    monkeypatch.setattr(packed, "embedded", counted)
    resid, mask, real = run_first_layers(model, ROWS, n_layers)
    together = unpacked(resid, real)
    assert sum(n_run) == 15 < real.sum() == sum(map(len, ROWS))
    assert mask.all() and mask.shape == real.shape
    for row, tokens in enumerate(ROWS):
        alone, _, _ = run_first_layers(model, [tokens], n_layers)
        torch.testing.assert_close(together[row, : len(tokens)], alone, atol=1e-5, rtol=1e-4)


# longer than half of the context; two that share almost all of it, and one that shares nothing
LONG = ((0, *range(5, 60), 70, 71), (0, *range(5, 60), 72), tuple(range(100, 160)))


@pytest.mark.parametrize("name", ["gpt2", "opt", "gemma3", "llama", "neox"])
def test_an_opening_beside_a_longer_row_does_not_pass_the_context(
    family: FamilyOf, name: str
) -> None:
    """Their widths together do, though no row does."""
    model = family(name).model
    assert max(map(len, LONG)) <= model.cfg.n_ctx < 56 + 60
    resid, _, real = run_first_layers(model, LONG, 2)
    together = unpacked(resid, real)
    for row, tokens in enumerate(LONG):
        slow = model(torch.tensor([tokens]), stop_at_layer=2)[0]
        torch.testing.assert_close(together[row, : len(tokens)], slow, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "gemma3", "mistral", "gemma2", "bloom", "olmo3"])
def test_reading_does_not_pass_the_context_either(family: FamilyOf, name: str) -> None:
    model = family(name).model
    reading = read(model, LONG).last
    for row, tokens in enumerate(LONG):
        slow = model(torch.tensor([tokens]), stop_at_layer=model.cfg.n_layers)[0, -1]
        torch.testing.assert_close(reading[row], slow, atol=1e-5, rtol=1e-4)
