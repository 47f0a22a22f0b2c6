"""Short documents that a model writes behind fixed openings, and which of them are clean prose.

The text that kedit ships (`kedit.data.corpus.KEDIT`) was made in this way, by experiments.say_text.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import torch
from transformer_lens import HookedTransformer

from kedit.forward.generation import sampled, variety
from kedit.journal import Journal
from kedit.models.prompts import bos_ids, decoded, device, markup_ids, plain_ids
from kedit.records import from_record, to_record
from kedit.scoring.drift import surprise

OPENINGS = (
    "The history of", "In the nineteenth century,", "The city lies on", "The river flows through",
    "The museum was founded in", "The university is known for", "She was born in", "He studied",
    "The company makes", "The novel tells the story of", "The film is about", "The album contains",
    "The team won", "The species is found in", "The plant grows in", "The mountain is located in",
    "The war began when", "The president announced", "The language is spoken in", "The church was",
    "The island has", "The capital of the country is", "Scientists have found that", "A new study",
    "The theory says that", "The planet is", "The experiment showed that", "In mathematics,",
    "In physics, a", "In chemistry,", "In biology, the", "In medicine,", "The disease is caused by",
    "The engine was", "The ship was built in", "The aircraft is", "The bridge over", "The railway",
    "The recipe is simple:", "To make the dough,", "The garden in spring", "The weather was",
    "The economy of", "The market for", "The bank said", "The government plans to", "The court",
    "The law requires", "The election", "The party was founded by", "The teacher asked",
    "The children went", "My grandmother used to", "When I was young,", "Last summer we", "The dog",
    "The king and", "The painter", "The composer wrote", "The orchestra played", "The actor",
    "The game is played by", "The stadium", "The road to", "The village of", "The farm",
)  # fmt: skip
LENGTH = 224  # tokens of a document, its opening and BOS counted
TOP_K = 200  # likeliest tokens of which each is drawn: the rest of the vocabulary is mostly noise
SHORTEST = 400  # characters
RECITED = 32  # consecutive tokens whose mean surprise tells whether a text is known by heart
# nats a token: sampled text has two to three, what a model knows by heart next to nothing
SURPRISE = 0.5
VARIED = 0.85  # of the bigrams and trigrams that a document of its length could have
# addresses, telephone numbers, markup and code, marks of ownership, and other scripts
UNWANTED = re.compile(
    r"https?:|www\.|\.com\b|@|\d{7}|\d[\d ()-]{8,}\d|[<>{}\[\]\\|_=#*~^]|©|®|™|copyright|licen[cs]e"
    r"|all rights reserved|[^\x20-\x7e\n\u00a0-\u017f\u2010-\u2026\u20ac]",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Document:
    """What a model wrote behind an opening.

    Args:
        text: with the opening, up to the last sentence that is complete.
        unfit: why it is no clean prose of the model's own; "" if it is.
    """

    text: str
    unfit: str


class Texts(NamedTuple):
    """Documents whose statistics edits spare, and others that tell what an edit costs."""

    statistics: tuple[str, ...]
    held_out: tuple[str, ...]


def write_documents(
    model: HookedTransformer, rounds: int, *, seed: int = 0, journal: Journal | None = None
) -> dict[str, Document]:
    """`rounds` documents behind each of OPENINGS, those that are unfit too.

    By their keys: 0-17 is behind opening 17, in round 0. More rounds add documents, change none.
    """
    journal = Journal() if journal is None else journal
    of_round = lru_cache(maxsize=1)(lambda number: written(model, number, seed))

    def documents(places: Sequence[tuple[int, int]]) -> list[dict[str, str]]:
        return [to_record(of_round(number)[opening]) for number, opening in places]

    entries = journal.each_batch(
        list(product(range(rounds), range(len(OPENINGS)))),
        lambda place: "{}-{}".format(*place), documents, len(OPENINGS),
        unit="documents", doing="writing",
    )  # fmt: skip
    return {entry.key: from_record(Document, entry.record) for entry in entries}


def divided(
    documents: Mapping[str, Document], held_out: float, leave_out: Collection[str] = ()
) -> Texts:
    """The documents that are fit, in order; the last ones are held out.

    Args:
        held_out: share of the text.
        leave_out: keys of documents that somebody read and does not want.
    """
    kept = [one.text for key, one in documents.items() if not one.unfit and key not in leave_out]
    wanted, size, n_first = (1 - held_out) * sum(map(len, kept)), 0, 0
    while n_first < len(kept) and size < wanted:
        size += len(kept[n_first])
        n_first += 1
    return Texts(tuple(kept[:n_first]), tuple(kept[n_first:]))


def written(model: HookedTransformer, n: int, seed: int = 0) -> list[Document]:
    """The `n`th documents behind each of OPENINGS, in their order, drawn by `seed` and `n`."""
    openings = [(*bos_ids(model), *plain_ids(model, opening)) for opening in OPENINGS]
    top_k = min(TOP_K, model.cfg.d_vocab)
    said = sampled(model, openings, LENGTH, top_k, seed * 1_000_003 + n)
    return [
        _document(model, opening, tokens) for opening, tokens in zip(openings, said, strict=True)
    ]


def _document(model: HookedTransformer, opening: Sequence[int], tokens: Sequence[int]) -> Document:
    markup = markup_ids(model)
    end = next((at for at, token in enumerate(tokens) if token in markup), len(tokens))
    n_bos = len(bos_ids(model))
    text = decoded(model, *opening[n_bos:], *tokens[:end]).strip()
    # a sentence that is cut off in its middle is taken back
    ends = [match.end() for match in re.finditer(r"[.!?][\"'”’)]*(?=\s|\Z)", text)]
    text = text[: ends[-1]] if ends else text
    unfit = ""
    if len(text) < SHORTEST:
        unfit = f"{len(text)} characters"
    elif found := UNWANTED.search(text):
        unfit = f"holds {found[0]!r}"
    elif (varied := variety(plain_ids(model, text))) < VARIED:
        unfit = f"repeats itself: variety {varied:.2f}"
    elif (least := _least_surprise(model, text)) < SURPRISE:
        unfit = f"known by heart: {least:.2f} nats a token over {RECITED} tokens"
    return Document(text, unfit)


@torch.no_grad()
def _least_surprise(model: HookedTransformer, text: str) -> float:
    """The mean surprise, in nats, of the RECITED consecutive tokens with the least of it."""
    ids = [*bos_ids(model), *plain_ids(model, text)][: model.cfg.n_ctx]
    nll = surprise(model, torch.tensor([ids], device=device(model)))[0]
    return float(nll.unfold(0, min(RECITED, len(nll)), 1).mean(1).min())
