"""OV circuits: as the model itself writes with its attention forced, and as by hand."""

from collections.abc import Callable

import pytest
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.utilities.components_utils import get_act_name

from kedit.errors import InputError
from kedit.forward.runs import Run
from kedit.heads import Head
from kedit.models import toy as toy_module
from kedit.models.prompts import Prompt, decoded, encode
from probes.ov_circuit import OVWrites, ov_writes
from tests.conftest import FAMILIES, FamilyOf, clean_run
from tests.test_direct import alone, frozen, noised, only, silenced

FACT = toy_module.facts()[0]  # "The birthplace of Ada Alder is"


def asked(model: HookedTransformer, head: Head, k: int = 8, source: int | None = None) -> OVWrites:
    states = clean_run(model, FACT).states(model)
    return ov_writes(model, encode(model, FACT), states, head, k, source)


def attending(head: Head, source: int) -> Callable:
    """All of a head's attention from the last position on one."""

    def hook(pattern: Tensor, hook: object) -> Tensor:
        pattern = pattern.clone()
        pattern[:, head.head, -1] = 0
        pattern[:, head.head, -1, source] = 1
        return pattern

    return hook


def twin(model: HookedTransformer, run: Run, head: Head, source: int) -> Float[Tensor, " vocab"]:
    """What the last logits gain by the head, all its attention on `source`, when the other halves
    and the scales of norms are held: the model's own forward, with and without its z.
    """
    held, freed = frozen(model, run), get_act_name("attn_out", head.layer)
    z, pattern = (get_act_name(kind, head.layer) for kind in ("z", "pattern"))
    silence = (z, silenced(slice(None), -1, head.head))
    with_it = alone(model, run, held, freed, [(pattern, attending(head, source))])
    without = alone(model, run, held, freed, [silence])
    gained = (with_it - without).mean(0)
    return gained - gained.mean()


def assert_is(writes: OVWrites, wanted: Float[Tensor, " vocab"], answer: int, copied: int) -> None:
    """Logits are equal, and ranks too but for tokens as close as rounding."""
    close = 1e-4
    logits = torch.tensor([one.logit for one in writes.top])
    torch.testing.assert_close(logits, wanted.sort(descending=True).values, atol=close, rtol=0)
    assert [one.logit for one in writes.bottom] == logits.flip(0).tolist()
    assert writes.answer_logit == pytest.approx(float(wanted[answer]), abs=close)
    for rank, token in ((writes.answer_rank, answer), (writes.source_rank, copied)):
        above = (wanted > wanted[token] + close).sum()
        not_below = (wanted > wanted[token] - close).sum()  # itself counted
        assert above < rank <= not_below


@pytest.mark.parametrize("name", FAMILIES)
def test_it_writes_what_the_model_writes_under_forced_attention(
    family: FamilyOf, name: str
) -> None:
    model = family(name).model
    prompt, run = encode(model, FACT), noised(model)
    states, n_vocab = run.states(model), model.cfg.d_vocab_out
    answer, last = prompt.answer_ids[0], prompt.subject[1] - 1
    found = []
    for head, source in ((Head(1, 0), None), (Head(2, 3), None), (Head(2, 1), 1), (Head(3, 2), 2)):
        writes = ov_writes(model, prompt, states, head, n_vocab, source)
        assert (writes.head, writes.source) == (head, last if source is None else source)
        wanted = twin(model, run, head, writes.source)
        assert_is(writes, wanted, answer, int(prompt.tokens[writes.source]))
        found.append(wanted)
    # the control: heads and sources can be told, and by far
    assert torch.cdist(torch.stack(found), torch.stack(found)).add(torch.eye(4)).min() > 0.5


def test_the_extremes_are_named_the_most_extreme_first(toy: HookedTransformer) -> None:
    head, prompt = Head(2, 1), encode(toy, FACT)
    writes = asked(toy, head, k=5)
    logits = twin(toy, clean_run(toy, FACT), head, prompt.subject[1] - 1)
    ids = logits.argsort(descending=True).tolist()
    assert [one.token for one in writes.top] == [decoded(toy, token) for token in ids[:5]]
    assert [one.token for one in writes.bottom] == [
        decoded(toy, token) for token in reversed(ids[-5:])
    ]
    assert writes.top[0].logit > writes.top[4].logit > 0 > writes.bottom[4].logit
    assert writes.answer_rank == 1 + ids.index(prompt.answer_ids[0])
    assert writes.source_rank == 1 + ids.index(int(prompt.tokens[prompt.subject[1] - 1]))


def test_a_head_that_copies_by_hand(toy: HookedTransformer) -> None:
    cfg = HookedTransformerConfig(
        n_layers=1, d_model=6, n_heads=2, d_head=6, n_ctx=4, d_vocab=6, attn_only=True,
        normalization_type=None, init_weights=False, device="cpu",
    )  # fmt: skip
    model, one = HookedTransformer(cfg).requires_grad_(False), torch.eye(6)
    for weight in model.parameters():
        weight.zero_()
    model.embed.W_E.copy_(one)
    model.unembed.W_U.copy_(one)
    model.blocks[0].attn.W_V.copy_(torch.stack([3 * one, -3 * one]))
    model.blocks[0].attn.W_O.copy_(torch.stack([one, one]))
    model.blocks[0].attn.b_V[0, 4] = 2.0
    model.tokenizer = toy.tokenizer
    prompt = Prompt(torch.tensor([5, 2, 1]), ("a", "b", "c"), (0, 2), ((2, 3),), answer_ids=(4,))
    states = Run(prompt.tokens[None]).states(model)
    copying, erasing = (ov_writes(model, prompt, states, Head(0, head), k=2) for head in (0, 1))
    mean = (3 + 2) / 6
    named = decoded(model, 2), decoded(model, 4)
    assert [one.token for one in copying.top] == list(named)
    assert [one.logit for one in copying.top] == pytest.approx([3 - mean, 2 - mean])
    assert (copying.source, copying.source_rank, copying.answer_rank) == (1, 1, 2)
    assert copying.answer_logit == pytest.approx(2 - mean)
    assert erasing.bottom[0].token == named[0] and erasing.source_rank == 6
    assert erasing.bottom[0].logit == pytest.approx(-3 + 3 / 6)


def test_of_several_rows_the_mean_is_read(toy: HookedTransformer) -> None:
    prompt, states = encode(toy, FACT), noised(toy).states(toy)
    together, *rows = (
        ov_writes(toy, prompt, own, Head(1, 1)).answer_logit
        for own in (states, *(only(states, row) for row in range(3)))
    )
    assert together == pytest.approx(sum(rows) / 3, abs=1e-5)
    assert abs(rows[0] - rows[1]) > 1e-2


def test_what_is_asked_for_has_to_be_there(toy: HookedTransformer) -> None:
    n_pos = len(encode(toy, FACT).tokens)
    with pytest.raises(InputError, match="L4H0: the model has 4 layers of 4 heads"):
        asked(toy, Head(4, 0))
    with pytest.raises(InputError, match="L0H-1: the model has"):
        asked(toy, Head(0, -1))
    for source in (-1, n_pos):
        with pytest.raises(InputError, match=f"source {source}: must be a position from 0 to"):
            asked(toy, Head(0, 0), source=source)
    for k in (0, toy.cfg.d_vocab + 1):
        with pytest.raises(InputError, match=f"k {k}: must be from 1 to {toy.cfg.d_vocab}"):
            asked(toy, Head(0, 0), k=k)
    other = Run(torch.tensor([[0, 5, 6]])).states(toy)
    with pytest.raises(InputError, match=f"prompt has {n_pos} tokens, .* of the states 3"):
        ov_writes(toy, encode(toy, FACT), other, Head(0, 0))
    assert asked(toy, Head(3, 3), k=1, source=n_pos - 1).top  # the last of everything is there
