"""Documents that a model writes: clean prose of its own is kept, all else is told apart."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformer_lens import HookedTransformer

from experiments import say_text
from kedit.journal import Journal
from kedit.models import toy as toy_module
from kedit.models.prompts import bos_ids, plain_ids
from kedit.studies import documents as room
from kedit.studies.documents import OPENINGS, Document, divided, write_documents, written

# as long as it has to be, without a sentence twice, and nothing that the toy ever saw
PROSE = (
    "The history of bread begins with grass. Somebody ground its seeds between two stones, mixed "
    "them with water, and forgot the bowl for a night or three. What was found there had grown, "
    "smelled sour, and became light over the fire. Farmers in five valleys learned the trick from "
    "their neighbours; millers, bakers and kings argued over its price. Today a machine does most "
    "of that work before breakfast, and few people could name the grass."
)


def document(model: HookedTransformer, text: str) -> Document:
    """What is made of `text`, said behind BOS and its first word."""
    first, rest = text.split(" ", 1)
    opening = (*bos_ids(model), *plain_ids(model, first))
    return room._document(model, opening, plain_ids(model, f" {rest}"))


def test_clean_prose_is_kept_up_to_its_last_whole_sentence(toy: HookedTransformer) -> None:
    for behind in ("", " And then they", "\n\nThe", " A loaf of 3.5"):
        assert document(toy, PROSE + behind) == Document(PROSE, "")
    quoted = PROSE + ' "Who could?"'
    assert document(toy, quoted + " he").text == quoted


@pytest.mark.parametrize(
    ("added", "why"),
    [
        (" See www.bread.org.", "contains 'www.'"), (" Write to a@b.c.", "contains '@'"),
        (" Call 0123 456 789.", "contains '0123 456 789'"),
        (" Copyright 1999.", "contains 'Copyright'"),
        (" It is <b>bold</b>.", "contains '<'"), (" Der Fluß heißt Рейн.", "contains 'Р'"),
        (" x = 3.", "contains '='"),
    ],
)  # fmt: skip
def test_what_is_no_prose_is_told(toy: HookedTransformer, added: str, why: str) -> None:
    assert document(toy, PROSE + added).unfit == why


def test_short_repeated_and_recited_texts_are_told(toy: HookedTransformer) -> None:
    assert document(toy, PROSE[:39]).unfit == "only 39 characters"
    assert document(toy, "Bread and butter. " * 30).unfit.startswith("repeats itself: variety 0.")
    known = " ".join(f"{fact.prompt} {fact.object}." for fact in toy_module.facts()[:4])
    assert document(toy, f"{PROSE} {known}").unfit == ""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(room, "SURPRISE", 20.0)
        assert document(toy, PROSE).unfit.startswith("known by heart: ")


def test_a_document_ends_at_markup(toy: HookedTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    (newline,) = plain_ids(toy, "\n")
    monkeypatch.setattr(room, "markup_ids", lambda _: {newline})
    assert document(toy, f"{PROSE}\nMore of it.").text == PROSE


def test_every_opening_has_its_documents_by_seed_and_round(
    toy: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int, int, int]] = []

    def sampled(model: Any, prompts: list[Any], length: int, top_k: int, seed: int) -> list[Any]:
        asked.append((len(prompts), length, top_k, seed))
        return [(7,)] * len(prompts)

    monkeypatch.setattr(room, "sampled", sampled)
    found = [written(toy, n, seed) for n, seed in ((0, 0), (1, 0), (0, 1), (0, 0))]
    assert [one.text for one in found[0]] != [] and len(found[0]) == len(set(OPENINGS))
    assert all(one[:3] == (len(OPENINGS), room.LENGTH, room.TOP_K) for one in asked)
    assert asked[0] == asked[3] and len({one[3] for one in asked}) == 3


def test_documents_are_written_once_and_a_torn_round_is_made_up(
    toy: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: list[int] = []

    def documents(model: HookedTransformer, n: int, seed: int) -> list[Document]:
        rounds.append(n)
        return [Document(f"Text {n}-{k}.", "") for k in range(len(OPENINGS))]

    monkeypatch.setattr(room, "written", documents)
    journal = Journal()
    found = write_documents(toy, 2, journal=journal)
    assert found["1-3"] == Document("Text 1-3.", "") and rounds == [0, 1]
    del journal.records["0-5"]
    assert write_documents(toy, 3, journal=journal) | found == write_documents(toy, 3)
    assert rounds == [0, 1, 0, 2, 0, 1, 2]  # of a torn round, what is missing


def test_the_last_documents_are_held_out() -> None:
    documents = {str(k): Document(10 * str(k), "short" if k == 3 else "") for k in range(10)}
    texts = divided(documents, 0.25, {"1"})
    assert [text[0] for text in texts.statistics] == list("024567")
    assert [text[0] for text in texts.held_out] == list("89")
    assert divided({}, 0.25) == ((), ())


def test_the_command_writes_both_parts_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rounds: list[int] = []

    def documents(model: HookedTransformer, n: int, seed: int) -> list[Document]:
        rounds.append(n)
        return [Document(f"Text {n}-{k}.", "short" if k == 1 else "") for k in range(len(OPENINGS))]

    monkeypatch.setattr(room, "written", documents)
    config = say_text.Config("toy", rounds=2, held_out_share=0.25, out=str(tmp_path / "run"))
    folder = say_text.run(config)
    first = [folder.joinpath(f"{name}.txt").read_text() for name in ("statistics", "held_out")]
    kept = [f"Text {n}-{k}." for n in range(2) for k in range(len(OPENINGS)) if k != 1]
    assert "".join(first) == "".join(f"{text}\n\n" for text in kept)
    assert 0.2 < len(first[1]) / len("".join(first)) < 0.3
    say_text.run(replace(config, leave_out=["0-0", "1-2"]))
    assert rounds == [0, 1]
    assert "Text 0-0." not in (folder / "statistics.txt").read_text()
    assert "Text 1-2." not in (folder / "held_out.txt").read_text()
