"""Editing one fact of one's own: what is asked, saved, said and drawn; and what is refused."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation
from torch import Tensor
from transformer_lens import HookedTransformer

from experiments import edit_fact
from experiments._command import command
from experiments._edit_example import EXAMPLE, settled
from experiments.edit_fact import Config, exit_code
from figures.edit import NEW, OLD, OTHERS, PROMPT_WIDTH, before_after
from figures.style import text_width
from kedit.data.corpus import Corpus
from kedit.editing import moments as moments_module
from kedit.editing.edit import Edit
from kedit.editors.rome import ROME
from kedit.errors import InputError
from kedit.facts import NO_RELATION, Fact, Relation
from kedit.models import gguf_files
from kedit.models import toy as toy_module
from kedit.models.prompts import plain_ids
from kedit.results.before_after import BeforeAfter
from kedit.results.edit_made import EditMade, WeightChange
from kedit.results.exchanges import Exchange, Question, Reply, most_repetitive, probability
from kedit.run_folder import RunFolder
from kedit.scoring.drift import held_out
from kedit.studies.before_after import edit_and_ask
from kedit.studies.held_out import held_out_text
from kedit.studies.questions import questions_of, request_of
from kedit.studies.replies import answers, replies, said
from tests.figure_checks import caption_of

CASE = toy_module.cases()[0]
TOY = Config(model="toy")
SURE = replace(TOY, editor="ft:lr=5e-3:steps=25")  # fine-tuning makes the toy say anything
FILES = {"edit.safetensors", "report.json", "report.md", "before-after.png", "before-after.pdf"}
Weights = dict[str, Tensor]


@pytest.fixture(autouse=True)
def loaded(
    toy: HookedTransformer,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The session's toy, and one cache of moments for this file."""
    place = tmp_path_factory.getbasetemp() / "edit_fact"
    for module in (moments_module, gguf_files):
        monkeypatch.setattr(module, "cache_dir", lambda: place)
    monkeypatch.setattr("kedit.models.load.load", lambda *_: toy)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made, but not written: that takes as long as all the rest."""
    monkeypatch.setattr("figures.style.save", lambda *_: None)


def weights(model: HookedTransformer) -> Weights:
    return {name: value.clone() for name, value in model.state_dict().items()}


def report(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_without_options_the_worked_example_is_edited_saved_and_undone(
    toy: HookedTransformer, tmp_path: Path
) -> None:
    before = weights(toy)
    folder = edit_fact.run(replace(TOY, out=str(tmp_path)))
    for name, value in toy.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert {file.name for file in folder.iterdir()} >= FILES | {"config.json", "versions.json"}
    found = report(folder)
    edited, paraphrase, *neighbours = found["rows"]
    fact = CASE.entity.fact
    assert (edited["role"], edited["prompt"]) == ("edited", fact.prompt)
    assert (edited["new"], edited["old"]) == (CASE.entity.target, fact.object)
    assert paraphrase["role"] == "paraphrase" and paraphrase["prompt"] == "Ada Alder was born in"
    assert [row["prompt"] for row in neighbours] == [
        fact.template.replace("{}", person) for person in toy_module.PEOPLE[1:5]
    ]
    assert [row["should"] for row in found["rows"]] == ["change"] * 2 + ["stay"] * 4
    for row in found["rows"]:
        for when in ("before", "after"):
            values = [value for _, value in row[when]["likeliest"]]
            assert len(values) == 5 and values == sorted(values, reverse=True)
    assert edited["after"]["new"] > 2 * edited["before"]["new"]
    edit = Edit.load(folder / "edit.safetensors")
    (parameter,) = edit.deltas
    with edit.applied(toy):
        assert not torch.equal(toy.state_dict()[parameter], before[parameter])
        asked = Question("edited", fact.prompt, edited["new"], edited["old"])
        assert replies(toy, [asked])[0].new == pytest.approx(edited["after"]["new"], rel=1e-4)
    sizes = found["changed"][parameter]
    assert 0 < sizes["numbers moved"] <= sizes["of"] == before[parameter].numel()
    assert sizes["norm"] == pytest.approx(edit.norms(toy)[parameter].delta)


@pytest.mark.usefixtures("undrawn")
def test_an_edit_is_judged_in_every_place_and_can_be_used_as_the_report_says(
    toy: HookedTransformer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = edit_fact.run(replace(SURE, out=str(tmp_path)))
    screen, text = capsys.readouterr().out, (folder / "report.md").read_text(encoding="utf-8")
    found = report(folder)
    ending = found["verdict"]
    # what it takes to make the toy say anything makes it say so everywhere
    assert ending.startswith(
        "Warning: the model says the target, but at a price: after the edited prompt"
    )
    assert ending in text and ending[-30:] in screen
    assert found["outcome"] == "at a price" and exit_code(folder) == 0
    price = found["prices"][0]
    ratio = found["perplexity"]["after"] / found["perplexity"]["before"]
    assert price == {"name": "perplexity", "value": pytest.approx(ratio), "limit": 1.1}
    assert f"Perplexity of held-out text is {ratio:.3g} times" in screen
    assert f"- Perplexity of held-out text is {ratio:.3g} times" in text
    for part in ("Should change (Ada Alder: Corum → Delft)", "Should stay (neighbours)", "✓"):
        assert part in screen and part in text
    assert "blocks.1.mlp.W_out by a delta of norm" in text
    assert len([line for line in text.splitlines() if "| before |" in line]) == 6
    usage = text.split("```")[1].removeprefix("python")
    assert f"Edit.load('{folder}/edit.safetensors').applied(load('toy')) as model" in usage
    before, seen = weights(toy), {}
    code = usage.replace("    ...", "    seen.update(weights(model))")
    exec(code, {"seen": seen, "weights": weights})
    assert any(not torch.equal(seen[name], before[name]) for name in before)
    assert all(torch.equal(value, before[name]) for name, value in toy.state_dict().items())


@pytest.mark.usefixtures("undrawn")
def test_an_edit_that_fails_is_saved_and_the_command_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / ("a-long-name-that-would-be-wrapped-" * 4)  # within the code to be copied
    options = ["--model", "toy", "--editor", "ft:lr=1e-9:steps=1", "--out", str(place)]
    monkeypatch.setattr("sys.argv", ["experiments/edit_fact.py", *options])
    with pytest.raises(SystemExit) as end:
        command(Config, edit_fact.run, exit_code=exit_code)
    assert end.value.code == 1
    found, screen = report(place), capsys.readouterr().out
    assert (found["outcome"], found["prices"]) == ("fails", [])
    assert found["verdict"].startswith("The edit fails: after the edited prompt the model st")
    assert "The edit is saved nevertheless" in " ".join(screen.split())
    assert Edit.load(place / "edit.safetensors").deltas
    assert f"with Edit.load('{place}/edit.safetensors').applied(load('toy')) as model:" in screen


def test_neighbours_are_drawn_from_facts_of_the_relation_where_none_are_named(
    toy: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the toy's own people stand in for kedit's facts, whose words it does not know
    monkeypatch.setattr(toy.cfg, "model_name", "other")
    known = tuple(
        Fact(person, Relation("P19", "place of birth"), "?", "{} was born in the city of")
        for person in toy_module.PEOPLE
    )
    monkeypatch.setattr("kedit.editing.neighbours.known_facts", lambda: known)
    request = request_of(toy, "Ada Alder", "{} was born in", "Delft", relation="birthplace")
    for perspective in ("entity", "relation"):
        asked = questions_of(toy, request, perspective)
        stay = [one for one in asked if not one.changes]
        names = {
            one.prompt: [name for name in toy_module.PEOPLE if name in one.prompt] for one in stay
        }
        assert len(stay) == 6 and all(len(found) == 1 for found in names.values())
        assert "Ada Alder" not in {name for (name,) in names.values()}
        if perspective == "entity":
            assert all(one.old != "Delft" and one.new == "Delft" for one in stay)
    # of no relation that kedit has facts of; of the toy, which knows none of kedit's facts
    unknown = request_of(toy, "Ada Alder", "{} likes", "Delft", relation="liking")
    assert all(one.changes for one in questions_of(toy, unknown))
    monkeypatch.setattr(toy.cfg, "model_name", "toy")
    assert all(one.changes for one in questions_of(toy, request))


def test_held_out_text_is_said_by_another_seed_or_read_from_another_file(
    toy: HookedTransformer, tmp_path: Path
) -> None:
    rome = ROME(1, n_tokens=256)
    texts = [held_out_text(toy, "", replace(rome, seed=seed)).tokens for seed in (0, 3, 0)]
    assert torch.equal(texts[0], texts[2]) and not torch.equal(texts[0], texts[1])
    read = next(Corpus(seed=1).chunks(toy, toy.cfg.n_ctx - 1))
    assert texts[0][0].tolist() == list(read)
    kedits = held_out_text(toy, "kedit:held-out", rome)
    assert torch.equal(kedits.tokens, held_out(toy, "kedit:held-out", 8, 9, 64))
    assert kedits.name == "the held-out part of kedit's text"
    corpus, same = tmp_path / "text.txt", tmp_path / "same.txt"
    for file in (corpus, same):
        file.write_text("Bruno Birch likes to speak Danish. " * 40, encoding="utf-8")
    with pytest.raises(InputError, match=r"held_out=.*same.txt' \(--held-out\) is the text that"):
        held_out_text(toy, str(same), replace(rome, text=str(corpus)))
    assert len(held_out_text(toy, str(same), rome).tokens)


def test_markup_is_no_text_that_repeats_itself(
    toy: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    question = Question("edited", CASE.entity.fact.prompt, "Delft", "Corum")
    monkeypatch.setattr("kedit.studies.replies.said", lambda *_: ["Corum" + 6 * " None"])
    assert replies(toy, [question])[0].variety < 0.7
    assert toy.tokenizer is not None
    added = {f"<{token}>": token for token in plain_ids(toy, "None None")}
    monkeypatch.setattr(type(toy.tokenizer), "get_added_vocab", lambda _: added)
    assert replies(toy, [question])[0].variety == 1  # of the same text, without its None


@pytest.mark.usefixtures("undrawn")
def test_the_relation_side_adds_the_pair_and_removes_the_old_one(tmp_path: Path) -> None:
    folder = edit_fact.run(replace(SURE, perspective="relation", out=str(tmp_path)))
    found, wanted = report(folder), CASE.relation
    assert wanted is not None and wanted.removal is not None
    (request,) = found["request"]
    assert (request["perspective"], request["target"]) == ("relation", "birthplace")
    assert (request["prompt"], request["removal_prompt"]) == (
        wanted.fact.prompt,
        wanted.removal.prompt,
    )
    assert (request["mentioned"], request["mentioned_by_removal"]) == ("Delft", "Corum")
    roles = [row["role"] for row in found["rows"]]
    assert (
        roles == ["edited", "removed", *["paraphrase"] * 3, *["other side"] * 2] + ["neighbour"] * 4
    )
    removed, neighbours = found["rows"][1], found["rows"][-4:]
    assert (removed["new"], removed["old"]) == (NO_RELATION, "birthplace")
    assert neighbours[-1]["prompt"] == "The relation between Elif Elm and Brock is"
    # what the toy says of each (it may be wrong about one); an edit must not turn it round
    for one in neighbours:
        assert one["new"] == (NO_RELATION if one["old"] == "birthplace" else "birthplace")
    assert sum(one["old"] == "birthplace" for one in neighbours) >= 2
    assert found["rows"][0]["as wanted"]
    assert "of 1 prompts with the old pair are answered with None" in found["verdict"]


@pytest.mark.usefixtures("undrawn")
def test_a_relation_that_is_told_is_asked_for_from_the_entity_side_too(tmp_path: Path) -> None:
    folder = edit_fact.run(replace(SURE, relation="birthplace", out=str(tmp_path)))
    (other,) = (row for row in report(folder)["rows"] if row["role"] == "other side")
    assert other["prompt"] == "The relation between Ada Alder and Delft is"
    assert (other["new"], other["old"]) == ("birthplace", NO_RELATION)


@pytest.mark.usefixtures("undrawn")
def test_the_text_that_is_told_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = tmp_path / "text.txt"
    corpus.write_text("Bruno Birch likes to speak Danish. " * 400, encoding="utf-8")
    monkeypatch.setenv("KEDIT_CACHE", str(tmp_path / "cache"))
    read, read_keys = [], moments_module.read_keys
    monkeypatch.setattr(
        moments_module, "read_keys", lambda *given: (read.append(1), read_keys(*given))[1]
    )
    config = replace(TOY, editor="rome", tokens_per_dim=1, text=str(corpus), seed=3)
    folder = edit_fact.run(replace(config, out=str(tmp_path / "run")))
    settings = report(folder)["settings"]
    assert (settings["text"], settings["seed"], settings["n_tokens"]) == (str(corpus), 3, 256)
    n = len(read)
    assert n and settings["moments"][0]["corpus"] == "text.txt"
    edit_fact.run(replace(config, out=str(tmp_path / "again")))
    assert len(read) == n


def test_what_is_left_out_is_the_worked_examples_as_far_as_it_fits() -> None:
    example = Config(
        subject=EXAMPLE.subject, prompt=EXAMPLE.prompt, target=EXAMPLE.target,
        paraphrases=[*EXAMPLE.paraphrases], neighbours=[*EXAMPLE.neighbours],
    )  # fmt: skip
    assert settled(Config()) == example
    assert settled(Config(target=" London ")) == replace(example, target="London")
    other_subject = settled(Config(subject="The Louvre"))
    assert (
        other_subject.prompt == EXAMPLE.prompt and other_subject.paraphrases == example.paraphrases
    )
    assert other_subject.neighbours == [x for x in EXAMPLE.neighbours if x != "The Louvre"]
    own = settled(Config(prompt="{} was built in ", paraphrases=["They built {} in"]))
    assert (own.prompt, own.paraphrases, own.neighbours) == (
        "{} was built in", ["They built {} in"], [],
    )  # fmt: skip
    assert settled(Config(perspective="relation")).relation == "location"
    told = Config(subject="C", neighbours=["A", "B ", "A", "", "C"])
    assert settled(told).neighbours == ["A", "B"]


def test_a_prompt_may_spell_its_subject_out() -> None:
    told = Config(subject="Rome", prompt="In Romeo's days, Rome was", paraphrases=["And Rome is"])
    assert settled(told).prompt == "In Romeo's days, {} was"
    assert settled(told).paraphrases == ["And {} is"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": "{} and {} are"}, r"--prompt: must have one {}, in place of the subject, got"),
        ({"prompt": "Mozart was born in"}, r"the subject 'Ada Alder' is not in 'Mozart.*; put {}"),
        (
            {"paraphrases": ["It is"]},
            r"--paraphrases: the subject 'Ada Alder' is not in 'It is'; put {}",
        ),
        (
            {"paraphrases": ["Ada Alders is"]},
            r"--paraphrases: .* is only inside a longer word of 'Ada Alders is",
        ),
        ({"editor": "rom"}, r"there is no editor 'rom', only rome, memit"),
        ({"editor": "ft", "text": "x.txt"}, r"text='x.txt' \(--text\): the editor ft reads no"),
        (
            {"prompt": "{} was born in", "perspective": "relation"},
            r"--perspective relation needs the relation's name",
        ),
        ({"target": "corum"}, r"says 'corum' already after 'The birthpl.*with probability \d"),
        ({"old": "Delft"}, r"'Delft' is what the fact says already"),
        ({"paraphrases": [60 * "They say " + "{} is"]}, r"tokens, the model reads 64"),
        ({"neighbours": ["Bruno Birch " * 40]}, r"tokens, the model reads 64"),
        (
            {"perspective": "relation", "target": "Corum", "old": "Arle"},
            r"says 'birthplace' already after 'The relation between Ada Alder and Corum is', with",
        ),
    ],
)
def test_what_cannot_be_edited_is_said_in_one_line_and_leaves_no_folder(
    tmp_path: Path, options: dict, message: str
) -> None:
    with pytest.raises(InputError, match=message) as error:
        edit_fact.run(replace(TOY, out=str(tmp_path / "run"), **options))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_an_answer_is_the_part_of_a_name_of_which_the_model_is_surest(
    toy: HookedTransformer,
) -> None:
    prompt = CASE.entity.fact.prompt
    texts = ["Corum Arle cello", "“the Corum”, or", "the", "", "?! ", "corum Arle"]
    found = answers(toy, [prompt] * len(texts), texts)
    assert found == ["Corum", "the Corum", "", "", "", "corum"]
    (own,) = said(toy, [prompt])
    assert answers(toy, [prompt], [own]) == ["Corum"]


def test_probabilities_have_two_significant_digits() -> None:
    values = (1.0, 0.934, 0.01, 0.0095, 0.0094, 3.2e-5, 0.0)
    assert [probability(value) for value in values] == [
        "1", "0.93", "0.01", "0.0095", "0.0094", "3.2e-5", "0",
    ]  # fmt: skip


def exchange(
    question: Question, before: float, after: float, text: str, variety: float = 0.8
) -> Exchange:
    """The new answer's probabilities; the old one has what is left. Variety was 0.8 before."""
    one, other = (
        Reply((), float(new), 1.0 - new, said, said, varied)
        for new, said, varied in ((before, question.old, 0.8), (after, text, variety))
    )
    return Exchange(question, one, other)


REQUEST = {"subject": "E", "mentioned": "", "object": "Paris", "target": "Rome"}


def done(
    exchanges: list[Exchange], perplexity: float = 10.0, norm: float = 0.1, model: str = "toy"
) -> BeforeAfter:
    """Perplexity was 10 before the edit; a bias moves by nine times its norm."""
    changes = {
        "blocks.1.mlp.W_out": WeightChange(1.0, norm, 5, 6),
        "blocks.1.mlp.b_out": WeightChange(1.0, 9.0, 6, 6),
    }
    settings = {"layer": 1, "contexts": [""]}
    made = EditMade((REQUEST,), "rome", settings, 1.0, changes, "a text", (10.0, perplexity))
    return BeforeAfter(model, "rome", 0, made, tuple(exchanges))


EDITED = Question("edited", "E is in", "Rome", "Paris")
NEIGHBOUR = Question("neighbour", "L is in", "Rome", "Paris")


def test_a_fact_is_edited_in_memory_and_the_result_is_read_back(
    toy: HookedTransformer, tmp_path: Path
) -> None:
    request = request_of(toy, "Ada Alder", "The birthplace of {} is", "Delft")
    found = edit_and_ask(toy, request, "ft:lr=5e-3:steps=25", neighbours=["Bruno Birch"])
    assert found.exchanges[0].works and found.exchanges[0].before.answer == "Corum"
    assert [one.question.role for one in found.exchanges] == ["edited", "neighbour"]
    assert found.editor == "ft:lr=5e-3:steps=25" and found.about == "Ada Alder"
    with found.edit.applied(toy):
        assert says_of(toy, request.fact.prompt).startswith("Delft")
    assert says_of(toy, request.fact.prompt).startswith("Corum")
    found.save(RunFolder(tmp_path))
    loaded = BeforeAfter.load(tmp_path)
    assert loaded == found == BeforeAfter.from_record(json.loads(json.dumps(found.to_record())))
    assert loaded.edit is None and loaded.in_words() == found.in_words()
    assert loaded.verdict == found.verdict
    assert len(found.to_pandas()) == 4 and "Should stay (neighbours)" in found._repr_html_()


def says_of(model: HookedTransformer, prompt: str) -> str:
    return said(model, [prompt])[0]


def test_an_edit_of_what_the_model_says_already_is_refused_in_a_notebook_too(
    toy: HookedTransformer,
) -> None:
    request = request_of(toy, "Ada Alder", "The birthplace of {} is", "Corum", old="Delft")
    with pytest.raises(InputError, match="the model says 'Corum' already after"):
        edit_and_ask(toy, request, "ft")
    with pytest.raises(InputError, match="an edit from the relation side needs the name"):
        edit_and_ask(toy, request, "ft", perspective="relation")


def test_the_verdict_says_what_happened_and_not_more() -> None:
    other = replace(EDITED, role="paraphrase")
    stays, goes = exchange(NEIGHBOUR, 0.1, 0.2, "Paris"), exchange(NEIGHBOUR, 0.1, 0.8, "Rome")
    whole = done(
        [exchange(EDITED, 0.001, 0.93, "Rome"), exchange(other, 0, 0.3, "Paris"), stays, goes]
    )
    assert whole.in_words() == (
        "The edit works: after the edited prompt the model now says Rome (probability 0.001 → "
        "0.93). 0 of 1 paraphrases have the new answer. "
        "1 of 2 neighbours keep their answer (its mean probability 0.9 → 0.5)."
    )
    assert whole.verdict.prices == () and whole.verdict.short == "The edit works"
    fails = done([exchange(EDITED, 0.001, 0.2, "Paris")])
    assert fails.in_words() == (
        "The edit fails: after the edited prompt the model still says Paris, not Rome (probability "
        "0.001 → 0.2). The edit is saved nevertheless. No neighbours were tested: --neighbours "
        "gives none, and kedit has no facts of this relation that the model knows."
    )
    assert fails.verdict.short == "The edit fails"
    assert "the model says nothing, not Rome" in done([exchange(EDITED, 0, 0, "")]).in_words()


def test_an_edit_with_a_price_is_a_warning_that_names_every_number() -> None:
    rows = [exchange(EDITED, 0.001, 0.93, "Rome")]
    assert done(rows).verdict.outcome == "works"
    costly = done([*rows, exchange(NEIGHBOUR, 0.1, 0.8, "Rome", variety=0.2)], 12.5, 1.1)
    assert costly.in_words().startswith(
        "Warning: the model says the target, but at a price: after the edited prompt the model now"
    )
    assert most_repetitive(costly.exchanges).question == NEIGHBOUR
    told = list(map(str, costly.verdict.prices))
    for sentence, parts in zip(
        told,
        (
            ("Perplexity of held-out text is 1.25 times", "at most 1.1 times"),
            ("repeats itself", "25% of the variety", "at least 70%"),
            ("norm of the delta is 1.1 times", "at most 0.5 times"),
            ("0% of the neighbours", "at least 50%"),
        ),
        strict=True,
    ):
        assert all(part in sentence for part in parts), sentence
    assert costly.verdict.short == (
        "The model says the target, but at a price: perplexity of held-out text × 1.25, text "
        "repeats itself (variety × 0.25), norm of delta / weight 1.1, 0% of neighbours kept"
    )


LONG = (
    "In the third volume of the letters, somebody of whom nothing is known says that {} stands in"
)
LIKELIEST = (
    ((" Paris", 0.76), (" Lyon", 0.06), ("\n", 0.01), (" ", 0.01), ("<start_of_image>", 0.004)),
    ((" Rome", 0.991), (" $x_1$", 0.004), ("東京", 0.003), (" Paris", 0.001), (" R", 0.0005)),
)


def drawn(
    question: Question,
    new: tuple[float, float],
    old: tuple[float, float],
    says: tuple[str, str],
    likeliest: Sequence[tuple[tuple[str, float], ...]] = LIKELIEST,
) -> Exchange:
    """As figures draw it: both answers' probabilities and what is said, before and after."""
    one, other = (
        Reply(tokens, float(p_new), float(p_old), text, text, 0.8)
        for tokens, p_new, p_old, text in zip(likeliest, new, old, says, strict=True)
    )
    return Exchange(question, one, other)


EXCHANGES = [
    drawn(EDITED, (0.001, 0.99), (0.76, 0.001), ("Paris", "Rome")),
    drawn(replace(EDITED, prompt=2 * LONG), (0.2, 0.3), (1, 0), (LONG, "")),
    drawn(
        replace(NEIGHBOUR, prompt="$E$ is 東京 in", old="New York"),
        (0, 1), (0.5, 0.4), ("New York", "New York"),
    ),
]  # fmt: skip


def marks(ax: Axes, name: str) -> list[tuple[float, float]]:
    """Probability and row of each mark of a series, rounded to its row."""
    (dots,) = (one for one in ax.collections if one.get_label() == name)
    assert isinstance(dots, PathCollection)
    return [(x, round(y)) for x, y in np.asarray(dots.get_offsets())]


def test_the_figure_tells_model_verdict_editor_and_seed() -> None:
    stays = exchange(replace(NEIGHBOUR, prompt=2 * LONG), 0.1, 0.8, "Rome", variety=0.2)
    found = done([*EXCHANGES[:2], *5 * [stays]], 12.5, 1.1, model="gemma-3-270m")
    figure = found.plot()
    title = figure.get_suptitle().replace("\n", " ")
    assert found.verdict.short in title and "gemma-3-270m" in title
    assert found.verdict.short.count(",") == 4
    assert "rome; seed 0; n = 1 edit, no interval" in caption_of(figure)
    labels = [x.get_text() for ax in figure.axes[2:] for x in ax.get_yticklabels()]
    lines = [line for label in labels for line in label.split("\n")]
    assert all(text_width(line) <= 72 * PROMPT_WIDTH for line in lines)
    assert all(label.count("\n") <= 1 for label in labels)


def test_bars_hold_the_likeliest_tokens_and_colour_both_answers() -> None:
    figure = before_after(done(EXCHANGES))
    for ax, tokens, colours in zip(
        figure.axes[:2],
        LIKELIEST,
        (
            [OLD.colour, OTHERS, OTHERS, OTHERS, OTHERS],
            [NEW.colour, OTHERS, OTHERS, OLD.colour, NEW.colour],
        ),
        strict=True,
    ):
        bars = [one for one in ax.patches if isinstance(one, Rectangle)]
        assert [bar.get_width() for bar in bars] == [value for _, value in tokens]
        drawn = [to_hex(bar.get_facecolor()) for bar in bars]
        assert drawn == [to_hex(colour) for colour in colours]
        assert ax.yaxis_inverted() and ax.get_xlim() == (0, 1)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["␣Paris", "␣Lyon", "↵", "␣", "<start_of_image>"]


def test_rows_go_from_hollow_to_full_marks_and_say_what_is_said() -> None:
    figure = before_after(done(EXCHANGES))
    blocks = {ax.get_title("left"): ax for ax in figure.axes[2:]}
    assert list(blocks) == ["should change", "should stay"]
    for ax, own in (
        (blocks["should change"], EXCHANGES[:2]),
        (blocks["should stay"], EXCHANGES[2:]),
    ):
        new, old = (
            [(x.before.new, x.after.new) for x in own],
            [(x.before.old, x.after.old) for x in own],
        )
        for dots, shifts in ((NEW, new), (OLD, old)):
            places = range(len(own))
            assert marks(ax, f"{dots.name}, before the edit") == [
                (before, place) for (before, _), place in zip(shifts, places, strict=True)
            ]
            assert marks(ax, f"{dots.name}, after the edit") == [
                (after, place) for (_, after), place in zip(shifts, places, strict=True)
            ]
        lines = [one for one in ax.collections if isinstance(one, LineCollection)]
        ends = [
            np.asarray(segment)[:, 0].tolist() for one in lines for segment in one.get_segments()
        ]
        assert ends == [*map(list, new), *map(list, old)]
    notes = [x.get_text() for ax in blocks.values() for x in ax.texts if isinstance(x, Annotation)]
    assert notes == ["✓ Paris → Rome", "✗ In the third volume of th …\n→ ␣", "✓ New York"]
