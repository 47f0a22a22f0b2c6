"""Figures, read back from their artists, and from their bytes."""

import re
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.collections import QuadMesh
from matplotlib.image import imread
from matplotlib.patches import Rectangle

from figures.curves import WHOLE, severed, sides
from figures.heads import heads
from figures.style import PART_COLOURS, SITE_COLOURS, Study, norm, readable, save
from figures.style import SITES as SITE_NAMES
from figures.style import site_name as named
from figures.trace import averages, heatmap
from kedit.errors import InputError
from kedit.forward.metrics import METRICS
from kedit.results.grids import EffectGrid
from kedit.results.traces import AverageEffect, FactTrace
from kedit.stats import Interval
from kedit.tables import estimate
from tests.figure_checks import assert_fits, caption_of

BUCKETS = ("first corrupted", "last corrupted", "between", "further", "last token")
STUDY = Study(60, "noise on the subject's embeddings, 3 standard deviations", seed=7)
TOTAL = Interval(np.array([0.41, 3, 5]), np.array([0.35, 2, 4]), np.array([0.47, 4, 6]))
SITES = ("resid_post", "mlp_out", "attn_out")
WORDS = ("<bos>", " The", " Space", " Need", "le", " is", " in")


def effect(name="resid_post", shape=(18,), part="subject", empty=("further",), scale=0.1):
    """Made-up averages of one grid; `shape` is layers, or layers and heads."""
    mean = scale * np.random.default_rng(len(name)).normal(size=(3, len(BUCKETS), *shape))
    mean[:, [BUCKETS.index(bucket) for bucket in empty]] = np.nan
    n_tokens = tuple(0 if bucket in empty else 60 for bucket in BUCKETS)
    spread = abs(scale) / 4
    window = 1 if name[:5] in ("resid", "z") else 10
    return AverageEffect(
        name, part, window, BUCKETS, n_tokens, n_tokens, mean, mean - spread, mean + spread
    )


def fact(words=WORDS, n_layers=6, n_heads=5, positions=None, site="resid_post"):
    """A made-up trace with one grid; positions 2 to 4 were corrupted."""
    positions = tuple(range(len(words))) if positions is None else positions
    heads = (n_heads,) if site == "z" else ()
    draw = torch.Generator().manual_seed(0)
    restored = torch.rand(3, n_layers, len(positions), *heads, generator=draw)
    clean, corrupted = torch.tensor([0.9, -0.1, 5.0]), torch.tensor([0.5, -0.7, -1.0])
    grid = EffectGrid(site, 1, "", positions, restored, clean, corrupted)
    about = ("the Space Needle", "P131", "Seattle", "The Space Needle is in", words, "subject")
    return FactTrace(*about, (2, 3, 4), "noise", " Seattle", " Paris", {grid.name: grid})


def sites(**settings):
    return [effect(site, **settings) for site in SITES]


def cut(**settings):
    return [effect(f"resid_post-severed-{site}", **settings) for site in SITES[1:]]


DRAWN = {
    "heatmap": lambda n_layers, n_heads, **_: heatmap(fact(n_layers=n_layers), "resid_post"),
    "averages": lambda n_layers, n_heads, **how: averages(
        sites(shape=(n_layers,), **how), STUDY, TOTAL
    ),
    "heads": lambda n_layers, n_heads, **how: heads(effect("z", (n_layers, n_heads), **how), STUDY),
    "severed": lambda n_layers, n_heads, **how: severed(
        effect(shape=(n_layers,), **how), cut(shape=(n_layers,), **how), STUDY
    ),
    "sides": lambda n_layers, n_heads, **how: sides(
        sites(shape=(n_layers,), part="relation", **how), sites(shape=(n_layers,), **how), STUDY
    ),
}


def meshes(figure):
    """The maps, without the colour bar."""
    found = [ax.collections[0] for ax in figure.axes if ax.collections and ax.get_xlabel()]
    return [mesh for mesh in found if isinstance(mesh, QuadMesh)]


def shown(mesh):
    """A map's numbers, NaN where it has none."""
    return np.ma.filled(mesh.get_array(), np.nan)


def rectangles(ax, hatched):
    found = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    return [patch for patch in found if bool(patch.get_hatch()) == hatched]


@pytest.mark.parametrize("drawing", DRAWN)
def test_every_figure_says_what_it_shows(drawing):
    caption = caption_of(DRAWN[drawing](4, 4))
    wanted = ("n = 60 facts", STUDY.corruption, "probability", "seed 7", "95\u00a0% bootstrap")
    if drawing == "heatmap":
        wanted = ("n = 1 fact", "no interval", "noise", "probability")
    assert all(part in caption for part in wanted), caption


@pytest.mark.parametrize("drawing", ["averages", "heads"])
def test_nothing_is_cut_off_at_the_edge_of_the_image(drawing, tmp_path):
    png, _ = save(DRAWN[drawing](12, 8), tmp_path, "it")
    drawn = imread(png)[..., :3]
    assert all((edge == 1).all() for edge in (drawn[0], drawn[-1], drawn[:, 0], drawn[:, -1]))
    assert (drawn < 1).any()  # the control: something is drawn


@pytest.mark.parametrize("words", ["the other prompt: ", "東京都庁舎"])
def test_a_long_description_is_wrapped(words):
    study = replace(STUDY, corruption=12 * words)
    assert_fits(severed(effect(), cut(), study))
    assert_fits(averages(sites(), study))


@pytest.mark.parametrize("metric", METRICS)
def test_a_heatmap_holds_the_indirect_effects_with_tokens_as_rows(metric):
    trace = fact()
    figure = heatmap(trace, "resid_post", metric)
    (mesh,) = meshes(figure)
    wanted = trace.grids["resid_post"].indirect_effect(metric).numpy().T
    np.testing.assert_array_equal(shown(mesh), wanted)
    assert figure.axes[0].yaxis_inverted()  # the first token on top
    largest = np.abs(wanted).max()
    assert (mesh.norm.vmin, mesh.norm.vmax) == (-largest, largest)


def test_a_heatmap_stars_the_corrupted_tokens_and_shows_only_the_traced():
    ax = heatmap(fact(positions=(1, 4, 5)), "resid_post").axes[0]
    labels = ax.get_yticklabels()
    assert [label.get_text() for label in labels] == ["The", "le*", "is"]
    assert [label.get_fontweight() for label in labels] == ["normal", "bold", "normal"]


def test_a_heatmap_by_head_shows_the_largest_effect_of_either_sign():
    trace = fact(site="z")
    by_head = trace.grids["z"].indirect_effect().numpy()
    figure = heatmap(trace, "z")
    drawn = shown(meshes(figure)[0]).T
    np.testing.assert_array_equal(np.abs(drawn), np.abs(by_head).max(2))
    assert (drawn < 0).any()  # the control: a maximum would show none of these
    layer, _, head = np.unravel_index(np.abs(by_head).argmax(), by_head.shape)
    assert f"largest effect: L{layer}H{head}" in caption_of(figure)


def test_any_token_can_be_a_label():
    words = ("$x_1$", " 東京都庁舎", "\n", " ", "Straßenbahnhaltestellenverzeichnis", "é", "\x00")
    figure = heatmap(fact(words=words), "resid_post")
    assert_fits(figure)  # a missing glyph would warn, and fail here
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[:4] == ["$x_1$", "‹6771 4EAC 90FD 5E8…", "↵*", "␣*"]
    assert labels[4] == "Straßenbahnhalteste…*"
    assert labels[5:] == ["é", "‹0›"]


@pytest.mark.parametrize("metric", METRICS)
def test_averages_share_one_scale_centred_on_zero(metric):
    effects = sites()
    figure = averages(effects, replace(STUDY, metric=metric))
    index = METRICS.index(metric)
    largest = max(np.nanmax(np.abs(effect.mean[index])) for effect in effects)
    assert len(meshes(figure)) == 3
    for mesh, effect in zip(meshes(figure), effects, strict=True):
        np.testing.assert_array_equal(shown(mesh), effect.mean[index])
        assert (mesh.norm.vmin, mesh.norm.vmax) == (-largest, largest)
        assert mesh.norm(np.zeros(1)) == 0.5


def test_averages_say_which_buckets_are_empty():
    figure = averages(sites(empty=("between", "further")), STUDY)
    for ax in figure.axes[:3]:
        assert [patch.get_y() + 0.5 for patch in rectangles(ax, hatched=True)] == [2, 3]
        assert [text.get_text() for text in ax.texts] == ["no data", "no data"]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[2:] == ["between (0 tokens)", "further (0 tokens)", "last token (60 tokens)"]


def test_averages_outline_each_peak_and_write_its_interval():
    effects = sites()
    effects[1].mean[0, 1, 12] = -0.5
    effects[1].low[0, 1, 12], effects[1].high[0, 1, 12] = -0.62, -0.41
    figure = averages(effects, STUDY, TOTAL)
    ax = figure.axes[1]
    assert ax.get_title("left") == "MLP, window 10\npeak at layer 12\n−0.50 [−0.62, −0.41]"
    (frame,) = rectangles(ax, hatched=False)
    assert (frame.get_x() + 0.5, frame.get_y() + 0.5) == (12, 1)
    assert "total effect 0.41 [0.35, 0.47]" in figure.get_suptitle()


def few_between(shape=(18,), n_facts=(60, 60, 3, 0, 60)):
    """Averages whose largest effect, of ten times the others' size, rests on three facts."""
    made = effect("z" if len(shape) == 2 else "mlp_out", shape)
    made.mean[:, BUCKETS.index("between")] *= 10
    return replace(made, n_facts=n_facts)


def test_a_bucket_of_few_facts_neither_holds_the_peak_nor_sets_the_scale():
    made = few_between()
    (mesh,) = meshes(figure := averages([made], STUDY))
    np.testing.assert_array_equal(shown(mesh), made.mean[0])  # it is drawn all the same
    rest = np.abs(np.delete(made.mean[0], BUCKETS.index("between"), 0))
    assert mesh.norm.vmax == np.nanmax(rest) < np.nanmax(np.abs(made.mean[0]))
    (frame,) = rectangles(figure.axes[0], hatched=False)
    assert frame.get_y() + 0.5 != BUCKETS.index("between")
    told = r"Too few facts for a peak .* colour scale: between \(3 facts\);.* last colour\.$"
    assert re.search(told, caption_of(figure))
    assert_fits(figure)
    enough = replace(made, n_facts=made.n_tokens)
    (mesh,) = meshes(figure := averages([enough], STUDY))
    assert mesh.norm.vmax == np.nanmax(np.abs(made.mean[0]))
    assert "Too few" not in caption_of(figure)


def test_a_head_is_not_ranked_by_an_effect_on_few_facts():
    made = few_between((6, 4))
    figure = heads(made, STUDY)
    names = [label.get_text() for label in figure.axes[-2].get_yticklabels()]
    names += [label.get_text() for label in figure.axes[-1].get_yticklabels()]
    assert any("last" in name for name in names) and not any("between" in name for name in names)
    rest = np.abs(np.delete(made.mean[0], BUCKETS.index("between"), 0))
    assert meshes(figure)[0].norm.vmax == np.nanmax(rest)
    assert "between (3 facts)" in caption_of(figure)


def test_one_fact_is_one_fact_and_has_no_interval():
    made = effect()
    nothing = np.full_like(made.mean, np.nan)
    n_facts = tuple(min(n, 1) for n in made.n_facts)
    alone = replace(made, low=nothing, high=nothing, n_facts=n_facts)
    figure = averages([alone], replace(STUDY, n_facts=1))
    assert "n = 1 fact;" in caption_of(figure)
    assert caption_of(figure).endswith("no interval over a single fact.")
    title = figure.axes[0].get_title("left")
    assert "peak" in title and "[" not in title
    assert_fits(figure)


@pytest.mark.parametrize(
    ("bounds", "wanted"),
    [
        ((0.66, np.nan, np.nan), "0.66"),
        ((-0.00042, np.nan, np.nan), "−0.00042"),
        ((np.nan, np.nan, np.nan), "-"),
        ((0.0011, 0.00031, 0.0021), "0.0011 [0.0003, 0.0021]"),
    ],
)
def test_an_estimate_has_an_interval_if_there_is_one(bounds, wanted):
    assert estimate(*bounds) == wanted


def test_averages_want_the_same_tokens_and_no_heads():
    with pytest.raises(InputError, match="same tokens"):
        averages([effect(), effect("mlp_out", empty=())], STUDY)
    with pytest.raises(InputError, match=r"figures\.heads"):
        averages([effect("z", (4, 4))], STUDY)


def test_heads_show_the_buckets_with_tokens_and_number_the_five_strongest():
    by_head = effect("z", (12, 8), scale=0.01)
    strong = {(0, 3, 2): 0.9, (4, 8, 7): -0.8, (4, 9, 7): 0.7, (4, 9, 6): 0.6, (1, 0, 0): 0.5}
    for place, value in strong.items():
        by_head.mean[0][place] = value
    figure = heads(by_head, STUDY)
    titles = [ax.get_title("left") for ax in figure.axes]
    assert [title.partition("\n")[0] for title in titles[:4]] == [
        bucket for bucket in BUCKETS if bucket != "further"
    ]
    assert titles[0].endswith("60 tokens, up to 0.9")
    np.testing.assert_array_equal(shown(meshes(figure)[3]), by_head.mean[0, 4].T)
    ranking = next(ax for ax in figure.axes if ax.get_title("left") == "the 5 strongest heads")
    assert [label.get_text() for label in ranking.get_yticklabels()] == [
        f"L{layer}H{head}, {BUCKETS[bucket]}   {rank}"
        for rank, (bucket, layer, head) in enumerate(strong, 1)
    ]
    numbers = {text.get_text(): text.xy for text in figure.axes[3].texts}  # pyright: ignore
    assert numbers == {"2": (8, 7), "3": (9, 7), "4": (9, 6)}
    assert len([patch for ax in figure.axes for patch in ax.patches if not patch.get_fill()]) == 5


def test_heads_want_an_effect_by_head():
    with pytest.raises(InputError, match="has no effects by head"):
        heads(effect(), STUDY)


def test_severed_curves_are_the_means_with_their_bands():
    whole, *held = effect(), *cut()
    axes = severed(whole, held, STUDY, TOTAL).axes
    for ax, one, site in zip(axes, held, SITES[1:], strict=True):
        lines = {line.get_label(): line for line in ax.lines}
        for label, drawn, colour, band in zip(
            ("nothing severed", f"{SITE_NAMES[site]} severed"), (whole, one),
            (WHOLE, SITE_COLOURS[site]), ax.collections, strict=True,
        ):  # fmt: skip
            np.testing.assert_array_equal(lines[label].get_ydata(), drawn.mean[0, 1])
            assert lines[label].get_color() == colour
            heights = np.asarray(band.get_paths()[0].vertices)[:, 1]
            assert heights.min() == drawn.low[0, 1].min()
            assert heights.max() == drawn.high[0, 1].max()
        assert any(
            set(np.asarray(line.get_ydata())) == {0.41} for line in ax.lines
        )  # the total effect


def test_sides_put_both_parts_on_one_axis_in_their_colours():
    relation, subject = sites(part="relation", scale=0.3), sites()
    figure = sides(relation, subject, STUDY)
    assert len(figure.axes) == 6
    assert len({ax.get_ylim() for ax in figure.axes}) == 1
    for row, bucket in ((0, 1), (3, 4)):  # last corrupted, last token
        for ax, *pair in zip(figure.axes[row : row + 3], relation, subject, strict=True):
            lines = {line.get_color(): line.get_ydata() for line in ax.lines}
            for drawn in pair:
                wanted = drawn.mean[0, bucket]
                np.testing.assert_array_equal(lines[PART_COLOURS[drawn.part]], wanted)
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == [f"{part} corrupted (n = 60 facts)" for part in ("subject", "relation")]


def test_sides_want_the_same_sites():
    with pytest.raises(InputError, match="same sites"):
        sides(sites(part="relation"), sites()[:2], STUDY)


@pytest.mark.parametrize("bucket", ["last corrupted", "last token"])
def test_an_empty_panel_of_curves_says_so(bucket):
    figure = sides(sites(part="relation", empty=(bucket,)), sites(empty=(bucket,)), STUDY)
    empty = [[text.get_text() for text in ax.texts] == ["no data"] for ax in figure.axes]
    assert empty == [bucket == "last corrupted"] * 3 + [bucket == "last token"] * 3


@pytest.mark.slow
@pytest.mark.parametrize("drawing", ["heatmap", "severed"])
def test_the_same_numbers_give_the_same_bytes(drawing, tmp_path):
    settings = dict(matplotlib.rcParams)
    draws = [save(DRAWN[drawing](6, 4), tmp_path / run, "it") for run in ("first", "second")]
    for first, second in zip(*draws, strict=True):
        assert first.read_bytes() == second.read_bytes()
    assert [path.name for path in draws[0]] == ["it.png", "it.pdf"]
    assert dict(matplotlib.rcParams) == settings
    assert plt.get_fignums() == []


def test_other_numbers_give_other_bytes(tmp_path):
    first, _ = save(DRAWN["severed"](6, 4), tmp_path, "first")
    second, _ = save(DRAWN["severed"](6, 4, scale=0.2), tmp_path, "second")
    assert first.read_bytes() != second.read_bytes()


@pytest.mark.parametrize(
    ("effects", "limit"),
    [([[-3.0, 1.0], [2.0, np.nan]], 3.0), ([[0.0], [np.nan]], 1.0), ([], 1.0)],
)
def test_a_scale_is_symmetric_and_never_empty(effects, limit):
    scale = norm(*map(np.array, effects))
    assert (scale.vmin, scale.vmax) == (-limit, limit)


@pytest.mark.parametrize(
    ("bounds", "text"),
    [
        ((0.317, 0.25, 0.3861), "0.32 [0.25, 0.39]"),
        ((-0.001, -0.0124, 0.0), "−0.001 [−0.012, 0.000]"),
        ((12.4, 9.6, 15.2), "12 [10, 15]"),
        ((0.0, 0.0, 0.0), "0 [0, 0]"),
    ],
)
def test_an_estimate_is_written_to_its_second_digit(bounds, text):
    assert estimate(*bounds) == text


@pytest.mark.parametrize(
    ("name", "window", "plain"),
    [
        ("resid_post", 1, "single residual"),
        ("mlp_out", 10, "MLP, window 10"),
        ("attn_out", 10, "attention, window 10"),
        ("z", 1, "heads"),
        ("resid_post-severed-mlp_out", 1, "single residual, MLP severed"),
    ],
)
def test_sites_have_plain_names(name, window, plain):
    assert named(name, window) == plain


def test_readable_shortens_to_a_width():
    assert readable(" twelve letters", 8) == "twelve …"
    assert readable("eight ab", 8) == "eight ab"
