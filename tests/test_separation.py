"""Separation of keys: by hand, at its two ends, and of heads by themselves."""

import functools
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from transformer_lens import HookedTransformer

from kedit.editing.moments import moments
from kedit.editing.neighbours import neighbours
from kedit.editing.second_moment import Moment
from kedit.editing.write_sites import WriteSite
from kedit.errors import InputError
from kedit.facts import Demand, EditRequest
from kedit.models import toy as toy_module
from kedit.models.prompts import KeyPosition, located
from probes.separation import Metric, alike, metrics, separation

SITES = [WriteSite(layer, half) for layer in (1, 2) for half in ("mlp", "attn")]
D_HEAD = 16


@pytest.fixture(scope="module")
def request_() -> EditRequest:
    return toy_module.cases()[0].request("relation")


@pytest.fixture(scope="module")
def seconds(toy: HookedTransformer) -> list[Moment]:
    return moments(toy, [[site] for site in SITES], cache=False)


@pytest.fixture(scope="module")
def compared(toy: HookedTransformer, seconds: list[Moment]) -> list[Metric]:
    return metrics(toy, seconds)


@functools.cache  # over the sites, each of which asks for the same forwards
def read(toy: HookedTransformer, demand: Demand, where: KeyPosition):
    tokens, pos = located(toy, demand.fact, where, demand.mentioned)
    return toy.run_with_cache(torch.tensor([tokens]))[1], pos


def key(toy: HookedTransformer, demand: Demand, where: KeyPosition, site: WriteSite):
    cache, pos = read(toy, demand, where)
    return cache[site.key_hook][0, pos].flatten().double()


def twin(
    toy: HookedTransformer, ones: Sequence[Demand], others: Sequence[Demand], where: KeyPosition,
    second: Moment, rows: slice,
) -> float:  # fmt: skip
    """The mean over pairs, one by one, with C inverted."""
    (site,) = second.sites
    inverse, cosines = torch.linalg.inv(second.matrix[rows, rows]), []
    for one in ones:
        for other in others:
            if one is not other:
                k, near = (key(toy, each, where, site)[rows] for each in (one, other))
                size = ((k @ inverse @ k) * (near @ inverse @ near)).sqrt()
                cosines.append(float((k @ inverse @ near).abs() / size))
    return 1 - sum(cosines) / len(cosines)


@pytest.mark.parametrize("where", ["subject_last", "object_last", "last"])
def test_it_is_the_loop_over_pairs_at_every_site_and_head(
    toy: HookedTransformer,
    request_: EditRequest,
    seconds: list[Moment],
    compared: list[Metric],
    where: KeyPosition,
) -> None:
    others = neighbours(request_, 5)
    found = separation(toy, request_, others, where, compared)
    assert len(found) == 2 * (2 + 4)  # each layer: both halves and four heads
    for metric, (apart, demands) in zip(compared, found, strict=True):
        second = seconds[SITES.index(metric.site)]
        start = 0 if metric.head is None else metric.head * D_HEAD
        rows = slice(start, None if metric.head is None else start + D_HEAD)
        own = request_.demands
        wanted = twin(toy, own, others, where, second, rows)
        assert apart == pytest.approx(wanted, abs=1e-4)
        between = twin(toy, own, own, where, second, rows)
        assert demands == pytest.approx(between, abs=1e-4)
    numbers = [one.neighbours for one in found]
    assert max(numbers) - min(numbers) > 0.05  # there is something to compare


def test_keys_of_one_direction_are_alike_and_those_orthogonal_in_the_metric_are_not() -> None:
    draw = torch.Generator().manual_seed(0)
    mixed = torch.randn(6, 6, generator=draw, dtype=torch.float64)
    inverse = torch.linalg.inv(mixed @ mixed.T)
    k, other = torch.randn(2, 6, generator=draw, dtype=torch.float64)
    apart = other - (k @ inverse @ other) / (k @ inverse @ k) * k
    assert abs(float(k @ apart)) > 0.1  # as plain vectors they are not orthogonal
    found = alike(torch.stack([k, -3 * k, apart]), lambda columns: inverse @ columns)
    wanted = torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(found, wanted, atol=1e-9, rtol=0)


def test_at_the_subject_neither_the_demands_nor_another_object_can_be_told_apart(
    toy: HookedTransformer, request_: EditRequest, compared: list[Metric]
) -> None:
    subject = request_.fact.subject
    same = [one for one in neighbours(request_, 12) if one.fact.subject == subject]
    assert same
    for one in separation(toy, request_, same, "subject_last", compared):
        assert one == pytest.approx((0, 0), abs=1e-9)
    later = [one for one in separation(toy, request_, same, "last", compared)]
    assert max(one.neighbours for one in later) > 0.01 and max(one.demands for one in later) > 0.01


def test_a_neighbour_that_is_too_long_is_left_out_and_an_own_prompt_is_not(
    toy: HookedTransformer, request_: EditRequest, compared: list[Metric]
) -> None:
    first, *_ = others = neighbours(request_, 2)
    long = replace(first, fact=replace(first.fact, subject="Anna " * 70))
    whole, with_long, alone = (
        separation(toy, request_, some, "last", compared[:1])[0]
        for some in (others, [*others, long], [long])
    )
    assert with_long == whole
    assert alone.neighbours != alone.neighbours and alone.demands == pytest.approx(whole.demands)
    unreadable = replace(request_, fact=long.fact)
    with pytest.raises(InputError, match="the model reads 64"):
        separation(toy, unreadable, others, "last", compared)
    one_demand = replace(request_, removal=None)
    (only,) = separation(toy, one_demand, others, "last", compared[:1])
    assert only.demands != only.demands and 0 < only.neighbours < 1
