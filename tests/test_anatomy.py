"""The trace of an edit: equals hooked forwards, and finds the place that was written."""

from dataclasses import replace

import pytest
import torch
from transformer_lens import HookedTransformer

from kedit.editing.edit import Edit
from kedit.editors.joint import Joint
from kedit.editors.registry import make_editor
from kedit.errors import InputError
from kedit.models import toy as toy_module
from kedit.models.prompts import encode
from kedit.results.edit_traces import EditTrace
from probes.anatomy import SINGLE_LAYERS, explain_edit
from probes.patch import AnswerMetric, Patch
from probes.trace import question_of
from tests import twins
from tests.conftest import FamilyOf, assert_same_scores, clean_run

CASE = toy_module.cases()[0]
FACT = replace(CASE.entity.fact, object=CASE.entity.target, rival=CASE.entity.fact.object)


@pytest.fixture(scope="module")
def rome(toy: HookedTransformer) -> Edit:
    return make_editor("rome:where=subject_last", "toy")(toy, [CASE.entity])


@pytest.fixture(scope="module")
def traced(toy: HookedTransformer, rome: Edit) -> EditTrace:
    return explain_edit(toy, rome, CASE.entity)


@torch.no_grad()
def slow(
    model: HookedTransformer, edit: Edit, patch: Patch, question: AnswerMetric, reverse: bool
) -> torch.Tensor:
    """One hooked forward for each cell, with the other model's activation written into it."""
    tokens = encode(model, FACT).tokens[None]
    _, plain = model.run_with_cache(tokens)
    with edit.applied(model):
        _, edited = model.run_with_cache(tokens)
    source = plain if reverse else edited
    heads = (model.cfg.n_heads,) if patch.site == "z" else ()
    scores = torch.zeros(3, model.cfg.n_layers, tokens.shape[1], *heads)
    for cell in twins.every_cell(scores.shape[1:]):
        hooks = twins.cell_hooks(model, patch, cell, source, source)
        if reverse:
            with edit.applied(model):
                logits = model.run_with_hooks(tokens, fwd_hooks=hooks)
        else:
            logits = model.run_with_hooks(tokens, fwd_hooks=hooks)
        scores[(slice(None), *cell)] = twins.scored(logits[:, -1].float(), question)[:, 0]
    return scores


@pytest.mark.parametrize("name", ["toy", "gpt2", "gptj", "gemma3"])
def test_every_cell_is_that_of_a_hooked_forward(
    toy: HookedTransformer, family: FamilyOf, name: str
) -> None:
    model = toy if name == "toy" else family(name).model
    editor = Joint((1,), where="subject_last", contexts=("",), n_tokens=500)
    edit = editor(model, [CASE.entity])
    answer, unedited = encode(model, FACT).answer_ids[0], clean_run(model, FACT).states(model)
    question = question_of(model, answer, unedited)
    for patches in (SINGLE_LAYERS, [Patch("mlp_out", 3)]):
        found = explain_edit(model, edit, CASE.entity, patches)
        for patch, grid in zip(patches, found.grids.values(), strict=True):
            assert_same_scores(grid.restored, slow(model, edit, patch, question, reverse=False))
    undone = slow(model, edit, Patch("z"), question, reverse=True)
    assert_same_scores(found.undone.restored, undone)


def test_an_edit_is_carried_from_the_place_that_was_written(
    toy: HookedTransformer, rome: Edit, traced: EditTrace
) -> None:
    """ROME writes the MLP of layer 1 at the subject's last token, and nothing below."""
    place = traced.corrupted[-1]
    mlp = traced.grids["mlp_out"].indirect_effect("logit_diff")
    resid = traced.grids["resid_post"].indirect_effect("logit_diff")
    total = traced.grids["mlp_out"].total_effect("logit_diff")
    assert total > 0
    assert resid[0].abs().max() == 0  # below the edit nothing differs, and nothing is run
    strongest = divmod(int(mlp.argmax()), mlp.shape[1])
    assert strongest == (1, place)
    # at the end of the last layer the whole edit has arrived
    torch.testing.assert_close(float(resid[-1, -1]), total, atol=1e-4, rtol=1e-4)


def test_edited_and_unedited_scores_are_those_of_the_models(
    toy: HookedTransformer, rome: Edit, traced: EditTrace
) -> None:
    grid = traced.grids["z"]
    torch.testing.assert_close(grid.clean, traced.undone.corrupted)
    torch.testing.assert_close(grid.corrupted, traced.undone.clean)
    assert grid.total_effect() > 0  # the target becomes likelier


def test_an_edit_of_nothing_explains_nothing(toy: HookedTransformer, rome: Edit) -> None:
    found = explain_edit(toy, rome.scaled(0.0), CASE.entity)
    for grid in (*found.grids.values(), found.undone):
        assert grid.indirect_effect("logit_diff").abs().max() < 1e-4
    changes = found.heads
    torch.testing.assert_close(changes.direct_before, changes.direct_after)
    torch.testing.assert_close(changes.attention_before, changes.attention_after)


def test_the_model_is_left_as_it_was(toy: HookedTransformer, rome: Edit) -> None:
    before = {name: value.clone() for name, value in toy.state_dict().items()}
    explain_edit(toy, rome, CASE.entity, (Patch("attn_out"),))
    assert all(torch.equal(value, before[name]) for name, value in toy.state_dict().items())


def test_a_relation_edit_is_explained_at_its_addition(toy: HookedTransformer) -> None:
    request = CASE.request("relation")
    edit = make_editor("joint", "toy", "relation")(toy, [request])
    found = explain_edit(toy, edit, request, (Patch("attn_out"),))
    assert found.prompt == request.fact.prompt and found.editor == "joint"


def test_heads_have_a_table_and_grids_a_figure(traced: EditTrace, toy: HookedTransformer) -> None:
    rows = traced.head_rows()
    assert len(rows) == toy.cfg.n_layers * toy.cfg.n_heads
    table = traced.head_table(3)
    assert len(table.rows) == 3
    worst = min(rows, key=lambda row: row["put back"])
    assert table.rows[0][0] == worst["head"]
    assert "unedited" in str(traced.table())
    figure = traced.plot("attn_out", "logit_diff")
    texts = " ".join(text.get_text() for text in figure.texts)
    assert "edited" in texts and "corrupted" not in texts


def test_an_edit_of_another_model_is_refused(family: FamilyOf, rome: Edit) -> None:
    with pytest.raises(InputError):
        explain_edit(family("gpt2").model, rome, CASE.entity)
