"""Rails: what is no edit, or wrecks the model, is called so; a good edit is not."""

import re

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.editing import checks as rails
from kedit.editing.checks import checked
from kedit.editing.edit import Edit
from kedit.editing.provenance import made_by
from kedit.models import toy as toy_module
from kedit.scoring.drift import Baseline, baseline, held_out

REQUEST = toy_module.cases()[0].entity
NAME = "blocks.1.mlp.W_out"


@pytest.fixture(scope="module")
def text(toy: HookedTransformer) -> Baseline:
    return baseline(toy, held_out(toy, "", 1))


def edit_of(toy: HookedTransformer, delta: Tensor, name: str = NAME) -> Edit:
    return Edit({name: delta}, made_by("by hand", {}, [REQUEST], toy))


def noise(toy: HookedTransformer, size: float) -> Tensor:
    weight = dict(toy.named_parameters())[NAME]
    return size * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))


def test_an_edit_that_changes_little_is_in_no_trouble(
    toy: HookedTransformer, text: Baseline
) -> None:
    before = {name: value.clone() for name, value in toy.state_dict().items()}
    found = checked(toy, edit_of(toy, noise(toy, 1e-3)), [REQUEST], text)
    assert found.trouble == "" and found.drift is not None
    assert 0 < float(found.drift.kl.mean()) < 0.01
    assert all(torch.equal(value, before[name]) for name, value in toy.state_dict().items())


@pytest.mark.parametrize(
    ("size", "trouble"),
    [
        (float("nan"), "no longer finite"),
        (0.0, "moves no weight"),
        (1e-30, "moves no weight"),
        (10.0, "perplexity .* has become"),
    ],
)
def test_trouble_is_named(
    toy: HookedTransformer, text: Baseline, size: float, trouble: str
) -> None:
    found = checked(toy, edit_of(toy, noise(toy, size)), [REQUEST], text)
    assert re.search(trouble, found.trouble)
    assert (found.drift is None) is ("perplexity" not in trouble)


def test_a_weight_that_no_prompt_reads_moves_no_logit(
    toy: HookedTransformer, text: Baseline
) -> None:
    positions = dict(toy.named_parameters())["pos_embed.W_pos"]
    delta = torch.zeros_like(positions)
    delta[-1] = 1.0  # no prompt is as long as the context
    found = checked(toy, edit_of(toy, delta, "pos_embed.W_pos"), [REQUEST], text)
    assert "moves no logit" in found.trouble and found.drift is not None


def test_the_limit_is_a_setting(toy: HookedTransformer, text: Baseline) -> None:
    edit = edit_of(toy, noise(toy, 0.05))
    found = checked(toy, edit, [REQUEST], text)
    assert found.trouble == "" and found.drift is not None
    then, now = found.drift.perplexity
    for blown_up, told in ((0.99 * now / then, True), (1.01 * now / then, False)):
        trouble = checked(toy, edit, [REQUEST], text, blown_up=blown_up).trouble
        assert ("perplexity" in trouble) is told
    assert rails.BLOWN_UP == 2
