"""Traces of facts: their token buckets, their averages by hand, and their way through files."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import safetensors.torch
import torch
from transformer_lens import HookedTransformer

from kedit.errors import InputError
from kedit.facts import Fact
from kedit.forward.metrics import METRICS
from kedit.models import toy as toy_module
from kedit.models.prompts import decoded, encode
from kedit.records import from_record, to_record
from kedit.results.averages import (
    BUCKETS,
    average,
    buckets,
    notebook_buckets,
    total_effects,
)
from kedit.results.grids import EffectGrid
from kedit.results.traces import AverageEffect, FactTrace
from probes.corrupt import Corruption, add_noise, noise_rule
from probes.known import answers_right
from probes.patch import Patch
from probes.screen import Screening
from probes.trace import paper_patches, trace
from tests import twins
from tests.conftest import clean_run

FACT = toy_module.facts()[0]  # "The birthplace of Ada Alder is"


@pytest.mark.parametrize(
    ("corrupted", "n_pos", "expected"),
    [
        ((2, 3, 4), 9, [[2], [3], [4], [], [5], [6, 7], [8]]),
        ((2, 3), 9, [[2], [], [3], [], [4], [5, 6, 7], [8]]),
        ((4,), 9, [[4], [], [4], [], [5], [6, 7], [8]]),  # one token is first and last
        ((0, 1), 4, [[0], [], [1], [], [2], [], [3]]),
        ((2, 3), 5, [[2], [], [3], [], [], [], [4]]),  # what follows is the last token
        ((2, 3), 4, [[2], [], [3], [], [], [], [3]]),  # the span ends the prompt
        ((3,), 4, [[3], [], [3], [], [], [], [3]]),
        ((1, 2, 5, 6), 10, [[1], [2, 5], [6], [3, 4], [7], [8], [9]]),  # two spans
        ((1, 4, 7), 9, [[1], [4], [7], [2, 3, 5, 6], [], [], [8]]),
    ],
)
def test_buckets_hold_the_positions_that_their_names_say(
    corrupted: tuple[int, ...], n_pos: int, expected: list[list[int]]
):
    assert list(buckets(corrupted, n_pos)) == list(BUCKETS)
    assert list(buckets(corrupted, n_pos).values()) == expected


def made(restored: list[list[float]], corrupted: tuple[int, ...], low: float) -> FactTrace:
    """A trace of one layer, with as many tokens as `restored` has; the same by every metric."""
    grid = EffectGrid(
        site="mlp_out",
        window=10,
        severed="",
        positions=tuple(range(len(restored[0]))),
        restored=torch.tensor([restored] * 3),
        clean=torch.tensor([1.0] * 3),
        corrupted=torch.tensor([low] * 3),
    )
    return FactTrace(
        subject="Ada",
        relation="P19",
        object="Arle",
        prompt="Ada is",
        labels=tuple("token" for _ in restored[0]),
        part="subject",
        corrupted=corrupted,
        corruption="noise",
        answer=" Arle",
        foil=" Brock",
        grids={"mlp_out": grid},
    )


# positions 0 .. 5; corrupted tokens 1 2 3 of the first fact, 1 of the second
TWO = (
    made([[0.1, 0.2, 0.5, 0.4, 0.3, 0.9]], (1, 2, 3), low=0.1),
    made([[0.3, 0.7, 0.5, 0.6, 0.4, 0.8]], (1,), low=0.3),
)
MEANS = {
    # bucket: (restored scores of the first fact, of the second)
    "first corrupted": ([0.2], [0.7]),
    "middle corrupted": ([0.5], []),
    "last corrupted": ([0.4], [0.7]),
    "between": ([], []),
    "first subsequent": ([0.3], [0.5]),
    "further": ([], [0.6, 0.4]),
    "last token": ([0.9], [0.8]),
}


@pytest.mark.parametrize("bucket", BUCKETS)
@pytest.mark.parametrize("metric", METRICS)
def test_an_average_over_own_baselines_is_that_by_hand(bucket: str, metric: str):
    first, second = MEANS[bucket]
    effects = [score - 0.1 for score in first] + [score - 0.3 for score in second]
    result = average(TWO, "mlp_out")
    at = result.buckets.index(bucket)
    mean = result.mean[METRICS.index(metric), at]
    assert mean.shape == (1,)
    assert mean == pytest.approx(np.mean(effects) if effects else np.nan, nan_ok=True)
    assert (result.n_tokens[at], result.n_facts[at]) == (len(effects), bool(first) + bool(second))


def test_cells_are_tested_for_their_number() -> None:
    """A clear effect in one bucket is told, and the noise of the other cells is not."""
    draw = np.random.default_rng(0)
    facts = [
        made([[0.1 + draw.normal(0, 0.02), *(0.1 + draw.normal(0, 0.02, 3)), 0.6]], (1, 2, 3), 0.1)
        for _ in range(12)
    ]
    result = average(facts, "mlp_out")
    assert result.p is not None and result.p.shape == result.mean.shape
    p = dict(zip(result.buckets, result.p[0, :, 0], strict=True))
    assert p["last token"] < 0.01
    assert all(p[bucket] > 0.05 for bucket in BUCKETS[:3]) and np.isnan(p["between"])
    assert average(facts, "mlp_out", baseline="pooled").p is None
    record = to_record(result)
    assert record.pop("p")
    earlier = from_record(AverageEffect, record)  # as an earlier version wrote it
    assert earlier.p is None and np.array_equal(earlier.mean, result.mean, equal_nan=True)


@pytest.mark.parametrize("bucket", BUCKETS)
def test_an_average_over_the_pooled_baseline_is_that_by_hand(bucket: str):
    first, second = MEANS[bucket]
    scores = first + second
    expected = np.mean(scores) - (0.1 + 0.3) / 2 if scores else np.nan
    result = average(TWO, "mlp_out", baseline="pooled")
    assert result.mean[0, result.buckets.index(bucket)] == pytest.approx(expected, nan_ok=True)


# one token follows the corrupted ones of the first fact, two those of the second
FOLLOWED = (
    made([[0.1, 0.2, 0.5, 0.4, 0.9]], (1, 2, 3), low=0.1),
    made([[0.3, 0.7, 0.5, 0.6]], (1,), low=0.3),
)


def test_the_pooled_average_is_that_of_romes_notebook():
    low = np.mean([float(one.grids["mlp_out"].corrupted[0]) for one in FOLLOWED])
    pooled, own = (average(FOLLOWED, "mlp_out", baseline=one) for one in ("pooled", "own"))
    scores: dict[str, list[float]] = {name: [] for name in BUCKETS if name != "between"}
    for one in FOLLOWED:  # the notebook's indices
        row = one.grids["mlp_out"].restored[0, 0].tolist()
        first, after, last = one.corrupted[0], one.corrupted[-1] + 1, len(row) - 1
        scores["first corrupted"].append(row[first])
        scores["middle corrupted"] += row[first + 1 : after - 1]
        scores["last corrupted"].append(row[after - 1])
        scores["first subsequent"].append(row[after])
        scores["further"] += row[after + 1 : last]
        scores["last token"].append(row[last])
    for bucket, values in scores.items():
        at = pooled.buckets.index(bucket)
        expected = np.mean(values) - low if values else np.nan
        assert pooled.mean[0, at, 0] == pytest.approx(expected, nan_ok=True)
        assert pooled.n_tokens[at] == len(values)
    # by default the token that is all that follows is the last one only
    at = own.buckets.index("first subsequent")
    assert (own.n_tokens[at], pooled.n_tokens[at]) == (1, 2)
    assert own.mean[0, at, 0] == pytest.approx(0.5 - 0.3)


@pytest.mark.parametrize(("n_pos", "following"), [(4, []), (5, [4]), (6, [4])])
def test_the_notebook_counts_a_token_that_is_all_that_follows_twice(
    n_pos: int, following: list[int]
):
    own, theirs = (filled((2, 3), n_pos) for filled in (buckets, notebook_buckets))
    assert theirs == own | {"first subsequent": following}
    assert (theirs != own) == (n_pos == 5)


@pytest.mark.parametrize("baseline", ["own", "pooled"])
def test_an_interval_holds_its_mean_and_spans_the_two_facts(baseline: Literal["own", "pooled"]):
    result = average(TWO, "mlp_out", baseline=baseline)
    filled = [index for index, n in enumerate(result.n_facts) if n > 1]
    low, mean, high = (values[0, filled, 0] for values in (result.low, result.mean, result.high))
    assert (low <= mean + 1e-6).all() and (mean <= high + 1e-6).all()
    first = result.buckets.index("first corrupted")
    # drawn twice, a fact shows its own effect: 0.2 - 0.1 or 0.7 - 0.3
    assert result.low[0, first, 0] == pytest.approx(0.1)
    assert result.high[0, first, 0] == pytest.approx(0.4)


def test_an_average_keeps_layers_and_heads_apart():
    restored = torch.rand(3, 2, 6, 4, generator=torch.Generator().manual_seed(0))
    grid = replace(TWO[0].grids["mlp_out"], site="z", window=1, restored=restored)
    result = average([replace(TWO[0], grids={"z": grid})], "z")
    assert result.mean.shape == (3, len(BUCKETS), 2, 4)
    middle = result.mean[:, result.buckets.index("middle corrupted")]
    assert middle == pytest.approx((restored[:, :, 2] - 0.1).numpy(), abs=1e-6)
    assert (result.name, result.part, result.window) == ("z", "subject", 1)


def test_an_average_of_a_severed_grid_knows_its_only_column():
    grid = replace(
        TWO[0].grids["mlp_out"],
        site="resid_post",
        severed="mlp_out",
        positions=(3,),
        restored=torch.full((3, 1, 1), 0.4),
    )
    result = average([replace(TWO[0], grids={grid.name: grid})], "resid_post-severed-mlp_out")
    at = result.buckets.index("last corrupted")
    assert result.mean[0, at, 0] == pytest.approx(0.3)
    assert sum(result.n_tokens) == result.n_tokens[at] == 1


def test_nothing_to_average_is_refused():
    with pytest.raises(InputError, match="no traces with 'mlp_out' to average"):
        average([], "mlp_out")


@pytest.mark.parametrize("baseline", ["own", "pooled"])
def test_what_one_fact_alone_has_tokens_for_has_no_interval(baseline: Literal["own", "pooled"]):
    result = average(TWO, "mlp_out", baseline=baseline)
    for index, n in enumerate(result.n_facts):
        bounds = np.stack([result.low[:, index], result.high[:, index]])
        assert np.isfinite(bounds).all() == (n == 2)
    assert 1 in result.n_facts and 2 in result.n_facts
    alone = average(TWO[:1], "mlp_out", baseline=baseline)
    assert np.isfinite(alone.mean).any() and np.isnan(alone.low).all()


@pytest.mark.parametrize("field", ["restored", "clean", "corrupted"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_is_refused_and_not_averaged(field: str, value: float):
    grid = TWO[1].grids["mlp_out"]
    scores = getattr(grid, field).clone()
    scores[..., -1] = value
    bad = replace(TWO[1], grids={"mlp_out": replace(grid, **{field: scores})})
    for averaged in (lambda traces: average(traces, "mlp_out"), total_effects):
        averaged(TWO)
        with pytest.raises(InputError, match="scores of 'mlp_out' are not finite"):
            averaged([TWO[0], bad])


def test_total_effects_are_means_over_facts():
    found = total_effects(TWO)
    assert found["clean"].mean == pytest.approx(1.0)
    assert found["corrupted"].mean == pytest.approx(0.2)
    assert found["total effect"].mean == pytest.approx(0.8)
    assert found["total effect"].low == pytest.approx(0.7)
    assert found["total effect"].high == pytest.approx(0.9)


@pytest.fixture(scope="module")
def traced(toy: HookedTransformer) -> FactTrace:
    noise = noise_rule(toy, "s3", toy_module.facts(), "subject")
    corruption = add_noise(toy, encode(toy, FACT), "subject", noise, samples=5, seed=0)
    return trace(toy, FACT, "subject", corruption, paper_patches(window=3))


def test_a_trace_asks_for_the_object_against_the_strongest_wrong_answer(
    toy: HookedTransformer, traced: FactTrace
):
    known, said = answers_right(toy, FACT)
    assert known and said.startswith(traced.answer)
    assert toy.tokenizer is not None
    assert toy.tokenizer.decode([encode(toy, FACT).answer_ids[0]]) == traced.answer
    assert traced.foil != traced.answer
    grid = traced.grids["resid_post"]
    assert grid.total_effect() > 0.2  # the noise does harm
    assert grid.clean[2] > 0  # before it, the object is ahead of the foil


def test_a_trace_has_every_grid_of_the_paper(toy: HookedTransformer, traced: FactTrace):
    assert list(traced.grids) == [
        "resid_post",
        "mlp_out",
        "attn_out",
        "z",
        "resid_post-severed-mlp_out",
        "resid_post-severed-attn_out",
    ]
    n_pos = len(traced.labels)
    for name, grid in traced.grids.items():
        columns = traced.corrupted[-1:] if grid.severed else tuple(range(n_pos))
        assert grid.positions == columns
        heads = (toy.cfg.n_heads,) if name == "z" else ()
        assert grid.restored.shape == (3, toy.cfg.n_layers, len(columns), *heads)
    assert [grid.window for grid in traced.grids.values()] == [1, 3, 3, 1, 1, 1]


def test_a_trace_of_some_positions_has_their_columns_of_the_whole_one(
    toy: HookedTransformer, traced: FactTrace
) -> None:
    noise = add_noise(
        toy, encode(toy, FACT), "relation", noise_rule(toy, "s3", [FACT], "relation"), 3, seed=0
    )
    patches = [Patch("mlp_out"), Patch("z"), Patch("resid_post", severed="mlp_out")]
    whole, some = (trace(toy, FACT, "relation", noise, patches, at) for at in (None, (2, 5)))
    for name in ("mlp_out", "z"):
        assert some.grids[name].positions == (2, 5)
        restored = whole.grids[name].restored[:, :, [2, 5]]
        torch.testing.assert_close(some.grids[name].restored, restored, atol=1e-5, rtol=0)
        assert restored.std() > 0.01
    severed = "resid_post-severed-mlp_out"
    assert some.grids[severed].positions == whole.grids[severed].positions


def test_a_trace_comes_back_whole_from_json_and_safetensors(traced: FactTrace, tmp_path: Path):
    (tmp_path / "trace.json").write_text(json.dumps(traced.to_record()))
    safetensors.torch.save_file(traced.tensors(), tmp_path / "trace.safetensors")
    record = json.loads((tmp_path / "trace.json").read_text())
    back = FactTrace.from_record(
        record, safetensors.torch.load_file(tmp_path / "trace.safetensors")
    )
    assert replace(back, grids={}) == replace(traced, grids={})
    assert list(back.grids) == list(traced.grids)
    for name, grid in traced.grids.items():
        for field, value in vars(grid).items():
            read = getattr(back.grids[name], field)
            assert torch.equal(read, value) if isinstance(value, torch.Tensor) else read == value


def test_a_corruption_of_nothing_is_refused(toy: HookedTransformer):
    nothing = Corruption(clean_run(toy, FACT), (), "nothing")
    with pytest.raises(InputError, match=f"'{FACT.prompt}': the corruption changes no token"):
        trace(toy, FACT, "subject", nothing, [Patch("resid_post")])


@pytest.mark.parametrize("fact", toy_module.facts()[::8], ids=lambda fact: fact.prompt)
def test_the_toy_says_what_it_was_taught(toy: HookedTransformer, fact: Fact):
    assert answers_right(toy, fact)[0]
    wrong = replace(fact, object="zebra")
    assert not answers_right(toy, wrong)[0]


def test_a_grid_is_named_and_its_effects_are_differences():
    grid = EffectGrid(
        site="resid_post",
        window=1,
        severed="mlp_out",
        positions=(3,),
        restored=torch.tensor([[[0.5]], [[-0.5]], [[2.0]]]),
        clean=torch.tensor([0.75, -0.25, 3.0]),
        corrupted=torch.tensor([0.25, -1.5, 1.5]),
    )
    assert grid.name == "resid_post-severed-mlp_out"
    assert replace(grid, severed="").name == "resid_post"
    assert [grid.indirect_effect(m).item() for m in METRICS] == [0.25, 1.0, 0.5]
    assert [grid.total_effect(m) for m in METRICS] == [0.5, 1.25, 1.5]


WHOLE = replace(FACT, object="Arle zebra")


def test_a_whole_object_is_traced_by_the_log_probability_of_all_its_tokens(
    toy: HookedTransformer,
) -> None:
    """Held against one hooked forward a cell over prompt and object, each token behind the last."""
    prompt = encode(toy, WHOLE)
    noise = noise_rule(toy, "s3", toy_module.facts(), "subject")
    corruption = add_noise(toy, prompt, "subject", noise, samples=3, seed=0)
    patches = [Patch("resid_post"), Patch("mlp_out", 3), Patch("z")]
    found = trace(toy, WHOLE, "subject", corruption, patches, whole=True)
    ids = prompt.object_ids
    assert found.whole and found.answer == " Arle zebra" and len(ids) > 2
    plain = prompt.tokens[: prompt.n_plain]
    text = torch.cat([plain, torch.tensor(ids[:-1])])[None]
    assert len(found.labels) == len(plain)

    def total(logits: torch.Tensor) -> float:
        said = logits[:, len(plain) - 1 :].log_softmax(-1)
        return said[:, range(len(ids)), list(ids)].sum(1).mean().item()

    corrupted = text.expand(3, -1)
    _, clean = toy.run_with_cache(text)
    with toy.hooks(fwd_hooks=list(corruption.run.hooks)):
        logits, noisy = toy.run_with_cache(corrupted, return_type="logits")
    assert isinstance(logits, torch.Tensor)
    logprob = METRICS.index("logprob")
    for patch in patches:
        grid = found.grids[patch.site]
        assert float(grid.clean[logprob]) == pytest.approx(total(toy(text)), abs=1e-3)
        assert float(grid.corrupted[logprob]) == pytest.approx(total(logits), abs=1e-3)
        cells = [cell for cell in np.ndindex(*grid.restored.shape[1:]) if cell[1] >= 5][::7]
        for cell in cells:
            hooks = [*corruption.run.hooks, *twins.cell_hooks(toy, patch, cell, clean, noisy)]
            expected = total(toy.run_with_hooks(corrupted, fwd_hooks=hooks))
            assert float(grid.restored[(logprob, *cell)]) == pytest.approx(expected, abs=1e-3)
    resid = found.grids["resid_post"].indirect_effect("logprob")
    assert resid.max() - resid.min() > 0.1  # restoring does something
    with pytest.raises(InputError, match="a whole object cannot be screened"):
        trace(toy, WHOLE, "subject", corruption, patches, screening=Screening(0.5), whole=True)


def test_the_record_says_which_token_was_traced(toy: HookedTransformer) -> None:
    fact = replace(WHOLE, rival="Arle baker")
    prompt = encode(toy, fact)
    noise = noise_rule(toy, "s3", toy_module.facts(), "subject")
    corruption = add_noise(toy, prompt, "subject", noise, samples=2, seed=0)
    found = trace(toy, fact, "subject", corruption, [Patch("resid_post")])
    back = FactTrace.from_record(found.to_record(), found.tensors())
    for one in (found, back):
        assert (one.given, one.rival, one.whole) == (" Arle ", "Arle baker", False)
        assert one.answer == decoded(toy, prompt.answer_ids[0]) and one.answer.strip()
    grid = found.grids["resid_post"]
    assert grid.restored.shape[2] == len(found.labels) == prompt.n_plain + len(prompt.given)
    probs = toy(prompt.tokens[None])[0, -1].softmax(-1)
    assert float(grid.clean[0]) == pytest.approx(float(probs[prompt.answer_ids[0]]), abs=1e-5)
