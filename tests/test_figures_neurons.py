"""Figures of neurons, heads and what scaling them does, read back from their artists."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection, QuadMesh
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from figures.neurons import HALVES, STRONGEST, heads, layers, relations
from figures.scaling import BLOCKS, SCALINGS, scaled, sharing
from figures.style import save
from kedit.models.sites import Half
from kedit.results.neuron_findings import LeftOutCounts, NeuronFindings
from kedit.results.neurons import ByLayer, RelationNeurons, ScalingChange, SharedNeurons, strongest
from kedit.stats import Interval
from tests.figure_checks import caption_of

WHOSE = ("own relation’s", "other relations’", "loudest", "random")
NAMES = ["capital", "place of birth", "a relation with a name of many words", "東京"]


def interval(mean: np.ndarray | float, width: float = 0.2) -> Interval:
    mean = np.asarray(mean, dtype=float)
    return Interval(mean, mean - width, mean + 2 * width)


def by_layer(seed: int = 0, n_layers: int = 18) -> ByLayer:
    draw = np.random.default_rng(seed)
    neurons, mass = draw.uniform(1, 6, n_layers), draw.uniform(1, 2, n_layers)
    return ByLayer(interval(neurons), interval(neurons.sum()), interval(mass), interval(0.4, 0.05))


def both(n_layers: int = 18) -> dict[Half, ByLayer]:
    return {"mlp": by_layer(0, n_layers), "attn": by_layer(1, n_layers)}


def counts(n_relations: int = 4, n_layers: int = 18, n_heads: int = 4) -> np.ndarray:
    draw = np.random.default_rng(0)
    return draw.poisson(0.3, (n_relations, n_layers, n_heads))


def relations_of(
    found: np.ndarray, names: Sequence[str] = NAMES, half_names: Sequence[Half] = ("mlp", "attn")
) -> tuple[RelationNeurons, ...]:
    """Of counts by relation, layer and head: MLPs have twice as many neurons, and no attribution.

    The counts sum to 80 facts.
    """
    every: list[Mapping[Half, np.ndarray]] = [
        {"mlp": 2 * own.sum(1, keepdims=True), "attn": own} for own in found
    ]
    n_facts = 80 - len(found) + 1
    return tuple(
        RelationNeurons(
            f"P{place}", names[place % len(names)], 1 if place else n_facts, (),
            {half: own[half] for half in half_names},
            {half: own[half] * (half == "attn") / 1.0 for half in half_names},
        )
        for place, own in enumerate(every)
    )  # fmt: skip


def found_of(**fields: Any) -> NeuronFindings:
    """Ten relations of 80 facts."""
    made: dict[str, Any] = {
        "model": "gemma-3-270m", "seed": 7, "agree_facts": 0.4,
        "relations": relations_of(counts(10)), "halves": both(), "attention": None,
        "sharing": shared(), "changes": changes(), "n_prompts": 240,
        "left_out": LeftOutCounts(0, 0, ()),
    }  # fmt: skip
    return NeuronFindings(**made | fields)


def one_relation(**fields: Any) -> NeuronFindings:
    return found_of(relations=relations_of(counts(1)), **fields)


def shared(scale: float = 1.0) -> dict[str, SharedNeurons]:
    return {
        half: SharedNeurons(*(interval(scale * (30 / place + n)) for place in (1, 2, 3)))
        for n, half in enumerate(HALVES)
    }


def change(whose: str = WHOSE[0], half: str = "both", factor: float = 0.0, prob: float = -0.25):
    return ScalingChange(
        whose, half, factor, 80, 33.4, interval(0.3, 0.02), interval(prob, 0.05),
        interval(10 * prob), interval(prob),
    )  # fmt: skip


def changes() -> tuple[ScalingChange, ...]:
    return tuple(
        change(whose, half, factor, prob=(0.1 if factor else -0.3) / (place + 1))
        for half in BLOCKS
        for place, whose in enumerate(WHOSE)
        for factor in SCALINGS
    )


DRAWN = {
    "layers": lambda make: layers(make()),
    "heads": lambda make: heads(make()),
    "relations": lambda make: relations(make()),
    "sharing": lambda make: sharing(make()),
    "scaled": lambda make: scaled(make()),
}


def points(ax: Axes) -> dict[str, np.ndarray]:
    """Places of the dots, by series."""
    found = [one for one in ax.collections if isinstance(one, PathCollection)]
    return {str(one.get_label()): np.asarray(one.get_offsets()) for one in found}


def spans(ax: Axes) -> list[np.ndarray]:
    """Ends of the lines, series by series."""
    found = [one for one in ax.collections if isinstance(one, LineCollection)]
    return [np.array([line.ravel() for line in one.get_segments() if len(line)]) for one in found]


def maps(figure: Figure) -> list[np.ndarray]:
    """Without the colour bars."""
    found = [ax.collections[0] for ax in figure.axes if ax.get_title("left") and ax.collections]
    return [np.asarray(one.get_array()) for one in found if isinstance(one, QuadMesh)]


@pytest.mark.parametrize("drawing", DRAWN)
def test_every_figure_says_what_it_shows(drawing):
    figure = DRAWN[drawing](found_of)
    assert "gemma-3-270m" in figure.get_suptitle()
    caption = caption_of(figure)
    assert "n = 10 relations, 80 facts; seed 7" in caption
    assert "bootstrap interval over relations" in caption or "so no interval" in caption


@pytest.mark.parametrize("drawing", ["layers", "sharing", "scaled"])
def test_a_single_relation_has_no_interval(drawing):
    caption = caption_of(DRAWN[drawing](one_relation))
    assert "n = 1 relation, 80 facts" in caption
    assert "one relation, so no interval" in caption and "bootstrap" not in caption


def test_layers_put_both_halves_side_by_side_on_one_scale():
    halves = both()
    figure = layers(found_of(halves=halves))
    axes = np.array(figure.axes).reshape(2, 2)
    for column, (half, found) in zip(axes.T, halves.items(), strict=True):
        for ax, values in zip(column, (found.neurons, found.mass), strict=True):
            bars = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
            np.testing.assert_allclose([bar.get_height() for bar in bars], values.mean)
            assert to_hex(bars[0].get_facecolor()) == HALVES[half][1].lower()
            (lines,) = spans(ax)
            np.testing.assert_allclose(lines[:, [1, 3]], np.stack([values.low, values.high], 1))
    for row in axes:
        assert row[0].get_ylim() == row[1].get_ylim() and row[0].get_ylim()[0] == 0
    assert axes[0, 1].get_title("left").startswith("Attention: ")
    assert axes[1, 1].get_title("left") == "40 [35, 50] % of the positive attribution"


def test_one_half_alone_has_no_share():
    halves = {"mlp": by_layer()._replace(share=None)}
    found = found_of(halves=halves, relations=relations_of(counts(), half_names=("mlp",)))
    assert [ax.get_title("left")[:4] for ax in layers(found).axes] == ["MLP:", ""]
    assert len(maps(relations(found))) == 1


def test_heads_count_relations_and_name_those_of_most():
    found = np.zeros((4, 6, 5), dtype=int)
    found[:, 2, 3] = 1
    found[:3, 5, 0] = 1
    found[:2, 1, 1] = 9  # of equally many relations, the head with more neurons
    found[:2, 0, 4] = 2
    found[0, 4, 4] = 50
    figure = heads(found_of(relations=relations_of(found)))
    (drawn,) = maps(figure)
    np.testing.assert_array_equal(drawn, (found > 0).sum(0).T)
    ax = figure.axes[0]
    assert ax.get_title("left") == "most: L2H3 (4), L5H0 (3), L1H1 (2)"
    patches = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    frames = {(round(one.get_x() + 0.5), round(one.get_y() + 0.5)) for one in patches}
    assert frames == {(2, 3), (5, 0), (1, 1)}


@pytest.mark.parametrize("found", [np.zeros((3, 4, 4), dtype=int), np.eye(4, dtype=int)[None]])
def test_heads_of_no_two_relations_say_so(found):
    figure = heads(found_of(relations=relations_of(found)))
    assert figure.axes[0].get_title("left") == "no head has neurons of two relations"
    assert not figure.axes[0].patches


def test_relations_are_rows_of_their_neurons_and_of_their_strongest_heads():
    found = counts()
    shares = np.stack([own / own.sum() for own in found])
    figure = relations(found_of(relations=relations_of(found)))
    mlp, attn, top = maps(figure)
    np.testing.assert_array_equal(mlp, 2 * found.sum(2))
    np.testing.assert_array_equal(attn, found.sum(2))
    places = strongest(shares.mean(0))[:STRONGEST]
    np.testing.assert_allclose(top, [[100 * one[place] for place in places] for one in shares])
    labels = [label.get_text() for label in figure.axes[2].get_xticklabels()]
    assert labels == [f"L{layer}H{head}" for layer, head in places]
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names[:2] == NAMES[:2] and names[2].endswith("…")
    scales = {ax.collections[0].norm.vmax for ax in figure.axes[:2]}
    assert scales == {mlp.max()}  # neurons of both halves are compared


def test_heads_without_any_attribution_have_no_panel():
    none = relations_of(np.zeros((4, 18, 4), dtype=int))
    assert len(maps(relations(found_of(relations=none)))) == 2


def test_sharing_has_a_dot_a_line_and_a_number_for_each_half():
    halves = shared()
    nothing = interval(np.nan)
    halves["attn"] = halves["attn"]._replace(within=nothing, between=nothing)
    ax = sharing(found_of(sharing=halves)).axes[0]
    drawn = points(ax)
    assert list(drawn) == ["MLP", "Attention"]
    np.testing.assert_allclose(drawn["MLP"][:, 0], [30, 15, 10])
    np.testing.assert_allclose(spans(ax)[0][:, [0, 2]] - [[30], [15], [10]], [[-0.2, 0.4]] * 3)
    assert len(spans(ax)[1]) == 1 and np.isfinite(drawn["Attention"][0]).all()
    assert drawn["MLP"][0, 1] < drawn["Attention"][0, 1]  # one above the other
    texts = [text.get_text() for text in ax.texts]
    assert texts[:2] == ["30 [30, 30]", "15 [15, 15]"] and texts.count("no pairs") == 2
    assert ax.get_xlim()[0] == 0


def test_what_scaling_does_is_a_block_a_half_in_points_and_in_nats():
    found = changes()
    figure = scaled(found_of())
    assert "unscaled probability: 30 [28, 34] %" in caption_of(figure)
    axes = np.array(figure.axes).reshape(3, 2)
    for row, (half, title) in zip(axes, BLOCKS.items(), strict=True):
        assert row[0].get_title("left") == title
        assert [label.get_text() for label in row[0].get_yticklabels()] == list(WHOSE)
        for ax, field, unit in zip(row, ("prob", "logprob"), (100, 1), strict=True):
            assert len(spans(ax)) == len(SCALINGS)
            for (factor, (dots, shift)), lines in zip(SCALINGS.items(), spans(ax), strict=True):
                own = [one for one in found if (one.half, one.factor) == (half, factor)]
                wanted = unit * np.array([getattr(one, field) for one in own])
                heights = np.arange(4) + shift
                drawn = points(ax)[dots.name]
                np.testing.assert_allclose(drawn, np.stack([wanted[:, 0], heights], 1))
                np.testing.assert_allclose(lines[:, [0, 2]], wanted[:, 1:])
                np.testing.assert_allclose(lines[:, 1], heights)
        assert [text.get_text() for text in row[1].texts] == ["33, 80"] * 4


def test_halves_that_were_not_scaled_have_no_block():
    figure = scaled(found_of(changes=tuple(one for one in changes() if one.half == "attn")))
    assert [ax.get_title("left") for ax in figure.axes] == [BLOCKS["attn"], ""]


@pytest.mark.slow
def test_the_same_numbers_give_the_same_bytes(tmp_path):
    draws = [save(scaled(found_of()), tmp_path / run, "it") for run in ("one", "two")]
    for one, other in zip(*draws, strict=True):
        assert one.read_bytes() == other.read_bytes()
