"""Studies of heads on the toy: what they write, what resumes, what their figures show."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from experiments import patch_heads, relation_kinds
from experiments._trace import Config
from figures.kinds import attention_shares
from figures.relations import clusters
from figures.style import Study
from kedit.data.choose import of_relations
from kedit.errors import InputError
from kedit.models import toy as toy_module
from kedit.results.heads import AttentionShare, KindTest, RelationHeads, Sharing
from kedit.results.kinds import KindsCompared
from kedit.results.relation_heads import HeadsByRelation
from kedit.stats import Interval
from tests.figure_checks import caption_of

STUDY = Study(5, "the relation's words replaced by others")
TOY = Config(model="toy", limit=8, sites=["z"], corrupt="relation")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.slow
def test_patch_heads_compares_relations(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = patch_heads.run(replace(TOY, out=str(tmp_path / "run")))
    heads = rows(out / "heads.csv")
    assert {row["relation"] for row in heads} == {fact.relation.name for fact in toy_module.facts()}
    for row in heads:
        assert float(row["low"]) <= float(row["effect"]) + 1e-6 <= float(row["high"]) + 2e-6
    (shared,) = json.loads((out / "heads.json").read_text())["sharing"]
    assert shared["n_facts"] == 8 and 0 < shared["p"] <= 1
    looks = rows(out / "looks.csv")
    for head in {row["head"] for row in looks}:
        whole = sum(float(row["attention"]) for row in looks if row["head"] == head)
        assert whole == pytest.approx(1, abs=1e-4)
    for name in ("relation-relations", "looks", "relation-heads"):
        assert (out / f"{name}.png").stat().st_size > 10_000
    assert "Do relations share heads?" in capsys.readouterr().out


@pytest.mark.slow
def test_a_screened_run_tells_what_it_missed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = replace(TOY, relations="2", limit=4, screen=0.3, out=str(tmp_path / "run"))
    out = patch_heads.run(config)
    (screen,) = json.loads((out / "averages.json").read_text())["screens"]
    assert screen["grid"] == "z" and 0.5 < screen["recall"]["mean"] <= 1
    assert screen["n_kept"] < screen["n_cells"] / 3 + 1
    assert "truly largest effects" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(InputError, match="--screen 2.0: must be a number between 0 and 1"):
        patch_heads.run(replace(config, screen=2.0, out=str(tmp_path / "other")))


def test_facts_of_some_relations():
    facts = toy_module.facts()
    first, *_, last = dict.fromkeys(fact.relation.id for fact in facts)
    name = next(fact.relation.name for fact in facts if fact.relation.id == last)
    both = of_relations(facts, f"{first}, {name}")
    assert {fact.relation.id for fact in both} == {first, last}
    assert of_relations(facts, "") == facts
    assert len({fact.relation.id for fact in of_relations(facts, "2")}) == 2
    with pytest.raises(InputError, match="no facts of the relation 'P0'; the relations are"):
        of_relations(facts, f"P0,{first}")


@pytest.mark.slow
def test_kinds_of_relations(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    sites = ["resid_post", "mlp_out", "attn_out", "severed"]
    config = Config(model="toy", limit=4, sites=sites, window=1, out=str(tmp_path / "run"))
    out = relation_kinds.run(config)
    found = json.loads((out / "kinds.json").read_text(), parse_constant=pytest.fail)  # no NaN
    assert {one["measure"] for one in found["shares"]} == {"restored", "severed"}
    for one in found["shares"]:
        assert one["share"]["mean"] is None or 0 <= one["share"]["mean"] <= 1
    assert len(rows(out / "kinds.csv")) == len(found["shares"])
    assert "differ by" in capsys.readouterr().out
    other = tmp_path / "other"
    with pytest.raises(InputError, match="attention's share needs attn_out and mlp_out or"):
        relation_kinds.run(replace(config, sites=["mlp_out"], corrupt="subject", out=str(other)))
    assert not other.exists()  # refused before anything is traced


def test_shares_are_drawn_as_they_are():
    bounds = [np.asarray(0.1), np.asarray(0.6)]
    shares = tuple(
        AttentionShare(part, measure, kind, Interval(np.asarray(share), *bounds), 9, 3)
        for part in ("subject", "relation")
        for measure in ("restored", "severed")
        for kind, share in (("all", 0.5), ("symmetric", 0.25))
    )
    test = KindTest("subject", "restored", 0.2, 0.03)
    found = KindsCompared("toy", "words replaced by others", "prob", 0, 9, shares, (test,))
    figure = attention_shares(found)
    for ax in figure.axes:
        heights = sorted(bar.get_height() for bar in ax.patches if isinstance(bar, Rectangle))
        assert heights == [0.25, 0.25, 0.5, 0.5]
        labels = [label.get_text() for label in ax.get_xticklabels()]
        assert labels == [f"{kind}\n3 relations\n9 facts" for kind in ("all", "symmetric")]
    assert "p = 0.03" in caption_of(figure)
    with pytest.raises(InputError, match="no shares"):
        attention_shares(replace(found, shares=()))


def compared(heads: RelationHeads, shared: Sharing) -> HeadsByRelation:
    words = "words replaced by others"
    return HeadsByRelation("toy", words, "prob", 0, (heads,), (shared,), {}, ())


def test_clusters_show_the_means_in_the_trees_order():
    from probes.sharing import by_relation, sharing
    from tests.test_sharing import NAMES, Head, facts

    traces = facts({"P1": Head(0, 0), "P2": Head(2, 3), "P3": Head(0, 0)})
    heads, shared = by_relation(traces, NAMES, "prob"), sharing(traces, "prob")
    figure = clusters(compared(heads, shared))
    ax = figure.axes[1]
    names = [label.get_text() for label in ax.get_yticklabels()]
    largest = np.abs(heads.mean).max((1, 2, 3))
    assert names == [f"{heads.relations[row]} (6 facts)" for row in heads.order]
    dots = [
        float(np.asarray(line.get_xdata())[0])
        for line in figure.axes[2].lines
        if line.get_marker() == "o"
    ]
    np.testing.assert_allclose(np.abs(dots), largest[heads.order])
    columns = [label.get_text() for label in ax.get_xticklabels()]
    column = columns.index("L2H3, last")
    shown = np.asarray(ax.collections[0].get_array()).reshape(len(names), len(columns))
    row = int(np.argmax(shown[:, column]))
    assert names[row].startswith("second (6 ")
    np.testing.assert_allclose(np.abs(shown).max(1), 1)  # every relation by its own largest
    last = heads.buckets.index("last token")
    assert shown[row, column] == pytest.approx(heads.mean[1, last, 2, 3] / largest[1])


def test_a_relation_whose_largest_effect_may_be_chance_is_hatched():
    from probes.sharing import by_relation, sharing
    from tests.test_sharing import NAMES, Head, facts

    traces = facts({"P1": Head(0, 0), "P2": Head(2, 3), "P3": Head(0, 0)})
    heads, shared = by_relation(traces, NAMES, "prob"), sharing(traces, "prob")
    heads.low[1] = -1.0  # what is chance in one, and unknown in another
    heads.low[2], heads.high[2] = np.nan, np.nan
    ax = clusters(compared(heads, shared)).axes[1]
    mask = np.ma.getmaskarray(np.ma.asarray(ax.collections[0].get_array())).reshape(3, -1)
    rows = {row: bool(mask[place].all()) for place, row in enumerate(heads.order)}
    assert rows == {0: False, 1: True, 2: True}
    hatched = [one for one in ax.patches if one.get_hatch()]
    assert len(hatched) == 2 * mask.shape[1]
