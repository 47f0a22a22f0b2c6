"""On Gemma 3 270M: what is claimed for a real model."""

import json
import re
from functools import cache
from pathlib import Path

import pytest
import torch

from experiments import trace_relation
from experiments._trace import Config
from kedit.data import builtin
from kedit.hf import gemma_270m_folder, read_folder
from kedit.model import load
from kedit.prompts import answer_ids, decoded, encode
from kedit.runs import Run
from probes.corrupt import add_noise, noise_rule, replaced
from probes.patch import Question, sweep
from probes.trace import paper_patches, says, trace
from tests import twins

pytestmark = pytest.mark.real


@cache
def gemma():
    return load("gemma-3-270m")


def capital(subject: str):
    return next(
        fact
        for fact in builtin.load()
        if fact.relation.id == "P36" and fact.subject == subject and fact.template[0] == "T"
    )


@torch.no_grad()
def test_logits_agree_with_the_hugging_face_module() -> None:
    hf, tokenizer = read_folder(gemma_270m_folder())
    model = gemma()
    for text in ("The capital of Japan is", "Côte d'Ivoire, whose language is", "東京は"):
        tokens = tokenizer(text, return_tensors="pt").input_ids
        assert tokens[0, 0] == tokenizer.bos_token_id
        assert (model(tokens) - hf(tokens).logits).abs().max() < 1e-3


def test_prompts_open_with_bos_and_answers_do_not() -> None:
    model = gemma()
    prompt = encode(model, capital("Côte d'Ivoire"))
    assert prompt.labels[0] == "<bos>" and prompt.tokens[0] == 2
    assert "".join(prompt.labels[slice(*prompt.subject)]).strip() == "Côte d'Ivoire"
    (paris,) = answer_ids(model, "Paris")
    assert decoded(model, paris) == " Paris"


def test_it_knows_most_of_the_facts_that_are_built_in() -> None:
    facts = builtin.load()[:981:10]
    known = sum(says(gemma(), fact)[0] for fact in facts)
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
        question = Question(prompt.answer_ids[0], 108)
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


def test_the_main_command_runs_on_gemma(tmp_path: Path) -> None:
    folder = trace_relation.run(Config(limit=2, out=str(tmp_path / "run")))
    facts = json.loads((folder / "averages.json").read_text())["facts"]
    assert facts["traced"] == {"relation": 2, "subject": 2}


def test_the_readmes_python_runs() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    names: dict = {}
    exec(code, names)
    effect = names["result"].grids["resid_post"].indirect_effect("prob")
    assert effect.shape == (18, len(names["result"].labels))
    assert effect.max() > 0.1
