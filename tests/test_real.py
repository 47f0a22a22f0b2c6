"""On Gemma 3 270M and SmolLM2 135M: what is claimed for a real model."""

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
import torch

from experiments import score_model, trace_relation
from experiments._trace import Config
from kedit.data import builtin, load_cases, load_facts
from kedit.editing.edit import Edit
from kedit.editing.keys import groups
from kedit.editors.registry import make_editor
from kedit.errors import InputError
from kedit.facts import Fact, Perspective, Relation
from kedit.forward.likelihood import Query, likelihoods
from kedit.forward.runs import Run
from kedit.models.hugging_face import read_folder
from kedit.models.load import folder_of, load
from kedit.models.prompts import answer_ids, answers_ids, decoded, encode, prompt_ids
from kedit.results.measures import Scores
from kedit.scoring.score import Scoring, score
from kedit.stats import rank_correlation
from probes.attribution import attributed
from probes.corrupt import add_noise, noise_rule, replaced
from probes.direct import direct_effects
from probes.known import answers_right, with_likeliest_rival
from probes.patch import AnswerMetric, Patch, sweep
from probes.trace import paper_patches, question_of, trace
from tests import twins
from tests.conftest import downloaded

pytestmark = pytest.mark.real
ROOT = Path(__file__).parent.parent


@cache
def gemma():
    return load("gemma-3-270m")


@cache
def smollm2():
    return downloaded("smollm2-135m-instruct")


def capital(subject: str):
    return next(
        fact
        for fact in builtin.load()
        if fact.relation.id == "P36" and fact.subject == subject and fact.template[0] == "T"
    )


@torch.no_grad()
@pytest.mark.parametrize("name", ["gemma-3-270m", "smollm2-135m-instruct"])
def test_logits_agree_with_the_hugging_face_module(name: str) -> None:
    model = gemma() if name == "gemma-3-270m" else smollm2()
    folder = folder_of(name)
    assert folder is not None
    hf, tokenizer = read_folder(folder)
    for text in ("The capital of Japan is", "Côte d'Ivoire, whose language is", "東京は"):
        tokens = tokenizer(text, return_tensors="pt").input_ids
        has_bos = bool(tokens[0, 0] == tokenizer.bos_token_id)
        assert has_bos == (name == "gemma-3-270m") == model.cfg.default_prepend_bos
        assert (model(tokens) - hf(tokens).logits).abs().max() < 1e-3


def test_prompts_open_with_bos_and_answers_do_not() -> None:
    model = gemma()
    prompt = encode(model, capital("Côte d'Ivoire"))
    assert prompt.labels[0] == "<bos>" and prompt.tokens[0] == 2
    assert "".join(prompt.labels[slice(*prompt.subject)]).strip() == "Côte d'Ivoire"
    (paris,) = answer_ids(model, capital("Côte d'Ivoire").prompt, "Paris")
    assert decoded(model, paris) == " Paris"


def test_it_knows_most_of_the_facts_that_are_built_in() -> None:
    facts = builtin.load()[:981:10]
    known = sum(answers_right(gemma(), fact)[0] for fact in facts)
    assert known >= 0.5 * len(facts)


def test_every_sweep_equals_its_slow_twin() -> None:
    model, fact = gemma(), capital("Japan")
    prompt = encode(model, fact)
    clean = Run(prompt.tokens[None])
    noise = noise_rule(model, "s3", [fact], "relation")
    n_pos = len(prompt.tokens)
    for corruption in (
        replaced(model, fact, "relation", builtin.load(), 0),
        add_noise(model, prompt, "subject", noise, 2, 0),
    ):
        question = AnswerMetric(prompt.answer_ids[0], 108)
        first = corruption.positions[0]
        for patch in paper_patches():
            head = (3,) if patch.site == "z" else ()
            spots = [(0, first), (7, first), (9, first + 1), (16, n_pos - 1), (17, n_pos - 1)]
            cells = [(*spot, *head) for spot in spots]
            slow = twins.sweep(model, clean, corruption.run, patch, question, cells)
            fast = sweep(
                model, clean.states(model), corruption.run.states(model), patch, question
            ).restored
            for cell in cells:
                at = (slice(None), *cell)
                torch.testing.assert_close(fast[at], slow[at], atol=1e-5, rtol=1e-5)


def test_restoring_the_subject_brings_back_what_corrupting_it_took() -> None:
    model, fact = gemma(), capital("Japan")
    corruption = replaced(model, fact, "subject", builtin.load(), 0)
    result = trace(model, fact, "subject", corruption, paper_patches()[:1])
    grid = result.grids["resid_post"]
    assert grid.total_effect() > 0.2  # the corruption does harm
    effect = grid.indirect_effect()
    assert effect[0, corruption.positions[0]] > 0.5 * grid.total_effect()  # one token, first layer
    assert float(effect[-1, -1]) == pytest.approx(grid.total_effect(), abs=1e-5)


def test_attribution_puts_first_what_exact_patching_finds() -> None:
    model, fact = gemma(), capital("Japan")
    corruption = replaced(model, fact, "subject", builtin.load(), seed=0)
    clean = Run(encode(model, fact).tokens[None]).states(model)
    corrupted = corruption.run.states(model)
    question = question_of(model, encode(model, fact).answer_ids[0], corrupted)
    first = corruption.positions[0]
    exact = sweep(model, clean, corrupted, Patch("z"), question).indirect_effect("logprob")
    said = attributed(model, clean, corrupted, [Patch("z")], question, ["logprob"])["z"][0]
    cells, guess = exact[:, first:].flatten(), said[:, first:].flatten()
    assert rank_correlation(cells.double().numpy(), guess.double().numpy()) > 0.6
    best = int(cells.argmax())
    assert best in guess.topk(len(guess) // 20).indices.tolist()


def test_what_heads_and_mlps_write_adds_up_to_the_logits() -> None:
    model, fact = gemma(), capital("France")
    states = Run(encode(model, fact).tokens[None]).states(model)
    paris, london = answers_ids(model, fact.prompt, ("Paris", "London"))
    question = AnswerMetric(paris[0], london[0])
    found = direct_effects(model, states, question)
    logits = model(encode(model, fact).tokens[None])[0, -1]
    assert found.total == pytest.approx(
        float(logits[question.answer] - logits[question.foil]), abs=1e-3
    )
    parts = float(found.heads.sum() + found.mlps.sum()) + found.rest
    assert parts == pytest.approx(found.total, abs=1e-3) and found.total > 1


def test_the_main_command_runs_on_gemma(tmp_path: Path) -> None:
    folder = trace_relation.run(Config(limit=2, out=str(tmp_path / "run")))
    facts = json.loads((folder / "averages.json").read_text())["facts"]
    assert facts["traced"] == {"relation": 2, "subject": 2}


def test_batches_with_shared_openings_equal_one_prompt_at_a_time() -> None:
    model = gemma()
    probes = [probe for case in builtin.cases()[5::300] for probe in case.probes]
    names = sorted({probe.label for probe in probes if probe.label})
    asked = [
        Query(
            prompt_ids(model, probe.prompt),
            tuple(answers_ids(model, probe.prompt, (probe.answer, probe.rival))),
            tuple(answers_ids(model, probe.prompt, names)) if probe.label else (),
        )
        for probe in probes
    ]
    found = list(zip(asked, likelihoods(model, asked), strict=True))
    assert {len(answer) for one in asked for answer in one.answers} >= {1, 2}
    for one, answered in found[::3]:
        for answer, likelihood in zip(one.answers, answered.answers, strict=True):
            logprob, exact = twins.likelihood(model, one.prompt, answer)
            assert likelihood.exact == exact
            assert likelihood.logprob == pytest.approx(logprob, abs=2e-4)
    for one, answered in [pair for pair in found if pair[0].field][::9]:
        field = [twins.likelihood(model, one.prompt, answer)[0] for answer in one.field]
        mine = twins.likelihood(model, one.prompt, one.answers[0])[0]
        assert answered.rank == 1 + sum(other > mine + 1e-5 for other in field)


def test_before_an_edit_gemma_prefers_the_true_object_and_keeps_to_one_line(
    tmp_path: Path,
) -> None:
    config = score_model.Config(
        cases="builtin",
        limit=12,
        n_texts=1,
        held_out=str(ROOT / "README.md"),
        out=str(tmp_path / "run"),
    )
    measured = Scores.load(score_model.run(config))
    rows = {(*one.key,): one.row() for one in measured.overall}
    assert measured.n_cases == 12
    assert rows["entity", "efficacy", "success"]["before"] < 0.5
    assert rows["entity", "efficacy", "says the rival"]["before"] > 0.3  # it knows such facts
    assert 1 < measured.perplexity.mean < 100
    said = [
        probe["said"]
        for line in (tmp_path / "run" / "records.jsonl").read_text().splitlines()
        for probe in json.loads(line)["probes"]
        if probe["said"] is not None
    ]
    assert said and not any("\n" in text for text in said)


def test_the_readmes_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    tracing, patching, editing, comparing = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    Path("held_out.txt").write_text(readme[:2000], encoding="utf-8")
    names: dict = {}
    exec(tracing.replace('"relation")', '"relation", samples=2)'), names)
    effect = names["trace"].grids["resid_post"].indirect_effect("prob")
    assert effect.shape == (18, len(names["trace"].labels))
    assert effect.max() > 0.1
    exec(patching, names)
    first = names["grid"].strongest()[0]
    assert (first["layer"], first["head"], first["token"]) == (11, 3, " to")
    for given, small in (
        ("[:5]", "[:1]"),
        ('"joint"]', '"joint:n_tokens=4096"]'),
        ("model, cases)", 'model, cases, held_out="held_out.txt")'),
    ):
        assert given in comparing
        comparing = comparing.replace(given, small)
    exec(comparing, names)
    assert [one.editor for one in names["result"].editors] == ["rome", "joint:n_tokens=4096"]
    assert names["scores"].n_cases == 1
    exec(editing, names)
    model, edit = names["model"], names["edit"]
    prompt = names["fact"].prompt
    rome, paris = (ids[0] for ids in answers_ids(model, prompt, ("Rome", "Paris")))

    def prefers_rome(model) -> bool:
        logits = model(torch.tensor([prompt_ids(model, prompt)]))[0, -1]
        return bool(logits[rome] > logits[paris])

    with torch.no_grad(), Edit.load("rome.safetensors").applied(model):
        assert prefers_rome(model)
    assert not prefers_rome(model)
    exported = load(str(tmp_path / "edited"))
    assert prefers_rome(exported)
    changed = [
        name
        for name, weight in model.named_parameters()
        if not torch.equal(weight, dict(exported.named_parameters())[name])
    ]
    assert changed == list(edit.deltas) == ["blocks.5.mlp.W_out"]


def test_the_facts_of_the_docs_are_known_and_can_be_edited(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "own-facts.md").read_text(encoding="utf-8")
    lines = re.findall(r"```json\n(.*?)```", page, re.DOTALL)[0]
    file = tmp_path / "facts.jsonl"
    file.write_text(lines, encoding="utf-8")
    assert all(case.relation for case in load_cases(file))
    facts = load_facts(file)
    assert len(facts) == 3 and all(answers_right(gemma(), fact)[0] for fact in facts)


def test_romes_edits_from_either_side_are_said_and_undone_to_the_bit() -> None:
    model = gemma()
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    rome = f"rome:text={ROOT / 'docs' / 'architecture.md'}:n_tokens=4096"
    cases = builtin.cases()[:981:250]
    sides: tuple[tuple[str, Perspective], ...] = (
        (rome, "entity"),
        (f"{rome}:where=last:layer=8", "relation"),
    )
    for told, side in sides:
        edits = make_editor(told, "gemma-3-270m", side).on(model)
        n_said = 0
        for case in cases:
            with edits([case.request(side)]).applied(model):
                (after,) = score(model, [case], Scoring(say=False))
            own = [p for p in after.probes if (p.perspective, p.group) == (side, "efficacy")]
            n_said += all(p.rival_logprob is not None and p.logprob > p.rival_logprob for p in own)
        assert n_said >= 3, side
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())


@pytest.mark.parametrize(
    ("name", "side"), [("rome", "entity"), ("joint", "entity"), ("joint", "relation")]
)
def test_a_llama_is_edited_from_both_sides_and_given_back_to_the_bit(
    name: str, side: Perspective
) -> None:
    model = smollm2()
    before = {weight: value.clone() for weight, value in model.named_parameters()}
    # without post-norms, attention and MLP write into one residual stream
    editor = f"{name}:text={ROOT / 'docs' / 'architecture.md'}:n_tokens=4096"
    edits = make_editor(editor, model, side).on(model)
    n_said = 0
    for id in ("P30 Poland", "P1034 mosquito"):
        case = next(one for one in builtin.cases() if one.id == id)
        own = [p for p in case.probes if (p.perspective, p.group) == (side, "efficacy")]
        with edits([case.request(side)]).applied(model):
            (after,) = score(model, [replace(case, probes=tuple(own))], Scoring(say=False))
        (probe,) = after.probes
        assert probe.rival_logprob is not None
        n_said += probe.logprob > probe.rival_logprob
    assert n_said >= 1
    assert all(torch.equal(value, before[weight]) for weight, value in model.named_parameters())


def test_a_subject_that_is_an_attention_sink_is_refused() -> None:
    case = next(one for one in builtin.cases() if one.id == "P36 France")
    request = case.entity  # "France has its capital in the city of"
    with pytest.raises(InputError, match="'France has .* attention sink"):
        groups(smollm2(), request, "subject_last")
    assert groups(smollm2(), request, "last") == (0,)
    assert groups(gemma(), request, "subject_last") == (0,)  # has BOS before it


@pytest.mark.parametrize(
    ("name", "of"),
    [("kn", "gemma-3-270m"), ("mend", "gemma-3-270m"), ("mend", "smollm2-135m-instruct")],
)
@pytest.mark.parametrize("side", get_args(Perspective))
def test_kn_and_the_mend_that_comes_with_kedit_move_the_target(
    name: str, of: str, side: Perspective
) -> None:
    """Not by how much, which is for compare_editors to say."""
    model = gemma() if of == "gemma-3-270m" else smollm2()
    case = next(iter(builtin.cases()))
    request = case.request(side)
    demand = request.demands[0]
    prompt = demand.fact.prompt
    asked = [Query(prompt_ids(model, prompt), (answer_ids(model, prompt, demand.target),))]
    edit = make_editor(name, of, side)(model, [request])
    before = likelihoods(model, asked)[0].answers[0].logprob
    with edit.applied(model):
        after = likelihoods(model, asked)[0].answers[0].logprob
    assert after > before + 1  # nats
    assert likelihoods(model, asked)[0].answers[0].logprob == before


YEARS = {
    "Apollo 11 landed on the Moon": "1969",
    "World War I began": "1914",
    "World War II ended": "1945",
    "The Berlin Wall fell": "1989",
}


def test_a_year_is_known_by_all_its_digits_and_seen_by_the_one_that_tells_it() -> None:
    """Gemma splits " 1969" into a bare blank and single digits."""
    model, year = gemma(), Relation("year", "year")
    pool = [Fact(name, year, said, "{} in the year") for name, said in YEARS.items()]
    for fact in pool:
        assert (
            answers_right(model, fact)[0]
            and not answers_right(model, replace(fact, object="1234"))[0]
        )
        assert not answers_right(model, replace(fact, object="19"))[0]
        told = with_likeliest_rival(model, fact, pool)
        prompt = encode(model, told)
        given, asked = decoded(model, *prompt.given), decoded(model, prompt.answer_ids[0])
        both = zip(fact.object, told.rival, strict=True)
        shared = next(n for n, (one, other) in enumerate(both) if one != other)
        assert (given, asked) == (f" {fact.object[:shared]}", fact.object[shared])


def test_an_answer_joins_its_prompt_without_a_blank_where_there_is_none() -> None:
    model, country = gemma(), Relation("country", "country")
    fact = Fact("巴黎", country, "法国", "{}所在的国家是")
    assert answers_right(model, fact)[0]
    assert decoded(model, *encode(model, fact).object_ids) == "法国"
    seoul = Fact("Seoul", country, "South Korea", "{} is a city in")
    assert (
        answers_right(model, seoul)[0]
        and not answers_right(model, replace(seoul, object="South Africa"))[0]
    )
    chat = "<start_of_turn>user\nThe capital of {}?<end_of_turn>\n<start_of_turn>model\n"
    (paris,) = encode(model, Fact("France", country, "Paris", chat)).object_ids
    assert decoded(model, paris) == "Paris"
    tokens = encode(model, Fact("France", country, "Paris", f"<bos>{chat}")).tokens
    assert tokens.tolist().count(2) == 1  # BOS is not put before one that is spelt out
