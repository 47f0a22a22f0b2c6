"""The choice of sites: whole, stopped, with bad records; correlations, the control, the figure."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from transformer_lens import HookedTransformer

from experiments import choose_sites as command
from experiments._edit_options import to_edit
from experiments.choose_sites import Config
from figures import sites as figure_module
from figures.neurons import HALVES
from figures.sites import AGAINST, MAPS, UNKNOWN
from kedit.data import choose
from kedit.editing.write_sites import Half
from kedit.editors.joint import Joint
from kedit.editors.registry import make_editor
from kedit.errors import InputError
from kedit.facts import EditCase, Fact
from kedit.journal import Journal
from kedit.lines import read_lines
from kedit.models import toy as toy_module
from kedit.models.prompts import KeyPosition, located
from kedit.results.outcomes import Outcome
from kedit.results.scores import EditScore, ProbeScore
from kedit.results.sites import (
    EDITED,
    EVERYWHERE,
    PARTS,
    SHOWN,
    Estimate,
    SiteFindings,
    SiteNumbers,
)
from kedit.scoring.summary import Key, changes
from kedit.stats import resampled_means, resamples
from probes.corrupt import replaced
from probes.patch import Patch
from probes.studies import site_controls, write_sites
from probes.studies.candidate_sites import HALVES as SITE_HALVES
from probes.studies.candidate_sites import POSITIONS, CandidateSite, plain_joint
from probes.studies.site_controls import CRITERIA, Measured, controls, correlations
from probes.studies.site_effects import EFFECTS, SEPARATIONS
from probes.studies.write_sites import choose_sites
from probes.trace import trace
from tests.figure_checks import assert_fits, caption_of

pytestmark = pytest.mark.slow

LAYERS = [1, 2]
STRONG = "training.clamp=4"  # else the toy's edits do little
TOY = Config(model="toy", limit=3, layers=LAYERS, settings=STRONG, n_neighbours=6, best=3, chunks=1)
N_SITES = len(POSITIONS) * len(LAYERS) * 2
N_HEADS = len(POSITIONS) * len(LAYERS) * 4


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return command.run(replace(TOY, out=str(tmp_path_factory.mktemp("sites") / "run")))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take most of the time."""
    monkeypatch.setattr(figure_module, "sites", lambda found: Figure())


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


def findings(folder: Path) -> str:
    return (folder / "sites.json").read_text()


def found(folder: Path) -> dict[CandidateSite, SiteNumbers]:
    sites = SiteFindings.load(folder).sites
    return {CandidateSite(one.layer, one.half, one.head, one.where): one for one in sites}


def test_every_site_and_head_is_traced_and_compared_and_every_site_edited(run: Path) -> None:
    assert len(records(run)) == 3 * (1 + len(EFFECTS) + 1 + N_SITES)
    every = found(run)
    assert len(every) == N_SITES + N_HEADS
    for place, one in every.items():
        said = place.where == "object_last"
        assert one.found["effect of relation"].n == (0 if said else 3)
        assert {one.found[name].n for name in ("effect of subject", *SEPARATIONS)} == {3}
        edited = place.head is None
        assert {one.found[name].n for name in EDITED} == {3 if edited else 0}
        assert one.editor == (place.spec(STRONG) if edited else "")
        for name, (mean, low, high, n) in one.found.items():
            # of a Score the middle of the draws is not the estimate
            assert not n or (low <= high and (low <= mean <= high or name == "Score"))
        if place.where == "subject_last":
            assert one.found["demands apart"].mean == pytest.approx(0, abs=1e-9)
    assert max(one.found["effect of relation"].mean for one in every.values() if one.editor) > 1


def test_numbers_are_means_of_what_was_recorded(run: Path) -> None:
    for place, one in found(run).items():
        for name in ("effect of subject", "separation"):
            own = [record for record in records(run) if record["key"].endswith(f"-{name}")]
            values = [record["nats" if "effect" in name else name][place.name] for record in own]
            assert len(values) == 3 and one.found[name].mean == pytest.approx(np.mean(values))


@pytest.mark.parametrize("name", EFFECTS)
def test_an_effect_is_that_of_its_layer_position_and_head(
    run: Path, toy: HookedTransformer, name: str
) -> None:
    cases = {case.id: case for case in toy_module.cases()}
    own = [record for record in records(run) if record["key"].endswith(f"-{name}")]
    one = max(own, key=lambda record: abs(record["total"]))  # where most was lost
    request, removal = cases[one["id"]].request("relation"), name == "effect of subject"
    fact = request.removal if removal else cases[one["id"]].entity.fact
    assert fact
    pool = [case.relation.removal if removal else case.entity.fact for case in cases.values()]  # pyright: ignore
    corruption = replaced(toy, fact, EFFECTS[name], pool, seed=0)  # pyright: ignore
    patches = Patch("mlp_out"), Patch("attn_out"), Patch("z")
    grids = trace(toy, fact, EFFECTS[name], corruption, patches).grids
    for place, value in ((place, one["nats"].get(place.name)) for place in found(run)):
        if place.where == "object_last" and not removal:
            assert value is None
            continue
        _, pos = located(toy, fact, place.where, request.mentioned_by_removal)
        site = f"{place.half}_out" if place.head is None else "z"
        effect = grids[site].indirect_effect("logprob")[place.layer, pos]
        wanted = float(effect if place.head is None else effect[place.head])
        assert value == pytest.approx(wanted, abs=1e-4)
    assert np.std(list(one["nats"].values())) > 0.05
    total = SiteFindings.load(run).totals[name]
    assert total.mean == pytest.approx(np.mean([record["total"] for record in own]))
    assert total.low <= total.mean <= total.high and total.n == 3


def test_score_and_shares_are_those_of_the_comparison_of_editors(run: Path) -> None:
    lines = records(run)
    before = [EditScore.from_record(one) for one in lines if "probes" in one]
    seen = set()
    for one in found(run).values():
        if one.editor:
            own = {r["id"]: Outcome.from_record(r) for r in lines if r.get("editor") == one.editor}
            after = [own[old.id].counted(old) for old in before]
            measured = {m.key: m for m in changes(before, after, "relation")}
            score = measured[Key("relation", "Score", "lifts")].after
            assert score and one.found["Score"][:3] == pytest.approx(tuple(map(float, score)))
            parts = ("add", "paraphrase", "removal")
            shares = [one.found[f"{name} lift"].mean for name in parts]
            kept = ("neighbours", "other objects", "other relations")
            shares += [one.found[f"{name} kept"].mean for name in kept]
            plain = np.mean(np.maximum(shares, -1))
            assert one.found["mean share"].mean == pytest.approx(plain)
            seen.add(round(plain, 6))
    assert len(seen) > 2  # the sites differ


def test_the_chosen_sites_are_the_best_and_the_table_has_all(run: Path) -> None:
    chosen = json.loads((run / "chosen.json").read_text())
    best = sorted(one.found["mean share"].mean for one in found(run).values() if one.editor)
    assert [one["found"]["mean share"]["mean"] for one in chosen] == best[-1:-4:-1]
    rows = list(csv.DictReader((run / "sites.csv").read_text().splitlines()))
    assert len(rows) == N_SITES + N_HEADS
    for row, one in zip(rows, found(run).values(), strict=True):
        assert row["head"] == ("" if one.head is None else str(one.head))
        told = row["separation"], row["separation low"], row["separation high"]
        assert tuple(map(float, told)) == one.found["separation"][:3]
    assert (run / "sites.png").stat().st_size > 10_000 and (run / "sites.pdf").exists()


@pytest.mark.usefixtures("undrawn")
def test_a_stopped_run_goes_on_and_ends_the_same(run: Path, tmp_path: Path) -> None:
    stopped = tmp_path / "run"
    shutil.copytree(run, stopped)
    lines = (run / "records.jsonl").read_bytes().splitlines(keepends=True)
    kept = b"".join(lines[:-5])
    (stopped / "records.jsonl").write_bytes(kept + b'{"key": "torn')
    (stopped / "sites.json").unlink()
    command.run(replace(TOY, out=str(stopped)))
    assert (stopped / "records.jsonl").read_bytes().startswith(kept)
    assert [one["key"] for one in records(stopped)] == [one["key"] for one in records(run)]
    assert findings(stopped) == findings(run)


@pytest.mark.usefixtures("undrawn")
def test_a_finished_run_does_nothing_twice(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def again(*told: object, **more: object) -> None:
        raise AssertionError("done before")

    finished = tmp_path / "run"
    shutil.copytree(run, finished)
    for module, name in (
        ("probes.studies.site_effects", "trace"), ("probes.studies.site_effects", "separation"),
        ("probes.studies.site_effects", "moments"), ("kedit.studies.protocol", "prepare"),
        ("kedit.studies.scoring", "score"),
    ):  # fmt: skip
        monkeypatch.setattr(f"{module}.{name}", again)
    command.run(replace(TOY, out=str(finished)))
    assert (finished / "records.jsonl").read_bytes() == (run / "records.jsonl").read_bytes()
    assert findings(finished) == findings(run)
    with pytest.raises(AssertionError, match="done before"):  # they would have been called
        command.run(replace(TOY, out=str(tmp_path / "new")))


@pytest.mark.usefixtures("undrawn")
def test_a_bad_record_costs_only_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, other, third = toy_module.cases()[:3]
    odd = "{} was, as everybody far and wide has heard by now, once upon a time, born in"
    fact = replace(other.entity.fact, template=odd, relation_words=())
    entity = replace(other.entity, fact=fact)
    untraceable = replace(other, entity=entity)
    long = replace(third.probes[0], prompt="far " * 70 + "away")
    unscorable = replace(third, probes=(long, *third.probes))
    cases = [good, untraceable, unscorable]

    def benchmark(source: str) -> tuple[list[EditCase], dict[str, str]]:
        return [*cases, *toy_module.cases()[3:]], {}

    monkeypatch.setattr(choose, "usable_cases", benchmark)
    monkeypatch.setattr(choose, "spread_cases", lambda every, limit, seed: cases)
    config = replace(TOY, layers=[1], positions=["last"], prompts_per_kind=0, out=str(tmp_path))
    folder = command.run(config)
    skipped = SiteFindings.load(folder).skipped
    assert sorted(reason[:12] for reason in skipped.values()) == ["'far far far", "no other rel"]
    place = found(folder)[CandidateSite(1, "mlp", None, "last")].found
    names = ("effect of relation", "effect of subject", "separation", "Score")
    assert [place[name].n for name in names] == [1, 2, 2, 2]
    assert len(records(folder)) == 3 + 2 * (len(EFFECTS) + 1 + 2)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"positions": ["first"]}, "--positions first: must be one of subject_last"),
        ({"layers": [1, 4]}, "--layers 1 4: toy has layers 0 to 3"),
        ({"n_neighbours": 0}, "--n-neighbours 0"),
        ({"settings": "nonsense=1"}, "Joint has no 'nonsense'"),
        ({"skip": 10_000}, "--skip 10000"),
    ],
)
def test_what_cannot_be_run_is_refused(changed: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        command.run(replace(TOY, **changed, out=str(tmp_path)))


def test_a_relation_prompt_is_corrupted_at_its_subject_and_keeps_its_object(run: Path) -> None:
    cases = {case.id: case for case in toy_module.cases()}
    for one in records(run):
        if one.get("measured") in EFFECTS:
            case = cases[one["id"]]
            removal = case.request("relation").removal
            fact: Fact | None = {"effect of relation": case.entity.fact}.get(
                one["measured"], removal
            )
            assert fact and one["prompt"] == fact.prompt
            stays = (
                fact.subject if one["measured"] == "effect of relation" else case.entity.fact.object
            )
            assert stays in one["corruption"] and fact.prompt not in one["corruption"]


PLACES = [
    CandidateSite(layer, half, None, where)
    for where in POSITIONS
    for layer in range(5)
    for half in ("mlp", "attn")
]


def rows(seed: int = 0, draws: int = 200) -> dict[str, np.ndarray]:
    """Numbers without any order, and little noise in draws; "separation" is what editing brings."""
    draw = np.random.default_rng(seed)
    made = {}
    for name in (*CRITERIA, *EDITED):
        made[name] = draw.normal(size=len(PLACES)) + 0.01 * draw.normal(
            size=(1 + draws, len(PLACES))
        )
    made["mean share"] = made["separation"] ** 3
    made["Score"] = -made["separation"]
    made["effect of relation"][:, [place.where == "object_last" for place in PLACES]] = np.nan
    return made


def test_correlations_are_found_where_they_are_and_only_there() -> None:
    told = {
        (one.criterion, one.editing, one.where): one.rho for one in correlations(rows(), PLACES)
    }
    assert len(told) == len(CRITERIA) * len(EDITED) * 4
    for where in (EVERYWHERE, *POSITIONS):
        n = 30 if where == EVERYWHERE else 10
        assert told["separation", "mean share", where] == pytest.approx((1, 1, 1, n))
        assert told["separation", "Score", where] == pytest.approx((-1, -1, -1, n))
    rho = told["effect of relation", "mean share", EVERYWHERE]
    assert rho.n == 20 and abs(rho.mean) < 0.6 and rho.low < rho.high
    nothing = told["effect of relation", "mean share", "object_last"]
    assert nothing.n == 0 and np.isnan(nothing.mean)


def test_the_control_knows_a_good_criterion_from_a_bad_one_and_from_none() -> None:
    made = rows()
    made["effect of subject"] = -made["mean share"]
    told = {(one.criterion, one.editing): one for one in controls(made, 5, seed=0)}
    result = made["mean share"]
    good, bad = told["separation", "mean share"], told["effect of subject", "mean share"]
    assert good.chosen.mean == pytest.approx(np.sort(result[0])[-5:].mean())
    assert bad.chosen.mean == pytest.approx(np.sort(result[0])[:5].mean())
    assert good.random.mean == bad.random.mean == pytest.approx(result[0].mean())
    assert good.difference.low > 0 > bad.difference.high
    assert good.best.mean == pytest.approx(result[0].max()) and good.best.mean > good.chosen.mean
    assert good.random.low < good.random.mean < good.random.high  # which ones is by chance
    # where all sites are equal no choice is better than another, nor a random one
    made["Score"] = np.full_like(result, 0.3)
    for one in controls(made, 5, seed=0):
        if one.editing == "Score":
            assert one.difference[:3] == pytest.approx((0, 0, 0))
    # all sites chosen: so they are at random
    for one in controls({name: row[:1] for name, row in made.items()} | rows(), 99, seed=0):
        wanted = 20 if "relation" in one.criterion and "×" not in one.criterion else 30
        assert one.n_sites == wanted and one.difference.mean == pytest.approx(0)


def test_a_share_counts_as_no_less_than_all_lost_and_trouble_as_no_edit() -> None:
    def scored(added: int, kept: int) -> list[EditScore]:
        """Ten cases, in so many of which the relation is added, and kept by neighbours."""
        made = []
        for n in range(10):
            probes = (
                ProbeScore(
                    "relation", group, "p", "a", "r", -1.0, -2.0 if n < good else -0.5, False
                )
                for group, good in (("efficacy", added), ("neighborhood", kept))
            )
            made.append(EditScore(str(n), "owner", "", tuple(probes), None, {}))
        return made

    def edited(trouble: str) -> dict[str, float]:
        outcomes = [Outcome(trouble, one, 1.0, None, None, None, None) for one in scored(2, 5)]
        measured = Measured([place], {}, {}, scored(8, 10), {place: outcomes})
        return {
            name: float(row[0, 0]) for name, row in site_controls.by_editing(measured, 0).items()
        }

    place = CandidateSite(0, "mlp", None, "last")
    lost = edited("")
    assert (lost["add lift"], lost["neighbours kept"]) == pytest.approx((-3, 0.5))
    assert (lost["mean share"], lost["Score"]) == pytest.approx(((-1 + 0.5) / 2, 0))
    unedited = edited("not finite")
    assert (unedited["add lift"], unedited["neighbours kept"]) == pytest.approx((0, 1))
    assert unedited["mean share"] == pytest.approx(0.5)


def test_draws_of_cases_are_the_same_for_every_quantity() -> None:
    """Editing that goes with the effect case by case keeps to it in every draw."""
    places = [CandidateSite(layer, "mlp", None, "last") for layer in range(6)]
    table = np.random.default_rng(0).normal(size=(8, 6))
    tables = dict.fromkeys((*EFFECTS, *SEPARATIONS), table)
    measured = Measured(places, tables, {}, [EditScore("", "", "", (), None, {})] * 8, {})

    def edited(measured: Measured, seed: int) -> dict[str, np.ndarray]:
        share = resampled_means(2 * table, resamples(8, site_controls.DRAWS, seed))
        return dict.fromkeys(EDITED, share)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(site_controls, "by_editing", edited)
        told = write_sites.summed_up(measured, "toy", 6, {}, {}, best=3, seed=0)
    rho = {one.criterion: one.rho for one in told.correlations if one.where == "last"}
    assert rho["separation"] == pytest.approx((1, 1, 1, 6))
    assert rho["effect of subject × separation"].low < 1


def test_the_study_runs_in_memory_and_a_journal_saves_it_from_doing_work_again(
    run: Path, toy: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, journal = SiteFindings.load(run), Journal()
    journal.replace(read_lines(run / "records.jsonl").records)
    found = to_edit(TOY, ["relation"])
    cases = found.cases
    settings = {"layers": LAYERS, "n_neighbours": 6, "settings": STRONG, "best": 3, "chunks": 1}
    told = choose_sites(toy, cases, pool=found.every, **settings, journal=journal)
    assert told.to_record() == saved.to_record()
    assert saved.n_layers == toy.cfg.n_layers > len(LAYERS)
    made = SiteFindings.from_record(told.to_record())
    assert made.to_record() == told.to_record() and made.best == told.best
    assert repr(made) == repr(told) and str(told.table()) in repr(told)
    assert len(told.rows()) == N_SITES + N_HEADS
    few = {**settings, "layers": [1], "positions": ["last"]}
    new = Journal()
    first = choose_sites(toy, cases[:1], **few, journal=new)
    assert len(new.records) == 1 + len(EFFECTS) + 1 + 2 and first.n_cases == 1
    monkeypatch.setattr(Journal, "add", lambda *told: pytest.fail("done before"))
    assert choose_sites(toy, cases[:1], **few, journal=new).to_record() == first.to_record()


def test_what_a_study_cannot_look_at_is_refused(toy: HookedTransformer) -> None:
    for layers, positions, message in (
        ([1, 4], POSITIONS, "layers 4: the model has layers 0 to 3"),
        ([], [], r"positions .none.: must be one or more of subject_last"),
        ([], ["pair_last"], "positions pair_last: must be one or more of subject_last"),
    ):
        with pytest.raises(InputError, match=message):
            choose_sites(toy, [], layers=layers, positions=positions)  # pyright: ignore
    with pytest.raises(InputError, match="Joint has no 'nonsense'"):
        choose_sites(toy, [], settings="nonsense=1")


def test_the_editor_of_a_place_is_the_one_that_its_spec_tells(toy: HookedTransformer) -> None:
    settings = "neighbours=8:weight=3:"
    for half in SITE_HALVES:
        place = CandidateSite(2, half, None, "object_last")
        editor = place.editor(plain_joint(toy, settings))
        assert editor == make_editor(place.spec(settings), toy, "relation")
        assert isinstance(editor, Joint) and (editor.layers, editor.halves) == ((2,), (half,))
        assert (editor.where, editor.neighbours, editor.weight) == ("object_last", 8, 3)


def drawn(folder: Path) -> Figure:
    return figure_module.sites(replace(SiteFindings.load(folder), seed=7))


def maps(figure: Figure) -> dict[str, Axes]:
    return dict(zip(MAPS, figure.axes[: len(MAPS)], strict=True))


def test_the_figure_shows_what_was_saved(run: Path) -> None:
    figure, every = drawn(run), found(run)
    order: list[tuple[Half, KeyPosition]] = [
        (half, where) for where in figure_module.POSITIONS for half in HALVES
    ]
    for name, ax in maps(figure).items():
        values = np.ma.filled(np.ma.asarray(ax.collections[0].get_array()), np.nan)
        values = values.reshape(len(order), -1)
        hatched = {(round(one.get_y() + 0.5), round(one.get_x() + 0.5)) for one in cells(ax)}
        for row, (half, where) in enumerate(order):
            for layer in LAYERS:
                one = every[CandidateSite(layer, half, None, where)].found[name]
                known = bool(one.n) and not (name == "Score" and one.high - one.low > UNKNOWN)
                assert ((row, layer) in hatched) != known
                np.testing.assert_allclose(values[row, layer], one.mean if known else np.nan)
    scatters = [ax for ax in figure.axes if "ρ = " in ax.get_title("left")]
    for name, ax in zip(AGAINST, scatters, strict=True):
        dots = [tuple(dot) for part in ax.collections for dot in np.asarray(part.get_offsets())]
        wanted = [
            (one.found[name].mean, one.found["mean share"].mean)
            for one in every.values()
            if one.editor
        ]
        drawn_dots, there = (
            sorted(dot for dot in each if not np.isnan(dot[0]))  # NaN has no place in an order
            for each in (dots, wanted)
        )
        np.testing.assert_allclose(drawn_dots, there)


def cells(ax: Axes) -> list[Rectangle]:
    """The hatched ones."""
    return [one for one in ax.patches if isinstance(one, Rectangle) and one.get_hatch()]


def test_the_figure_fits_its_page_and_says_what_it_rests_on(run: Path) -> None:
    figure = drawn(run)
    assert_fits(figure)
    caption = caption_of(figure)
    assert "n = 3 cases" in caption and "seed 7" in caption and "bootstrap" in caption
    assert figure.get_suptitle().endswith(", toy")
    rows = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert "MLP, last token" in rows and "Attention, object’s last token" in rows


def test_layers_that_were_left_out_are_blank_and_wide_scores_hatched() -> None:
    here, wide = Estimate(0.5, 0.25, 0.75, 4), Estimate(0.5, 0.0, 0.9, 4)
    made = [
        SiteNumbers(
            layer, half, None, "last", "joint",
            {**dict.fromkeys([*MAPS, "mean share"], here), "Score": wide if layer else here},
        )
        for layer in (0, 1, 9)
        for half in SITE_HALVES
    ]  # fmt: skip
    figure = figure_module.sites(
        SiteFindings("gemma-3-270m", 0, 4, 5, {}, {}, tuple(made), (), (), n_layers=18)
    )
    for name, ax in maps(figure).items():
        values = np.ma.asarray(ax.collections[0].get_array()).reshape(2, -1)
        known = np.flatnonzero(~np.ma.getmaskarray(values)[0])
        assert known.tolist() == ([0] if name == "Score" else [0, 1, 9])
        assert len(cells(ax)) == (4 if name == "Score" else 0)
    scatters = [ax for ax in figure.axes if "undefined" in ax.get_title("left")]
    assert len(scatters) == len(AGAINST)


def test_without_a_mean_share_all_sites_are_listed_with_the_reason() -> None:
    nothing, some = Estimate(np.nan, np.nan, np.nan, 0), Estimate(0.5, 0.25, 0.75, 6)
    found = dict.fromkeys((*SHOWN, *PARTS.values()), some)
    found |= dict.fromkeys((*EDITED, "other objects kept", "other relations kept"), nothing)
    made = [SiteNumbers(layer, "mlp", None, "last", "joint", found) for layer in (16, 20)]
    findings = SiteFindings("qwen", 0, 6, 5, {}, {}, tuple(made), (), (), n_layers=28)
    table = findings.table()
    assert [row[0] for row in table.rows] == ["L16 mlp, last", "L20 mlp, last"]
    assert "Sites, none with a mean share" in str(table)
    assert "No mean share and no Score without objects and others" in table.note
    scatters = figure_module.sites(findings).axes[-len(AGAINST) :]
    assert [[text.get_text() for text in ax.texts] for ax in scatters] == [["no data"]] * 3
