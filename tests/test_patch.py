"""What every sweep has to keep to: on the toy, whose facts can be broken and mended."""

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from transformer_lens import HookedTransformer

from kedit.errors import InputError
from kedit.forward import metrics
from kedit.forward import patched as forward
from kedit.forward.metrics import METRICS, answer_scores
from kedit.forward.runs import Held, Run
from kedit.models import toy as toy_module
from kedit.models.prompts import encode
from probes import patch as patch_module
from probes.corrupt import Corruption, add_noise, noise_rule
from probes.patch import AnswerMetric, Patch, sweep
from tests.conftest import PATCHES, assert_same_scores, clean_run, swept

FACT = toy_module.facts()[0]  # "The birthplace of Ada Alder is"
SWEPT = pytest.mark.parametrize("patch", PATCHES, ids=str)


@pytest.fixture(scope="module")
def question(toy: HookedTransformer) -> AnswerMetric:
    answer = encode(toy, FACT).answer_ids[0]
    return AnswerMetric(answer, answer + 1)


@pytest.fixture(scope="module")
def noised(toy: HookedTransformer) -> Corruption:
    noise = noise_rule(toy, "s3", toy_module.facts(), "subject")
    return add_noise(toy, encode(toy, FACT), "subject", noise, samples=5, seed=0)


@pytest.fixture
def hookable(toy: HookedTransformer) -> Iterator[HookedTransformer]:
    """The toy for tests that hang hooks on it or turn its switches."""
    before = dict(vars(toy.cfg))
    yield toy
    toy.reset_hooks(including_permanent=True)
    vars(toy.cfg).update(before)


@SWEPT
def test_restoring_into_an_uncorrupted_run_changes_nothing(
    toy: HookedTransformer, noised: Corruption, question: AnswerMetric, patch: Patch
):
    unharmed = Corruption(Run(encode(toy, FACT).tokens.expand(3, -1)), (4,), "none")
    grid = swept(toy, FACT, unharmed, patch, question=question)
    assert grid.indirect_effect().abs().max() < 1e-6
    assert abs(grid.total_effect()) < 1e-5  # three rows round otherwise than one
    control = swept(toy, FACT, noised, patch, question=question)
    assert control.total_effect() > 0.2  # the noise does harm
    assert control.indirect_effect().abs().max() > 0.02  # and the same patch mends some of it


@pytest.mark.parametrize("metric", METRICS)
def test_the_last_state_of_all_restores_the_clean_score(
    toy: HookedTransformer, noised: Corruption, question: AnswerMetric, metric: str
):
    grid = swept(toy, FACT, noised, Patch("resid_post"), question=question)
    last = grid.indirect_effect(metric)[-1, -1]
    assert float(last) == pytest.approx(grid.total_effect(metric), abs=1e-5)
    assert abs(grid.total_effect(metric)) > 0.2


@SWEPT
def test_before_the_first_corrupted_position_nothing_can_be_restored(
    toy: HookedTransformer, noised: Corruption, question: AnswerMetric, patch: Patch
):
    grid = swept(toy, FACT, noised, patch, question=question)
    first = noised.positions[0]
    assert first > 1
    assert grid.indirect_effect()[:, :first].abs().max() < 1e-6
    assert grid.indirect_effect()[:, first:].abs().max() > 1e-3


@pytest.mark.parametrize("severed", ["mlp_out", "attn_out"])
def test_severing_leaves_the_last_layer_as_it_was_and_changes_the_first(
    toy: HookedTransformer, noised: Corruption, question: AnswerMetric, severed: Held
):
    plain = swept(toy, FACT, noised, Patch("resid_post"), question=question)
    cut = swept(toy, FACT, noised, Patch("resid_post", severed=severed), question=question)
    assert_same_scores(cut.restored[:, -1], plain.restored[:, -1])  # nothing above it to sever
    assert (cut.restored[0, 0] - plain.restored[0, 0]).abs().max() > 1e-3


def test_the_top_mlp_at_the_last_position_is_restored_as_by_hand(
    toy: HookedTransformer, noised: Corruption, question: AnswerMetric
):
    clean, corrupted = clean_run(toy, FACT).states(toy), noised.run.states(toy)
    grid = sweep(toy, clean, corrupted, Patch("mlp_out"), question)
    without = corrupted.resid[-1] - corrupted.mlp_out[-1]
    final = (without + clean.mlp_out[-1])[:, -1]
    by_hand = answer_scores(toy, final, question.answer, question.foil).mean(1)
    assert_same_scores(grid.restored[:, -1, -1], by_hand)


@SWEPT
def test_the_score_is_the_mean_over_samples(
    toy: HookedTransformer, noised: Corruption, patch: Patch
):
    clean, corrupted = clean_run(toy, FACT).states(toy), noised.run.states(toy)
    alone = []
    for row in range(5):
        one = replace(
            corrupted,
            **{
                name: tuple(t[row : row + 1] for t in kept)
                for name, kept in vars(corrupted).items()
            },
        )
        alone.append(sweep(toy, clean, one, patch, AnswerMetric(300, 301)).restored)
    together = sweep(toy, clean, corrupted, patch, AnswerMetric(300, 301)).restored
    assert_same_scores(together, torch.stack(alone).mean(0))


@pytest.mark.slow
@pytest.mark.parametrize("budget", [1, 30, 100])
@SWEPT
def test_batching_does_not_matter(
    toy: HookedTransformer,
    noised: Corruption,
    monkeypatch: pytest.MonkeyPatch,
    patch: Patch,
    budget: int,
):
    whole = swept(toy, FACT, noised, patch)
    monkeypatch.setattr(forward, "max_tokens", lambda model, n_ctx: budget)
    monkeypatch.setattr(patch_module, "ROWS_UNEMBEDDED", budget)
    monkeypatch.setattr(metrics, "CHUNK", 5 * budget)
    assert_same_scores(swept(toy, FACT, noised, patch).restored, whole.restored)


def test_a_sweep_leaves_the_model_as_it_found_it(toy: HookedTransformer, noised: Corruption):
    weights = {name: value.clone() for name, value in toy.state_dict().items()}
    logits = toy(encode(toy, FACT).tokens[None])
    for patch in PATCHES:
        swept(toy, FACT, noised, patch)
    assert all(torch.equal(value, weights[name]) for name, value in toy.state_dict().items())
    assert not any(point.fwd_hooks or point.bwd_hooks for point in toy.hook_dict.values())
    assert torch.equal(toy(encode(toy, FACT).tokens[None]), logits)


def test_a_sweep_leaves_the_states_as_it_found_them(toy: HookedTransformer, noised: Corruption):
    states = clean_run(toy, FACT).states(toy), noised.run.states(toy)
    before = [[t.clone() for t in kept] for state in states for kept in vars(state).values()]
    for patch in PATCHES:
        sweep(toy, *states, patch, AnswerMetric(300, 301))
    after = [kept for state in states for kept in vars(state).values()]
    assert all(
        torch.equal(x, y)
        for one, other in zip(before, after, strict=True)
        for x, y in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("is_permanent", [False, True])
def test_a_live_hook_is_refused_by_name(
    hookable: HookedTransformer, noised: Corruption, is_permanent: bool
):
    hookable.add_hook(
        "blocks.1.hook_mlp_out", lambda tensor, hook: tensor, is_permanent=is_permanent
    )
    with pytest.raises(InputError, match=r"live hooks \(blocks\.1\.hook_mlp_out\)"):
        swept(hookable, FACT, noised, Patch("resid_post"))


@pytest.mark.parametrize(
    "switch", ["use_attn_in", "use_split_qkv_input", "use_hook_mlp_in", "use_attn_result"]
)
def test_a_switch_that_changes_what_blocks_read_is_refused_by_name(
    hookable: HookedTransformer, noised: Corruption, switch: str
):
    setattr(hookable.cfg, switch, True)
    with pytest.raises(InputError, match=f"these switched off: model.cfg.{switch}"):
        clean = Run(encode(hookable, FACT).tokens[None])
        setattr(hookable.cfg, switch, False)
        states = clean.states(hookable), noised.run.states(hookable)
        setattr(hookable.cfg, switch, True)
        sweep(hookable, *states, Patch("resid_post"), AnswerMetric(300, 301))


@pytest.mark.parametrize(
    ("site", "window", "severed", "message"),
    [
        ("resid_pre", 1, "", "site 'resid_pre': must be one of resid_post, mlp_out, attn_out, z"),
        ("", 1, "", "site ''"),
        ("mlp_out", 0, "", "window 0"),
        ("attn_out", -3, "", "window -3"),
        ("resid_post", 10, "", "window 10: must be .* exactly 1 except for mlp_out"),
        ("z", 2, "", "window 2"),
        ("mlp_out", 1, "attn_out", "severed 'attn_out': only resid_post .*, not mlp_out"),
        ("z", 1, "mlp_out", "severed 'mlp_out'"),
        ("resid_post", 1, "resid_mid", "resid_mid"),
    ],
)
def test_a_patch_that_means_nothing_is_refused(site: str, window: int, severed: str, message: str):
    # the check by itself: where types are checked at run time, they refuse most of these before it
    with pytest.raises(InputError, match=message):
        Patch.__post_init__(SimpleNamespace(site=site, window=window, severed=severed))  # pyright: ignore


def test_runs_of_different_lengths_are_refused(toy: HookedTransformer):
    clean = Run(torch.tensor([[0, 5, 6, 7]])).states(toy)
    corrupted = Run(torch.tensor([[0, 5, 6]])).states(toy)
    with pytest.raises(InputError, match="clean run has 4 tokens, the corrupted run 3"):
        sweep(toy, clean, corrupted, Patch("resid_post"), AnswerMetric(300, 301))


@pytest.mark.parametrize(
    ("window", "layer", "layers"),
    [
        (1, 7, [7]),
        (2, 7, [6, 7]),
        (3, 7, [6, 7, 8]),
        (10, 7, list(range(2, 12))),  # [l - 5, l + 4], as Meng et al.'s code
        (10, 0, [0, 1, 2, 3, 4]),
        (10, 19, [14, 15, 16, 17, 18, 19]),
        (3, 0, [0, 1]),
        (100, 3, list(range(20))),
    ],
)
def test_a_window_lies_around_its_layer_and_inside_the_model(
    window: int, layer: int, layers: list[int]
):
    assert list(Patch("mlp_out", window).layers(layer, n_layers=20)) == layers
