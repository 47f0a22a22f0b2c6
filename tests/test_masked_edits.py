"""Edits of masked models (BERT, T5): exact inserts, undo, export, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertForPreTraining, T5ForConditionalGeneration

import kedit
from kedit.editing.export import export, export_adapter
from kedit.editing.masked_inserts import (
    _at_masks,
    _rows,
    _trained,
    masked_edit,
    masked_moment,
    masked_sites,
)
from kedit.editing.provenance import made_by
from kedit.editing.values import Training
from kedit.editors import MEMIT, ROME, Joint
from kedit.errors import InputError
from kedit.models import masked_toys, toy
from kedit.models.masked_prompts import encode_masked_text
from probes.known import answers_right
from tests.test_masked import random_hf

QUICK = Training(steps=8, lr=0.1, weight_decay=0.05)


@pytest.fixture(scope="module", params=["toy-bert", "toy-t5"])
def model(request: pytest.FixtureRequest) -> Any:
    return kedit.load(request.param)


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in model.named_parameters()}


@pytest.mark.parametrize("side", ["entity", "relation"])
@pytest.mark.parametrize("halves", [("mlp",), ("attn",), ("mlp", "attn")])
def test_an_exact_insert_writes_the_trained_outputs(model: Any, side: Any, halves: Any) -> None:
    """Each site then writes, for its key, what training found, with the sites below edited too."""
    requests = list(toy.cases()[5].requests(side))
    sites = masked_sites(model, [1, 2], halves)
    solves = [masked_moment(model, site) for site in sites]
    made = made_by("rome", {}, requests, model)
    edit = masked_edit(model, requests, sites, QUICK, solves, made)
    rows = _rows(model, requests)
    wanted = _trained(model, rows, sites, QUICK)
    with edit.applied(model):
        found = _at_masks(model, rows, [site.raw_hook for site in sites])
    for site in sites:
        torch.testing.assert_close(found[site.raw_hook], wanted[site], atol=2e-4, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("side", ["entity", "relation"])
@pytest.mark.parametrize("name", ["rome", "joint"])
def test_an_edit_is_said_and_undone_bit_for_bit(model: Any, name: str, side: Any) -> None:
    editor = kedit.make_editor(name, model, side)
    before, said = weights(model), 0
    cases = toy.cases()[3:35:8]
    for case in cases:
        requests = case.requests(side)
        edit = editor(model, requests)
        with edit.applied(model):
            target = kedit.Fact(
                requests[0].fact.subject,
                requests[0].fact.relation,
                requests[0].target,
                requests[0].fact.template,
            )
            said += answers_right(model, target)[0]
        assert all(torch.equal(before[key], weight) for key, weight in model.named_parameters())
    assert said >= len(cases) - 1


def test_two_targets_for_one_sentence_are_refused(model: Any) -> None:
    fact = toy.facts()[0]
    editor = kedit.make_editor("rome", model)
    requests = [kedit.EditRequest(fact, "Arle"), kedit.EditRequest(fact, "Brock")]
    with pytest.raises(InputError, match="contradict"):
        editor(model, requests)


@pytest.mark.parametrize(
    ("editor", "message"),
    [
        (ROME(1, QUICK), "use where=last"),
        (ROME(1, QUICK, "last", key="legacy"), "cannot be edited with key"),
        (Joint((1,), neighbours=4), "cannot be edited with neighbours"),
        (Joint((1,), contexts=("Once upon a time. ",)), "cannot be edited with contexts"),
        (Joint((9,), contexts=("",)), "layer 9: the model has layers 0 to 3"),
        (MEMIT((1,), training=QUICK), "MEMIT cannot edit BERT and T5: use rome or joint"),
    ],
)
def test_what_does_not_work_is_refused(model: Any, editor: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        editor.on(model)


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_an_edit_is_exported_to_hugging_face(kind: str, tmp_path: Path) -> None:
    """The exported module's logits are those of the edited model."""
    words = masked_toys.model(f"toy-{kind}")[1]
    random_hf(kind, len(words)).save_pretrained(tmp_path / "source")
    words.save_pretrained(tmp_path / "source")
    model: Any = kedit.load(str(tmp_path / "source"))
    request = kedit.EditRequest(toy.facts()[0], "Arle")
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"{prompt} {answer}." for prompt, answer in toy.texts()))
    editor = Joint((1,), training=QUICK, contexts=("",), text=str(text), n_tokens=200)
    edit = editor(model, [request])
    export(edit, tmp_path / "edited")
    family: Any = BertForPreTraining if kind == "bert" else T5ForConditionalGeneration
    hf = family.from_pretrained(tmp_path / "edited")
    prompt = encode_masked_text(model, "The birthplace of Ada Alder is [MASK].", "Corum")
    tokens = prompt.tokens[None]
    decoder = torch.tensor([[0, 3, 5]])
    given = [tokens] if kind == "bert" else [tokens, decoder]
    there = torch.ones_like(tokens)
    plain = model(*given, one_zero_attention_mask=there)
    with edit.applied(model):
        ours = model(*given, one_zero_attention_mask=there)
    out = hf(tokens) if kind == "bert" else hf(tokens, decoder_input_ids=decoder)
    theirs = out.prediction_logits if kind == "bert" else out.logits
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(ours, plain, atol=1e-3)
    with pytest.raises(InputError, match="a LoRA adapter needs"):
        export_adapter(edit, tmp_path / "adapter")


def test_c_is_the_moment_of_the_keys_at_all_tokens(model: Any) -> None:
    """Against a plain loop over the toy's first sentences, one forward each."""
    (site,) = masked_sites(model, [1], ["mlp"])
    solve = masked_moment(model, site, n_tokens=1)  # one batch of sentences
    rows = []
    for prompt, answer in toy.texts()[:64]:
        asked = encode_masked_text(model, f"{prompt} [MASK].", answer)
        there = torch.ones_like(asked.tokens[None])
        given = [asked.tokens[None]]
        if hasattr(model, "decoder"):
            sentinel = int(asked.tokens[asked.masks[0]])
            given.append(asked.tokens.new_tensor([[0, sentinel, *asked.object_ids]]))
        kept: list = []
        hook: Any = (site.key_hook, lambda act, hook, kept=kept: kept.append(act))
        model.run_with_hooks(*given, one_zero_attention_mask=there, fwd_hooks=[hook])
        rows.append(kept[0][0].double())
    keys = torch.cat(rows)
    moment = keys.T @ keys / len(keys)
    moment.diagonal().add_(1e-3 * moment.diagonal().mean())
    columns = torch.randn(len(moment), 2, dtype=torch.float64)
    torch.testing.assert_close(moment @ solve(columns), columns, atol=2e-2, rtol=0)
