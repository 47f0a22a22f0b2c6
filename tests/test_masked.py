"""Masked models (BERT, T5): their prompts, and their sweeps against one hooked forward a cell."""

import csv
import importlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForPreTraining, T5Config, T5ForConditionalGeneration

import kedit
from experiments import trace_families
from figures.traced import effects
from kedit.errors import (
    InputError,
    ModelUnavailable,
    NoReplacement,
    RecordError,
    SpanError,
)
from kedit.facts import Fact
from kedit.forward.filling import filled_in, object_logprobs
from kedit.models import masked_toys, toy
from kedit.models.load import prepare
from kedit.models.masked import Masked
from kedit.models.masked_loading import hooked_masked
from kedit.models.masked_prompts import decoder_ids, encode_masked, with_given
from kedit.results.tracing import SITES, Tracing
from probes.corrupt import add_noise, noise_rule, replaced
from probes.known import answers_right, with_likeliest_rival
from probes.masked import masked_runs, masked_sweep, sweeps
from probes.studies.tracing import trace_fact, trace_facts
from probes.trace import patches_at, question_of
from tests import masked_twins
from tests.figure_checks import assert_fits

TOYS = ("toy-bert", "toy-t5")
# names of T5Config that its class does not list
T5_NAMES: Any = {"decoder_start_token_id": 0, "n_positions": 40}


def random_hf(kind: str, d_vocab: int) -> BertForPreTraining | T5ForConditionalGeneration:
    """A tiny Hugging Face module with random weights, of other depth and width than the toys."""
    torch.manual_seed(1)
    if kind == "bert":
        return BertForPreTraining(
            BertConfig(
                vocab_size=d_vocab, hidden_size=32, num_hidden_layers=3, num_attention_heads=2,
                intermediate_size=48, max_position_embeddings=40, initializer_range=0.3,
            )
        ).eval()  # fmt: skip
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=d_vocab, d_model=32, d_kv=8, d_ff=48, num_layers=3, num_heads=2,
            relative_attention_num_buckets=8, initializer_factor=1.0,
            **T5_NAMES,
        )
    ).eval()  # fmt: skip


@pytest.fixture(scope="module", params=("toy-bert", "toy-t5", "bert", "t5"))
def model(request: pytest.FixtureRequest) -> Any:
    """Both toys, and random weights of both families that were converted from Hugging Face."""
    if request.param in TOYS:
        return kedit.load(request.param)
    words = masked_toys.model(f"toy-{request.param}")[1]
    return prepare(hooked_masked(random_hf(request.param, len(words)), torch.float32), words)


@pytest.fixture(scope="module", params=TOYS)
def toy_model(request: pytest.FixtureRequest) -> Any:
    return kedit.load(request.param)


def corrupted_fact(model: Masked, part: str = "relation"):
    """The first of the toy's facts that has a replacement, with it."""
    for fact in toy.facts():
        try:
            return fact, replaced(model, fact, part, toy.facts(), 0)
        except NoReplacement:
            continue
    raise AssertionError("no fact has a replacement")


@pytest.mark.parametrize("by", ["replacement", "noise"])
def test_every_sweep_equals_one_hooked_forward_a_cell(model: Any, by: str) -> None:
    """All sites, windows, severed modules and towers; noise has two samples."""
    fact, corruption = corrupted_fact(model)
    prompt = encode_masked(model, fact)
    if by == "noise":
        noise = noise_rule(model, "s3", [fact], "relation")
        corruption = add_noise(model, prompt, "relation", noise, 2, 0)
    clean, corrupted = masked_runs(model, prompt, corruption.run)
    question = question_of(model, prompt.answer_ids[0], corrupted)
    every = sweeps(model, patches_at(SITES, 3 if by == "noise" else 2))
    for one in every:
        n_pos = clean.towers[one.number].resid[0].shape[1]
        positions = list(range(n_pos)) if by == "replacement" else [0, n_pos - 1]
        grid = masked_sweep(model, clean, corrupted, one, question, positions)
        slow = masked_twins.sweep(model, prompt, corruption.run, one, question, positions)
        torch.testing.assert_close(grid.restored, slow, atol=1e-5, rtol=1e-4)
        assert grid.restored.std() > 0 or one.severed


def test_t5_has_a_map_for_each_stack_and_for_cross_attention() -> None:
    model = kedit.load("toy-t5")
    names = {
        grid
        for trace in trace_facts(model, toy.facts(), Tracing(window=2), limit=2).by_part["subject"]
        for grid in trace.grids
    }
    sites = {"resid_post", "mlp_out", "attn_out", "z"}
    assert {name for name in names if "severed" not in name} == (
        {f"encoder.{site}" for site in sites}
        | {f"decoder.{site}" for site in sites | {"cross_attn_out", "cross_z"}}
    )


@pytest.mark.parametrize("ending", [".", ", a place in the north.", ""])
def test_masks_hide_only_the_object(toy_model: Any, ending: str) -> None:
    """With a full stop, with text after the object, and at the end of the text."""
    fact = replace(toy.facts()[0], ending=ending)
    prompt = encode_masked(toy_model, fact)
    whole = toy_model.tokenizer(f"{fact.prompt} {fact.object}{ending}").input_ids
    mask = prompt.masks[0]
    tokens = prompt.tokens.tolist()
    n_object = len(prompt.object_ids)
    assert tokens[:mask] == whole[:mask]
    assert tokens[mask + len(prompt.masks) :] == whole[mask + n_object :]
    assert prompt.object_ids == tuple(whole[mask : mask + n_object])
    assert fact.subject.replace(" ", "") in "".join(
        prompt.labels[pos] for pos in prompt.positions("subject")
    ).replace(" ", "")


def test_an_object_of_several_tokens_is_filled_from_left_to_right() -> None:
    model: Any = kedit.load("toy-bert")
    fact = replace(toy.facts()[0], object="Alder Alder Arle", rival="Alder Alder Brock")
    prompt = encode_masked(model, fact)
    n_object, n_given = len(prompt.object_ids), len(prompt.given)
    # what both objects begin with is given, and the traced token tells them apart
    assert prompt.given == prompt.object_ids[:n_given] and 0 < n_given < n_object
    tokens = prompt.tokens[list(prompt.masks)].tolist()
    assert tokens[:n_given] == list(prompt.given)
    assert set(tokens[n_given:]) == {model.tokenizer.mask_token_id}
    assert prompt.read_at == prompt.masks[n_given]


def test_logprobs_of_objects_equal_plain_forwards(toy_model: Any) -> None:
    fact = toy.facts()[0]
    objects = ["Arle", "Brock", "Ada Alder"]
    for name, found in zip(objects, object_logprobs(toy_model, fact, objects), strict=True):
        prompt = encode_masked(toy_model, replace(fact, object=name))
        total = 0.0
        for n, token in enumerate(prompt.object_ids):
            step = with_given(toy_model, prompt, n)
            run = masked_twins.Run(step.tokens[None])
            total += float(masked_twins.logits(toy_model, step, run, []).log_softmax(-1)[0, token])
        assert found == pytest.approx(total, abs=1e-4)


def test_the_toys_know_their_facts_from_both_sides(toy_model: Any) -> None:
    relation = kedit.Relation("", "x")
    both = toy.facts()[::16] + [
        Fact("Ada Alder", relation, answer, prompt.replace("Ada Alder", "{}"))
        for prompt, answer in toy.texts()
        if prompt.startswith("The relation between Ada Alder")
    ]
    assert all(answers_right(toy_model, fact)[0] for fact in both)
    wrong = replace(both[0], object="Delft" if both[0].object != "Delft" else "Arle")
    right, said = answers_right(toy_model, wrong)
    assert not right and both[0].object in said


def test_the_rival_is_the_likeliest_other_object(toy_model: Any) -> None:
    fact = toy.facts()[0]
    rival = with_likeliest_rival(toy_model, fact, toy.facts()).rival
    others = [name for name in toy.WORLD[fact.relation][0] if name != fact.object]
    scores = dict(zip(others, object_logprobs(toy_model, fact, others), strict=True))
    assert rival == max(scores, key=scores.__getitem__)


def test_t5_says_more_than_the_object() -> None:
    model: Any = kedit.load("toy-t5")
    fact = toy.facts()[0]
    n_object = len(encode_masked(model, fact).object_ids)
    assert len(filled_in(model, fact, 1)) == n_object + 1
    assert filled_in(model, fact, 1)[-1] == model.tokenizer.eos_token_id
    assert decoder_ids(model, encode_masked(model, fact))[
        1
    ] == model.tokenizer.convert_tokens_to_ids("<extra_id_0>")


def test_a_whole_object_adds_up_over_its_tokens(toy_model: Any) -> None:
    fact = replace(toy.facts()[0], object="Arle Brock")
    trace = trace_fact(toy_model, fact, "relation", answer="whole", sites=("resid_post",), window=1)
    grid = next(iter(trace.grids.values()))
    logprob = grid.index("logprob")
    expected = object_logprobs(toy_model, fact, ["Arle Brock"])[0]
    assert float(grid.clean[logprob]) == pytest.approx(expected, abs=1e-4)


def test_traces_load_again(toy_model: Any, tmp_path: Path) -> None:
    from kedit.results.trace_averages import TraceAverages
    from kedit.run_folder import RunFolder

    averages = trace_facts(toy_model, toy.facts(), Tracing(window=2), limit=3).averages()
    averages.save(RunFolder(tmp_path))
    again = TraceAverages.load(tmp_path)
    assert [str(table) for table in again.tables()] == [str(t) for t in averages.tables()]
    assert averages.effects[0].buckets[0] == "before" and averages.effects[0].buckets[-1] == "mask"


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_a_folder_is_loaded_and_its_logits_are_the_modules(kind: str, tmp_path: Path) -> None:
    words = masked_toys.model(f"toy-{kind}")[1]
    hf = random_hf(kind, len(words))
    hf.save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    model = kedit.load(str(tmp_path))
    tokens = torch.randint(5, len(words), (2, 12))
    decoder = torch.randint(5, len(words), (2, 3))
    given = [tokens] if kind == "bert" else [tokens, decoder]
    ours = model(*given, one_zero_attention_mask=torch.ones_like(tokens))
    out = hf(tokens) if kind == "bert" else hf(tokens, decoder_input_ids=decoder)
    theirs = out.prediction_logits if kind == "bert" else out.logits
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert not any(weight.requires_grad for weight in model.parameters())


def test_a_t5_with_gated_mlps_is_refused(tmp_path: Path) -> None:
    words = masked_toys.model("toy-t5")[1]
    config = T5Config(
        vocab_size=len(words), d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=2,
        feed_forward_proj="gated-gelu", **T5_NAMES,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    with pytest.raises(ModelUnavailable, match="gated MLPs"):
        kedit.load(str(tmp_path))


def test_a_damaged_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "toy-bert.safetensors"
    file.write_bytes(b"damaged")
    monkeypatch.setattr(masked_toys, "file_of", lambda name: file)
    with pytest.raises(ModelUnavailable, match="is damaged"):
        kedit.load("toy-bert")


def test_bad_input_is_refused(toy_model: Any) -> None:
    fact, corruption = corrupted_fact(toy_model)
    with pytest.raises(InputError, match="screening needs a model that continues texts"):
        trace_facts(toy_model, [fact], Tracing(screen=0.5), pool=toy.facts())
    prompt = encode_masked(toy_model, fact)
    hooks: Any = [(f"{_path(toy_model)}.0.hook_mlp_out", lambda act, hook: act)]
    with toy_model.hooks(fwd_hooks=hooks), pytest.raises(InputError, match="live hooks"):
        masked_runs(toy_model, prompt, corruption.run)
    with pytest.raises(InputError, match="at most"):
        encode_masked(toy_model, replace(fact, ending=" Arle" * 80))


def test_a_token_over_the_objects_end_is_refused() -> None:
    model = kedit.load("toy-bert")
    with pytest.raises(SpanError, match="reaches over"):
        encode_masked(model, replace(toy.facts()[0], object="Ar", ending="le."))


def _path(model: Masked) -> str:
    return "blocks" if hasattr(model, "blocks") else "encoder"


def test_a_prompt_that_goes_on_after_its_object_has_an_ending() -> None:
    fact = Fact.of("{} was born in [MASK], a city.", "Ada Alder", "Corum", "birthplace")
    assert (fact.prompt, fact.ending) == ("Ada Alder was born in", ", a city.")
    assert Fact.of("{} was born in", "Ada Alder", "Corum").ending == "."
    with pytest.raises(RecordError, match="at most once"):
        Fact.of("[MASK] {} [MASK]", "Ada", "Corum")


def test_a_file_of_facts_can_have_endings(tmp_path: Path) -> None:
    record = {
        "subject": "Ada Alder", "relation": "birthplace", "object": "Corum",
        "template": "The birthplace of {} is",
    }  # fmt: skip
    file = tmp_path / "facts.jsonl"
    lines = [record, record | {"subject": "Bruno Birch", "ending": " by birth."}]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [fact.ending for fact in kedit.load_facts(str(file))] == [".", " by birth."]


@pytest.mark.parametrize("site", ["resid_post", "attn_out", "z"])
def test_texts_of_your_own_are_patched(toy_model: Any, site: str) -> None:
    """Restoring the read position in the last layer restores the answer."""
    clean, corrupted = (
        f"The {name} of Ada Alder is [MASK]." for name in ("profession", "instrument")
    )
    trace = kedit.patch(toy_model, clean, corrupted, site, answer="carpenter")
    grid = [*trace.grids.values()][-1]
    if site == "resid_post":
        column = -1 if "decoder" in grid.site else trace.labels.index("[MASK]")
        torch.testing.assert_close(grid.restored[:, -1, column], grid.clean, atol=1e-4, rtol=1e-4)
    assert float(grid.clean[0]) > float(grid.corrupted[0])
    with pytest.raises(InputError, match=r"needs \[MASK\] once"):
        kedit.patch(toy_model, "The profession of Ada Alder is", "x", site, answer="carpenter")


@pytest.mark.parametrize("what", ["edit_fact", "score_model", "patch_heads", "ask_heads"])
def test_commands_that_need_a_decoder_say_so(what: str, tmp_path: Path) -> None:
    module = importlib.import_module(f"experiments.{what}")
    with pytest.raises(InputError, match="needs a model that continues texts"):
        module.run(module.Config(model="toy-bert", out=str(tmp_path)))


@pytest.mark.slow
def test_families_are_traced_and_drawn_together(tmp_path: Path) -> None:
    config = trace_families.Config(limit=2, sites=["attn_out"], out=str(tmp_path))
    trace_families.run(config)
    rows = list(csv.DictReader((tmp_path / "trace_relation.csv").read_text().splitlines()))
    models = {row["model"] for row in rows}
    assert models == {"toy", "toy-bert", "toy-t5, encoder", "toy-t5, decoder"}
    assert {row["site"] for row in rows} == {"attn_out", "cross_attn_out"}
    assert (tmp_path / "trace_relation.png").stat().st_size > 10_000
    names = {file.name for file in (tmp_path / "toy-t5").glob("*.png")}
    assert {"encoder-relation-maps.png", "decoder-subject-maps.png"} <= names


@pytest.mark.slow
@pytest.mark.parametrize("tower", ["", "encoder", "decoder"])
def test_figures_of_t5_fit(tower: str) -> None:
    model = kedit.load("toy-t5")
    found = trace_facts(model, toy.facts(), Tracing(window=2), limit=6).averages()
    for kind in ("maps", "heads", "sides"):
        assert_fits(effects(found, kind, tower=tower))
    with pytest.raises(InputError, match="must be one of encoder, decoder"):
        effects(found, tower="middle")
