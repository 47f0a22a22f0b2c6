"""Cues: training sees what the edited model does; which keys an edit gets, and which it spares."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.editing import moments as moments_module
from kedit.editing.edit import Edit, LowRank
from kedit.editing.frozen import Row
from kedit.editing.inserted import Insert, fit
from kedit.editing.keys import last_keys
from kedit.editing.neighbours import neighbours, other_relations
from kedit.editing.provenance import made_by
from kedit.editing.values import Training
from kedit.editing.wordings import QUESTIONS, WORDINGS, in_other_words
from kedit.editing.write_sites import WriteSite
from kedit.editors.cues import Cues
from kedit.editors.registry import make_editor
from kedit.editors.rome import ROME
from kedit.errors import InputError
from kedit.facts import EditRequest, Fact, Probe
from kedit.models import toy as toy_module
from kedit.models.load import prepare as load_prepared
from kedit.models.prompts import KeyPosition, located, prompt_ids
from kedit.studies.leaks import predict_leaks
from tests.conftest import FAMILIES, FamilyOf

CASES = toy_module.cases()
ENTITY, RELATION = CASES[0].entity, CASES[0].request("relation")
PLAIN = tuple(name for name in FAMILIES if name not in ("bloom", "gemma2", "olmo3"))
MLP, ATTN = WriteSite(1), WriteSite(2, "attn")
ROWS = (
    Row((0, 5, 9, 200, 201, 30), 0, targets=(40, 41)),
    Row((0, 7, 8, 11, 12, 60), 0, targets=(61,)),
    Row((0, 5, 9, 33, 34), 0, staying=4),
)
TRAINING = Training(steps=5, lr=0.1, weight_decay=0.3, kl=0.5, stop=0.0)
SUBJECT, END = (1, "mlp", "subject_last"), (2, "attn", "last")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """One cache of moments for this file."""
    place = tmp_path_factory.getbasetemp() / "cues"
    monkeypatch.setattr(moments_module, "cache_dir", lambda: Path(place))


def cues(places: Sequence[Any] = (SUBJECT, END), **settings: Any) -> Cues:
    settings = {"training": TRAINING, "contexts": ("",), "text": "self", **settings}
    return Cues(tuple(places), n_tokens=512, **settings)


def dense(edit: Edit, site: WriteSite) -> Tensor:
    delta = edit.deltas[site.parameter]
    assert isinstance(delta, LowRank)
    return delta.left @ delta.right


def low_rank(edit: Edit) -> list[LowRank]:
    return [delta for delta in edit.deltas.values() if isinstance(delta, LowRank)]


def inserts_of(model: HookedTransformer, *sites: WriteSite) -> dict[WriteSite, Insert]:
    """Two keys for each site, with shares of any size elsewhere."""
    generator = torch.Generator().manual_seed(0)
    return {
        site: Insert(
            torch.randn(site.d_key(model), 2, generator=generator).to(model.W_E) / 8,
            torch.tensor([1.0, 2.0]).to(model.W_E),
            torch.tensor([0.5, 0.7]).to(model.W_E),
        )
        for site in sites
    }


@torch.no_grad()
def slow_loss(
    model: HookedTransformer, edit: Edit | None, rows: Sequence[Row], training: Training
) -> float:
    """What the whole edited model, row by row, loses on what training asks for."""
    nll, kl = [], []
    for row in rows:
        tokens = torch.tensor([row.tokens])
        before = model(tokens).log_softmax(-1)[0]
        after = before
        if edit is not None:
            with edit.applied(model):
                after = model(tokens).log_softmax(-1)[0]
        if row.targets:
            n = len(row.targets)
            nll.append(float(-after[range(-n, 0), row.targets].mean()))
        else:
            at = row.staying
            kl.append(float((after[at].exp() * (after[at] - before[at])).sum()))
    return sum(nll) / len(nll) + training.kl * sum(kl) / max(1, len(kl))


@pytest.mark.parametrize("name", PLAIN)
def test_training_sees_what_the_edited_model_does(family: FamilyOf, name: str) -> None:
    """The loss of the trained values is that of the whole model with the edit, at all tokens."""
    model = family(name).model
    inserts = inserts_of(model, MLP, ATTN)
    fitted = fit(model, ROWS, inserts, dataclasses.replace(TRAINING, weight_decay=0.0))
    deltas = {
        site.parameter: LowRank(insert.shares, fitted.values[site])
        for site, insert in inserts.items()
    }
    edit = Edit(deltas, made_by("cues", {}, [ENTITY], model))
    assert fitted.losses[0] == pytest.approx(slow_loss(model, None, ROWS, TRAINING), abs=1e-5)
    assert fitted.losses[-1] == pytest.approx(slow_loss(model, edit, ROWS, TRAINING), abs=1e-5)
    assert abs(fitted.losses[-1] - fitted.losses[0]) > 1e-3


@pytest.mark.parametrize("lr", [0.1, None])
def test_a_model_in_half_precision_is_edited(lr: float | None) -> None:
    half = load_prepared(*toy_module.model(torch.bfloat16))
    training = dataclasses.replace(TRAINING, lr=lr)
    for editor in (cues(training=training), ROME(1, training=training, text="self", n_tokens=512)):
        edit = editor(half, [ENTITY])
        assert all(bool(torch.isfinite(delta.left).all()) for delta in low_rank(edit))


def test_integers_among_clamps_become_floats(toy: HookedTransformer) -> None:
    places = '((1,"mlp","subject_last"),(2,"attn","last"))'
    editor = make_editor(f"cues:places={places}:clamps=(1,0.5)", toy, "entity")
    assert isinstance(editor, Cues) and [type(clamp) for clamp in editor.clamps] == [float, float]


def test_values_stay_within_their_clamps_and_ends_are_kept(toy: HookedTransformer) -> None:
    inserts = inserts_of(toy, MLP)
    long = dataclasses.replace(TRAINING, steps=12, lr=1.0)
    values = fit(toy, ROWS, inserts, long).values[MLP]
    assert values.norm(dim=-1).tolist() == pytest.approx([0.5, 1.4], rel=1e-5)
    ended = fit(toy, ROWS, inserts, dataclasses.replace(long, stop=1e9))
    assert len(ended.losses) == 1 and not ended.values[MLP].any()
    assert 0 < ended.likelihood < 1


@pytest.mark.parametrize("request_", [ENTITY, RELATION], ids=["entity", "relation"])
def test_a_mean_key_gets_its_value_and_spared_keys_less_the_more_they_are_kept(
    toy: HookedTransformer, request_: EditRequest
) -> None:
    """With one wording and one context, the mean key is that of the prompt."""
    leaks = []
    for keep in (1e-6, 1.0, 1e6):
        editor = cues((END,), keep=keep, wordings=0, others=0, held=0, neighbours=3)
        edit = editor(toy, [request_])
        texts = [located(toy, d.fact, "last", d.mentioned)[0] for d in request_.demands]
        near = [located(toy, d.fact, "last", d.mentioned)[0] for d in neighbours(request_, 3)]
        own, others = (last_keys(toy, [ATTN], each)[ATTN] for each in (texts, near))
        delta = edit.deltas[ATTN.parameter]
        assert isinstance(delta, LowRank)
        shares = own @ delta.left
        torch.testing.assert_close(shares, torch.eye(len(texts)), atol=1e-3, rtol=0)
        leaks.append(float((others @ delta.left).square().sum()))
    assert leaks[0] > leaks[1] > leaks[2]


def test_one_place_without_anything_spared_is_rome_trained_in_place(
    toy: HookedTransformer,
) -> None:
    """Both write in the direction C⁻¹k of the same key."""
    editor = cues(((1, "mlp", "last"),), neighbours=0, others=0, held=0, wordings=0)
    ours = dense(editor(toy, [ENTITY]), MLP)
    rome = ROME(1, TRAINING, "last", contexts=("",), text="self", n_tokens=512)
    theirs = rome(toy, [ENTITY]).deltas[MLP.parameter]
    assert isinstance(theirs, LowRank)
    direction, wanted = ours @ ours[0], theirs.left[:, 0]
    cosine = torch.cosine_similarity(direction, wanted, dim=0)
    assert abs(float(cosine)) == pytest.approx(1, abs=1e-4)


def test_a_relation_edit_has_a_value_for_each_key(toy: HookedTransformer) -> None:
    """The demands share one key at the subject, and have two at the end of the prompt."""
    edit = cues()(toy, [RELATION])
    sizes = {name: delta.right.shape[0] for name, delta in edit.deltas.items()
             if isinstance(delta, LowRank)}  # fmt: skip
    assert sizes == {MLP.parameter: 1, ATTN.parameter: 2}
    twice = cues((SUBJECT, (1, "mlp", "last")))(toy, [RELATION]).deltas[MLP.parameter]
    assert isinstance(twice, LowRank) and twice.right.shape[0] == 3


def test_each_place_has_its_own_clamp(toy: HookedTransformer) -> None:
    far = dataclasses.replace(TRAINING, steps=30, lr=1.0, clamp=0.5)
    edit = cues(training=far, clamps=(0.5, 1.0), wordings=0, held=0)(toy, [ENTITY])
    clamps: tuple[tuple[WriteSite, KeyPosition, float], ...] = (
        (MLP, "subject_last", 0.25), (ATTN, "last", 0.5),
    )  # fmt: skip
    for site, where, clamp in clamps:
        tokens, pos = located(toy, ENTITY.fact, where)
        key = last_keys(toy, [site], [tokens[: pos + 1]])[site]
        delta = edit.deltas[site.parameter]
        assert isinstance(delta, LowRank)
        share = float(delta.right.norm() / site.raw(toy, key).norm())
        assert share == pytest.approx(clamp, rel=1e-4)


def test_held_prompts_move_less_than_prompts_that_are_not_held(toy: HookedTransformer) -> None:
    prompts = [located(toy, demand.fact, "last")[0] for demand in neighbours(ENTITY, 2)]
    rows = [Row(tokens, 0, staying=len(tokens) - 1) for tokens in prompts]
    only_kl = dataclasses.replace(TRAINING, kl=1.0)

    def moved(weight: float) -> float:
        """The KL of the held prompts, on top of the loss of one row that has a target."""
        training = dataclasses.replace(TRAINING, steps=20, kl=weight, weight_decay=0.0)
        editor = cues(training=training, neighbours=0, others=0, wordings=0, held=2)
        edit = editor(toy, [ENTITY])
        both, alone = (slow_loss(toy, edit, part, only_kl) for part in ([*rows, ROWS[0]], ROWS[:1]))
        return both - alone

    assert moved(100.0) < moved(0.0)


def test_other_relations_are_those_of_the_subjects_kind() -> None:
    capital = Fact.of("The capital of {} is", "Atlantis", "Poseidonis", "capital")
    fact = dataclasses.replace(capital, relation=dataclasses.replace(capital.relation, id="P36"))
    found = other_relations(EditRequest(fact, "Paris"), 99)
    names = {demand.fact.relation.name for demand in found}
    assert "official language" in names and "capital" not in names
    assert {demand.fact.relation.domain for demand in found} == {"country"}
    assert {demand.fact.subject for demand in found} == {"Atlantis"}
    assert other_relations(EditRequest(fact, "Paris"), 2) == found[:2]
    assert other_relations(EditRequest(fact, "Paris"), 99, seed=1) != found
    unknown = EditRequest(dataclasses.replace(capital, subject="S"), "T")
    assert len(other_relations(unknown, 5)) == 5
    assert not other_relations(RELATION, 5)


def test_other_words_name_the_relation_or_the_pair() -> None:
    (demand,) = ENTITY.demands
    name = demand.fact.relation.name
    asked = [other.fact.prompt for other in in_other_words(demand, 99)]
    assert len(asked) == len(QUESTIONS)
    assert all(name in text and ENTITY.fact.subject in text for text in asked)
    for demand in RELATION.demands:
        paired = [other.fact.prompt for other in in_other_words(demand, 2)]
        assert len(paired) == 2 and all(demand.mentioned in text for text in paired)
    nameless = Fact.of("{} speaks", "Ada", "Latin")
    assert not in_other_words(EditRequest(nameless, "Greek").demands[0], 3)
    assert len({*QUESTIONS, *WORDINGS}) == len(QUESTIONS) + len(WORDINGS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"places": ()}, "places: must be distinct"),
        ({"places": (END, END)}, "places: must be distinct"),
        ({"clamps": (1.0,)}, r"clamps: must be one for each of 2 places, got \(1.0,\)"),
        ({"clamps": (1.0, -1.0)}, "clamps=-1.0: must be a number above 0"),
        ({"training": Training(attention_kl=1.0)}, "training.attention_kl: must be 0 for cues"),
        ({"places": ((9, "mlp", "last"),)}, "no blocks.9.mlp.W_out"),
    ],
)
def test_impossible_settings_are_refused(
    toy: HookedTransformer, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        cues(**settings).on(toy)


def test_with_nothing_to_spare_it_edits_too(toy: HookedTransformer) -> None:
    edit = cues(neighbours=0, others=0, held=0)(toy, [ENTITY])
    norms = [norm.relative for norm in edit.norms(toy).values()]
    assert len(norms) == 2 and all(math.isfinite(norm) and norm > 0 for norm in norms)


def test_predicted_leaks_are_what_an_edit_writes(toy: HookedTransformer) -> None:
    """The share of each place is that of an edit which writes there alone."""
    editor = cues(wordings=2)
    case = CASES[0]
    predicted = predict_leaks(toy, [case], editor)
    assert [place.name for place in predicted.places] == [
        "W_out of layer 1, subject_last", "W_O of layer 2, last",
    ]  # fmt: skip
    alone = cues((END,), wordings=2)(toy, [case.entity]).deltas[ATTN.parameter]
    assert isinstance(alone, LowRank)
    at_end = predicted.places[1]
    assert at_end.shares
    for group, share in at_end.shares.items():
        prompts = [
            prompt_ids(toy, probe.prompt)
            for probe in case.probes
            if (probe.perspective, probe.group) == ("entity", group)
        ]
        written = last_keys(toy, [ATTN], prompts)[ATTN] @ alone.left
        assert float(share.mean) == pytest.approx(float(written.mean()), abs=1e-5)
        assert at_end.n_cases[group] == 1


def test_a_probe_that_is_the_edits_own_prompt_gets_the_whole_value(toy: HookedTransformer) -> None:
    probe = Probe("entity", "paraphrase", ENTITY.fact.prompt, ENTITY.target, ENTITY.fact.object)
    case = dataclasses.replace(CASES[0], probes=(probe,))
    found = predict_leaks(toy, [case, case], cues(wordings=0))
    for place in found.places:
        assert float(place.shares["paraphrase"].mean) == pytest.approx(1, abs=1e-4)
        assert set(place.shares) == {"paraphrase"}
    assert len(found.rows()) == 2 and "1.0" in str(found)
    with pytest.raises(InputError, match="no case is given"):
        predict_leaks(toy, [], cues())
