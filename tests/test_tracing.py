"""Studies of traces as a library: in memory, resumed, saved and loaded, shown and drawn."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformer_lens import HookedTransformer

from kedit.data.choose import of_relations
from kedit.editing.edit import Edit
from kedit.editing.provenance import made_by
from kedit.errors import InputError, NoReplacement
from kedit.journal import Journal
from kedit.models import toy as toy_module
from kedit.results import tracing
from kedit.results.kinds import KindsCompared
from kedit.results.relation_heads import HeadsByRelation
from kedit.results.trace_averages import TraceAverages
from kedit.results.traced import Traces
from kedit.results.tracing import SITES, Counts, Tracing
from kedit.run_folder import RunFolder
from probes.studies import heads_by_relation
from probes.studies import tracing as study
from probes.studies.heads_by_relation import compare_heads
from probes.studies.kinds import compare_kinds
from probes.studies.tracing import trace_fact, trace_facts

EVERY = toy_module.facts()
BY_KIND = {fact.relation.kind: fact.relation.id for fact in EVERY}  # two kinds, a relation of each
FACTS = of_relations(EVERY, ",".join(BY_KIND.values()))
HOW = Tracing(window=1)


@pytest.fixture(scope="module")
def journal() -> Journal:
    return Journal()


@pytest.fixture(scope="module")
def traces(toy: HookedTransformer, journal: Journal) -> Traces:
    return trace_facts(toy, FACTS, HOW, limit=4, journal=journal)


def never(*_: object, **__: object) -> None:
    raise AssertionError("done again")


def same_averages(one: TraceAverages, other: TraceAverages) -> bool:
    return one.to_record() == other.to_record()


def test_the_same_journal_is_not_worked_on_again(
    toy: HookedTransformer, journal: Journal, traces: Traces, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "trace", never)
    monkeypatch.setattr(study, "first_known", never)
    again = trace_facts(toy, FACTS, HOW, limit=4, journal=journal)
    assert same_averages(again.averages(), traces.averages())
    fewer = trace_facts(toy, FACTS, HOW, limit=2, journal=journal)
    assert [len(done) for done in fewer.by_part.values()] == [2, 2]
    assert traces.model == "toy" and set(traces.relations) == {one.relation.id for one in FACTS}


def test_traces_so_far_are_given_at_four_facts_and_whenever_they_have_doubled(
    toy: HookedTransformer,
) -> None:
    how = Tracing(corrupt="subject", sites=("resid_post",))
    given: dict[str, Traces] = {}

    def so_far(traces: Traces, n_facts: str) -> None:
        given[n_facts] = traces

    journal = Journal()
    trace_facts(toy, FACTS, how, limit=9, journal=journal, so_far=so_far)
    assert list(given) == ["4 of 9 facts", "8 of 9 facts"]
    four = trace_facts(toy, FACTS, how, limit=4, journal=journal)
    assert same_averages(given["4 of 9 facts"].averages(), four.averages())
    given.clear()
    trace_facts(toy, FACTS, how, limit=9, journal=journal, so_far=so_far)
    assert not given  # nothing was left to trace
    trace_facts(toy, FACTS, how, limit=10, journal=journal, so_far=so_far)
    assert list(given) == ["9 of 10 facts"]  # once, before the first fact that is traced now


def test_an_edited_model_gets_no_traces_of_the_unedited_one(
    toy: HookedTransformer, journal: Journal, traces: Traces
) -> None:
    weight = toy.blocks[1].mlp.W_out
    edit = Edit({"blocks.1.mlp.W_out": torch.ones_like(weight)}, made_by("x", {}, [], toy))
    with edit.applied(toy), pytest.raises(InputError, match="trace_facts with model="):
        trace_facts(toy, FACTS, HOW, limit=4, journal=journal)


def test_averages_are_read_back_as_they_were(traces: Traces) -> None:
    for found in (traces.averages(), traces.averages("logprob", "pooled")):
        again = TraceAverages.from_record(found.to_record())
        assert same_averages(again, found)
        assert again.settings == HOW and again.table("subject") == found.table("subject")
        np.testing.assert_array_equal(again.effects[0].mean, found.effects[0].mean)


def test_a_folder_gives_back_what_the_study_returned(
    toy: HookedTransformer, tmp_path: Path, traces: Traces, journal: Journal
) -> None:
    folder = RunFolder(tmp_path)
    for key, record in journal.records.items():
        if "traces" in record:
            folder.add(key, record, journal.tensors(key))
    traces.averages().save(folder)
    loaded = Traces.load(tmp_path)
    assert same_averages(loaded.averages(), traces.averages())
    assert same_averages(TraceAverages.load(tmp_path), traces.averages())
    assert loaded.left_out == traces.left_out and loaded.rows() == traces.rows()
    with pytest.raises(InputError, match="has no TraceAverages"):
        Traces.load(tmp_path / "tensors")
    next((tmp_path / "tensors").iterdir()).unlink()
    with pytest.raises(InputError, match="cannot be read"):
        Traces.load(tmp_path)


@pytest.mark.parametrize("kind", ["maps", "heads", "severed", "sides"])
def test_averages_draw_themselves(traces: Traces, kind: str) -> None:
    found = traces.averages()
    figure = found.plot(kind)
    assert figure.axes and "toy" in figure.get_suptitle()
    alone = replace(found, effects=(found.grids("subject")["mlp_out"],))
    with pytest.raises(InputError, match=r"figure 'heads': .*use maps or sides"):
        alone.plot("heads", "subject")


def test_heads_are_compared_and_looked_at_once(
    toy: HookedTransformer, traces: Traces, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = compare_heads(toy, traces, FACTS, journal=journal)
    assert found.parts == ("relation", "subject") and len(found.looks) == 8
    assert {one.n_facts for one in found.looks} == {4}
    again = HeadsByRelation.from_record(found.to_record())
    assert again.to_record() == found.to_record() and again.rows() == found.rows()
    assert again.plot("subject").axes
    monkeypatch.setattr(heads_by_relation, "attention_to_roles", never)
    other = compare_heads(toy, traces, FACTS, "logprob", journal=journal)
    assert other.metric == "logprob"
    fewer = replace(traces, by_part={part: done[:1] for part, done in traces.by_part.items()})
    nothing = compare_heads(toy, fewer, FACTS)
    assert set(nothing.not_compared) == {"relation", "subject"} and not nothing.looks


def test_kinds_are_compared(traces: Traces) -> None:
    kinds = {fact.relation.id: fact.relation.kind for fact in FACTS}
    found = compare_kinds(traces, kinds)
    assert {one.kind for one in found.shares} == {"all", "asymmetric", "hierarchical"}
    again = KindsCompared.from_record(found.to_record())
    assert again.to_record() == found.to_record() and again.table() == found.table()
    assert again.plot().axes


def test_kinds_are_compared_by_the_measures_whose_sites_were_restored(traces: Traces) -> None:
    kinds = {fact.relation.id: fact.relation.kind for fact in FACTS}
    both = compare_kinds(traces, kinds)
    fewer = replace(traces, settings=replace(traces.settings, sites=("mlp_out", "attn_out")))
    found = compare_kinds(fewer, kinds)
    restored = [one for one in both.shares if one.measure == "restored"]
    assert len(restored) < len(both.shares)
    assert list(map(str, found.shares)) == list(map(str, restored))
    assert len(found.plot().axes) == 1 and "severed" not in str(found.table())
    neither = replace(traces, settings=replace(traces.settings, sites=("z",)))
    with pytest.raises(InputError, match="attn_out and mlp_out or resid_post and severed, got z"):
        compare_kinds(neither, kinds)


@pytest.mark.parametrize("part", ["relation", "subject"])
def test_a_fact_is_traced_in_one_line(toy: HookedTransformer, part: str) -> None:
    found = trace_fact(toy, FACTS[0], part, sites=["resid_post", "z"])  # pyright: ignore
    assert found.part == part and found.corruption.startswith("replaced by ")
    assert list(found.grids) == ["resid_post", "z"]
    assert found.grids["z"].total_effect("logprob") > 1  # the corruption does harm
    table = found.top(2)
    assert len(table.rows) == 4 and table.rows[0][0] == "resid_post"
    assert repr(found.prompt) in table.note and "Scored: the token" in table.note
    assert "<table>" in found._repr_html_()
    assert len(found.to_pandas()) == sum(one.restored.numel() for one in found.grids.values())
    drawn = np.asarray(found.plot("resid_post").axes[0].collections[0].get_array())
    effect = found.grids["resid_post"].indirect_effect().numpy().T
    np.testing.assert_allclose(drawn.reshape(effect.shape), effect)


def test_where_nothing_replaces_its_words_a_fact_is_traced_under_noise(
    toy: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*_: object) -> None:
        raise NoReplacement("no other relation is as long")

    monkeypatch.setattr(study, "replaced", nothing)
    noisy = trace_fact(toy, FACTS[0], sites=["resid_post"], samples=2)
    assert noisy.corruption.startswith("noise on the relation") and "2 samples" in noisy.corruption
    with pytest.raises(NoReplacement, match="no other relation is as long"):
        trace_fact(toy, FACTS[0], sites=["resid_post"], by="replacement")


def test_settings_out_of_bounds_are_refused() -> None:
    for changed, wanted in (
        ({"samples": 0}, "samples=0: must be a number of at least 1"),
        ({"sites": ("elbow",)}, "sites=elbow: must be one of resid_post"),
        ({"sites": ()}, f"sites is empty: needs at least one of {', '.join(SITES)}"),
    ):
        with pytest.raises(InputError, match=wanted):
            Tracing(**changed)  # pyright: ignore[reportArgumentType]


def test_the_reasons_are_those_that_studies_record() -> None:
    some = {tracing.WRONG: 2, "not usable": 0, tracing.NO_REPLACEMENT: 3}
    of_one = {"subject": {tracing.NO_REPLACEMENT: 1}}
    told = str(Counts({"subject": 1}, {"subject": 1}, some, of_one))
    assert told == (
        "Facts left out: 2 that the model does not know, 3 for which there are no replacement "
        "words with the same number of tokens; subject corrupted: 1 for which there are no "
        "replacement words with the same number of tokens; --by noise needs no replacement words"
    )
