"""Attention knockout: against a slow twin in every family, by what cannot change, and what must."""

from collections import Counter, defaultdict
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.utilities.components_utils import get_act_name

from kedit.errors import InputError
from kedit.facts import Fact
from kedit.forward.metrics import METRICS
from kedit.heads import Head
from kedit.models import toy as toy_module
from kedit.models.prompts import ROLES, encode
from probes import knockout as knockout_module
from probes.knockout import Cut, KnockoutCurve, knockout
from probes.patch import AnswerMetric, Patch
from tests.conftest import FAMILIES, QUESTION, FamilyOf, assert_same_scores
from tests.twins import Hooks

FACTS = toy_module.facts()
OF, IN = FACTS[1], FACTS[17]  # "The birthplace of Bruno Birch is", "Bruno Birch was born in"
WHOLE = 8  # a window that reaches over all four layers from each of them
BEHIND = ("relation", "rest", "last")
OTHERS = ("bos", "subject", "relation", "rest")
SOME = frozenset({Head(0, 1), Head(2, 0), Head(2, 3), Head(3, 2)})
CUTS = (  # with a window each
    (Cut("last", "subject"), 1),
    (Cut("last", "last"), 2),
    (Cut("last", OTHERS), 3),
    (Cut("subject", "relation"), WHOLE),
    (Cut(("subject", "last"), ("relation", "rest"), SOME), 2),
)


def ask(
    model: HookedTransformer, cut: Cut, window: int = 1, fact: Fact = OF, question: bool = True
) -> KnockoutCurve:
    """The fact's own answer against the next token; else tokens that mean nothing to the model."""
    prompt = encode(model, fact)
    own = AnswerMetric(prompt.answer_ids[0], prompt.answer_ids[0] + 1)
    return knockout(model, prompt, own if question else QUESTION, cut, window)


def twin(model: HookedTransformer, fact: Fact, cut: Cut, layers: range) -> Tensor:
    """One forward, all logits; behind the softmax each edge is set to zero and the rest scaled."""
    prompt = encode(model, fact)

    def ends(group: str | tuple[str, ...]) -> list[int]:
        names = (group,) if isinstance(group, str) else group
        return [pos for pos, role in enumerate(prompt.roles) if role in names]

    def lose(pattern: Tensor, hook: object, layer: int) -> Tensor:
        pattern = pattern.clone()
        for head in range(pattern.shape[1]):
            if cut.heads is None or Head(layer, head) in cut.heads:
                for query in ends(cut.queries):
                    for key in ends(cut.keys):
                        pattern[0, head, query, key] = 0
        return pattern / pattern.sum(-1, keepdim=True)

    hooks: Hooks = [
        (get_act_name("pattern", layer), lambda act, hook, layer=layer: lose(act, hook, layer))
        for layer in layers
    ]
    logits = model.run_with_hooks(prompt.tokens[None], fwd_hooks=hooks)[0, -1].float()
    logprob = logits.log_softmax(-1)[QUESTION.answer]
    return torch.stack([logprob.exp(), logprob, logits[QUESTION.answer] - logits[QUESTION.foil]])


@pytest.mark.parametrize("name", FAMILIES)
def test_a_knockout_equals_its_slow_twin(family: FamilyOf, name: str) -> None:
    model = family(name).model
    uncut = twin(model, OF, CUTS[0][0], range(0))
    for cut, window in CUTS:
        curve = ask(model, cut, window, question=False)
        around = [Patch("attn_out", window).layers(layer, 4) for layer in range(4)]
        slow = {layers: twin(model, OF, cut, layers) for layers in set(around)}
        assert_same_scores(curve.scores, torch.stack([slow[one] for one in around], dim=1))
        assert_same_scores(curve.uncut, uncut)
        assert curve.difference("logprob").abs().max() > 0.01, cut


@pytest.mark.parametrize("name", ["gpt2", "gptj", "gemma2", "mistral", "bloom"])
def test_keys_that_nobody_sees_can_be_cut(family: FamilyOf, name: str) -> None:
    model = family(name).model
    for window in (1, WHOLE):
        ahead, seen = Cut("relation", ("subject", "last")), Cut(("subject", "last"), "relation")
        curve = ask(model, ahead, window, question=False)
        assert_same_scores(curve.scores, curve.uncut[:, None].expand(-1, 4))
        control = ask(model, seen, window, question=False)
        assert (control.difference("logprob").abs() > 1e-3).all()


@pytest.mark.parametrize("name", ["toy", "gptj", "gemma2", "llama", "neo", "bloom"])
def test_behind_a_cut_of_all_layers_the_subject_does_not_matter(
    toy: HookedTransformer, family: FamilyOf, name: str
) -> None:
    model = toy if name == "toy" else family(name).model
    one, other = OF, replace(OF, subject=FACTS[2].subject)
    assert len(encode(model, one).tokens) == len(encode(model, other).tokens)
    curves = [ask(model, Cut(BEHIND, "subject"), WHOLE, fact) for fact in (one, other)]
    assert_same_scores(curves[0].scores, curves[1].scores)
    assert abs(float(curves[0].uncut[1] - curves[1].uncut[1])) > 0.01  # it did before
    upper = [ask(model, Cut("last", "subject"), 1, fact) for fact in (one, other)]
    assert (upper[0].scores[1, 1:] - upper[1].scores[1, 1:]).abs().max() > 0.01


def test_a_last_token_that_sees_only_itself_says_the_same_to_all(toy: HookedTransformer) -> None:
    asked = [fact for fact in FACTS if fact.prompt.endswith(" is")]
    prompt = encode(toy, OF)
    question = AnswerMetric(prompt.answer_ids[0], prompt.answer_ids[0] + 1)
    curves = [
        knockout(toy, encode(toy, fact), question, Cut("last", OTHERS), WHOLE)
        for fact in asked[::7]
    ]
    for curve in curves:
        assert_same_scores(curve.scores, curves[0].scores[:, :1].expand(-1, 4))
    uncut = torch.stack([curve.uncut[0] for curve in curves])
    assert uncut.max() > 0.9 and uncut.min() < 0.1


@pytest.mark.parametrize(
    ("cut", "facts"),
    [
        (Cut(BEHIND, "subject"), FACTS[16:32]),  # who was born in?
        (Cut(("subject", "rest", "last"), "relation"), [f for f in FACTS if " of " in f.template]),
    ],
    ids=["subject", "relation"],
)
def test_what_is_cut_off_can_only_be_guessed(
    toy: HookedTransformer, cut: Cut, facts: list[Fact]
) -> None:
    """Prompts that differ in what is cut off only get the same answer, whoever has another."""
    groups = defaultdict(list)
    for fact in facts:
        same = "" if cut.keys == "subject" else fact.subject
        groups[same, encode(toy, fact).roles].append(fact)
    n_guessed, known, left = 0, 0.0, 0.0
    for group in groups.values():
        n_guessed += max(Counter(fact.object for fact in group).values())
        for fact in group:
            curve = ask(toy, cut, WHOLE, fact)
            known += float(curve.uncut[0])
            left += float(curve.scores[0, 0])
    # n facts with the same object cannot get more than n times its probability
    assert left < n_guessed + 1e-3
    assert known > 0.9 * len(facts) > 1.2 * n_guessed


def test_a_window_over_all_layers_is_the_same_around_each(toy: HookedTransformer) -> None:
    curve = ask(toy, Cut("last", "subject"), WHOLE)
    assert_same_scores(curve.scores, curve.scores[:, :1].expand(-1, 4))
    single = ask(toy, Cut("last", "subject"), 1)
    assert (single.scores[2] - curve.scores[2, 0]).abs().max() > 0.01


def test_only_windows_with_one_of_the_heads_change(toy: HookedTransformer) -> None:
    cut = Cut("last", OTHERS, frozenset({Head(1, 0), Head(1, 2)}))
    curve = ask(toy, cut, window=2)  # layers l - 1 and l
    assert (curve.difference("logit_diff").abs() > 1e-3).tolist() == [False, True, True, False]
    all_heads = frozenset(Head(layer, head) for layer in range(4) for head in range(4))
    every, named = (ask(toy, Cut("last", OTHERS, heads), 2) for heads in (None, all_heads))
    assert torch.equal(every.scores, named.scores)
    assert not torch.allclose(every.scores[:, 1], curve.scores[:, 1], atol=1e-3)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_batching_does_not_matter(
    toy: HookedTransformer, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    together = ask(toy, Cut("last", "relation"), 2)
    monkeypatch.setattr(knockout_module, "ROWS_PER_BATCH", rows)
    apart = ask(toy, Cut("last", "relation"), 2)
    assert_same_scores(apart.scores, together.scores)
    assert_same_scores(apart.uncut, together.uncut)
    assert together.difference("logit_diff").abs().max() > 0.01


def test_layers_are_those_asked_for(toy: HookedTransformer) -> None:
    prompt, cut = encode(toy, OF), Cut("last", "relation")
    curve = knockout(toy, prompt, QUESTION, cut, 2, layers=(2, 0))
    assert (curve.layers, curve.window, curve.cut) == ((2, 0), 2, cut)
    whole = knockout(toy, prompt, QUESTION, cut, 2)
    assert whole.layers == (0, 1, 2, 3)
    assert_same_scores(curve.scores, whole.scores[:, [2, 0]])
    assert not torch.allclose(whole.scores[:, 0], whole.scores[:, 2], atol=1e-3)


def test_changes_are_derived_from_the_scores() -> None:
    scores, uncut = torch.tensor([[0.2, 0.6], [-1.6094, -0.5108], [1.0, 3.0]]), [0.4, -0.9163, 2.0]
    curve = KnockoutCurve(Cut("last", "bos"), 1, (0, 1), scores, torch.tensor(uncut))
    torch.testing.assert_close(curve.difference(), torch.tensor([-0.2, 0.2]))
    for index, metric in enumerate(METRICS):
        assert torch.equal(curve.difference(metric), scores[index] - uncut[index])
    torch.testing.assert_close(curve.relative_change, torch.tensor([-0.5, 0.5]), atol=1e-4, rtol=0)


def test_a_probability_too_small_for_a_float_still_has_a_change() -> None:
    scores, uncut = torch.tensor([[0.0], [-200.0], [0.0]]), torch.tensor([0.0, -199.0, 0.0])
    curve = KnockoutCurve(Cut("last", "bos"), 1, (0,), scores, uncut)
    assert float(curve.relative_change) == pytest.approx(1 / 2.71828 - 1, abs=1e-4)


def test_a_knockout_leaves_the_model_as_it_was(toy: HookedTransformer) -> None:
    tokens = encode(toy, OF).tokens[None]
    logits = toy(tokens)
    assert ask(toy, Cut("last", "relation")).difference("logit_diff").abs().max() > 0.01
    with pytest.raises(InputError):
        ask(toy, Cut("bos", "bos"))  # stops in the middle of a forward
    assert not any(point.fwd_hooks or point.bwd_hooks for point in toy.hook_dict.values())
    assert torch.equal(toy(tokens), logits)


def test_a_query_keeps_at_least_one_key(
    toy: HookedTransformer, bosless_gpt2: HookedTransformer, family: FamilyOf
) -> None:
    with pytest.raises(InputError, match=r"cutting bos to bos in layer 0 .* to: 0 \('<bos>'\)$"):
        ask(toy, Cut("bos", "bos"))
    with pytest.raises(InputError, match=r"last to bos\+subject.* in layer 1 .*: 6 \(' is'\)$"):
        cut = Cut("last", ROLES, frozenset({Head(1, 2)}))  # one head is enough
        ask(toy, cut, fact=OF)
    assert ask(toy, Cut("subject", "subject")).scores.isfinite().all()  # BOS is left to see
    with pytest.raises(InputError, match=r"subject to subject in layer 0 .*: 0 \('B"):
        ask(bosless_gpt2, Cut("subject", "subject"), fact=IN)
    # a local layer may see no further than the cut: here from the subject's fifth token on
    long = replace(IN, subject="Bruno Birch Bruno Birch Bruno")
    assert ask(family("gpt2").model, Cut("subject", "subject"), fact=long).scores.isfinite().all()
    with pytest.raises(InputError, match=r"in layer 0 .* to: 4 \(' Birch'\), 5 \(' Bruno'\)$"):
        ask(family("mistral").model, Cut("subject", "subject"), fact=long)


@pytest.mark.parametrize(
    ("cut", "window", "layers", "message"),
    [
        (Cut("last", "object"), 1, None, "role 'object': must be one of bos, subject"),
        (Cut("rest", "subject"), 1, None, "has no token of the role rest: .* bos, subject"),
        (Cut("last", "rest"), 1, None, "no token of the role rest"),
        (Cut("last", "subject", frozenset()), 1, None, "cut last to subject: heads is empty"),
        (Cut("last", "bos", frozenset({Head(4, 0)})), 1, None, "L4H0: the model has L0H0 to L3H3"),
        (Cut("last", "bos", frozenset({Head(0, -1)})), 1, None, "L0H-1: the model has"),
        (Cut("last", "subject"), 0, None, "window 0: must be at least 1"),
        (Cut("last", "subject"), 1, (0, 4), r"layers \(0, 4\): the model has layers 0 to 3"),
        (Cut("last", "subject"), 1, (-1,), r"layers \(-1,\)"),
    ],
)
def test_what_cannot_be_cut_is_refused(
    toy: HookedTransformer, cut: Cut, window: int, layers: tuple[int, ...] | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        knockout(toy, encode(toy, IN), QUESTION, cut, window, layers)


def test_a_cut_is_named_by_its_ends() -> None:
    assert str(Cut("last", "subject")) == "last to subject"
    assert str(Cut(("relation", "rest"), ("bos", "subject"))) == "relation+rest to bos+subject"
