"""The leverage of keys is that of single solves, and says what an edit writes elsewhere."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformer_lens import HookedTransformer

from kedit.editing.deltas import LowRank
from kedit.editing.keys import keys
from kedit.editing.moments import moments
from kedit.editing.write_sites import WriteSite
from kedit.editors import ROME
from kedit.errors import InputError
from kedit.models import toy as toys
from kedit.results.leverage import Leverages
from kedit.run_folder import RunFolder
from kedit.studies.leverage import measure_leverage

CASES = toys.cases()[:3]
N_TOKENS = 4000  # of the text for C


@pytest.mark.parametrize("name", ["toy", "gpt2"])
def test_each_leverage_is_that_by_hand(
    name: str, toy: HookedTransformer, bosless_gpt2: HookedTransformer
) -> None:
    model = toy if name == "toy" else bosless_gpt2
    found = measure_leverage(model, CASES, layers=[1], text="kedit", n_tokens=N_TOKENS)
    (layer,) = found.layers
    attn, mlp = WriteSite(1, "attn"), WriteSite(1, "mlp")
    (second,) = moments(model, [(attn, mlp)], "kedit", N_TOKENS)
    saved, of_head = [], []
    for case in CASES:
        of_case = keys(
            model, [attn, mlp], case.requests("relation")[0].demands[0], [""], "object_last"
        )
        z, k = (of_case[site][0].double() for site in (attn, mlp))
        by_hand = {}
        for half, key, matrix in (
            ("attn", z, second.of(attn).matrix),
            ("mlp", k, second.of(mlp).matrix),
            ("both", torch.cat([z, k]), second.matrix),
        ):
            by_hand[half] = float(key @ torch.linalg.inv(matrix) @ key)
        saved.append(1 - by_hand["mlp"] / by_hand["both"])
        width = len(z) // model.cfg.n_heads
        chosen = torch.cat([torch.arange(width, 2 * width), torch.arange(len(z), len(z) + len(k))])
        matrix = second.matrix[chosen][:, chosen]
        key = torch.cat([z[width : 2 * width], k])
        of_head.append(1 - by_hand["mlp"] / float(key @ torch.linalg.inv(matrix) @ key))
    assert layer.saved.mean == pytest.approx(np.mean(saved), rel=1e-4)
    assert layer.saved_by_head[1] == pytest.approx(np.mean(of_head), rel=1e-3)
    # a longer key never has less leverage
    assert all(0 <= head <= max(saved) for head in layer.saved_by_head)


def test_it_says_what_an_edit_writes_at_other_tokens(toy: HookedTransformer) -> None:
    """The mean square of what a rank-one edit writes, over that at its own key."""
    site, (case, *_) = WriteSite(2, "mlp"), CASES
    found = measure_leverage(
        toy,
        [case],
        perspective="entity",
        where="subject_last",
        layers=[2],
        text="self",
        n_tokens=N_TOKENS,
    )
    (layer,) = found.layers
    leverage = float(layer.leverage["mlp"].mean) * site.d_key(toy)
    rome = ROME(2, contexts=("",), text="self", n_tokens=N_TOKENS)
    edit = rome(toy, [case.entity])
    (delta,) = edit.deltas.values()
    assert isinstance(delta, LowRank)
    delta = delta.left @ delta.right
    own = keys(toy, [site], case.entity.demands[0], [""], "subject_last")[site][0]
    (second,) = moments(toy, [(site,)], "self", N_TOKENS)
    elsewhere = torch.einsum("ki,kl,li->", delta.double(), second.matrix, delta.double())
    assert float(elsewhere / (own @ delta).double().square().sum()) == pytest.approx(
        1 / leverage, rel=1e-3
    )


def test_it_is_saved_drawn_and_loaded(toy: HookedTransformer, tmp_path: Path) -> None:
    found = measure_leverage(toy, CASES)
    assert found.at_mean_token == 64 / (64 + 256)  # 4 heads of 16 numbers, 256 neurons
    found.save(RunFolder(tmp_path))
    again = Leverages.load(tmp_path)
    assert again.table() == found.table() and len(again.layers) == toy.cfg.n_layers
    assert found.plot().axes
    assert {row["half"] for row in found.rows()} == {"attn", "mlp", "both"}


def test_what_cannot_be_measured_is_refused(toy: HookedTransformer) -> None:
    with pytest.raises(InputError, match="no case"):
        measure_leverage(toy, [])
    with pytest.raises(InputError, match="it has 4 layers"):
        measure_leverage(toy, CASES, layers=[9])
