"""Lets a model write short documents after fixed openings, and finds those that are clean prose.

The text that comes with kedit (`kedit.data.corpus.KEDIT`) was written in this way, by
experiments.say_text.
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
LENGTH = 224  # tokens of a document, with its opening and BOS
# each token is drawn from this many likeliest ones: the rest of the vocabulary is mostly noise
TOP_K = 200
SHORTEST = 400  # smallest number of characters of a document that is fit
RECITED = 32  # consecutive tokens whose mean surprise shows whether a text is known by heart
# smallest mean surprise, in nats per token: sampled text has two to three nats, text that a model
# knows by heart almost none
SURPRISE = 0.5
# smallest share of the different bigrams and trigrams that a document of its length could have
VARIED = 0.85
# matches addresses, telephone numbers, markup and code, copyright notices, and other scripts
UNWANTED = re.compile(
    r"https?:|www\.|\.com\b|@|\d{7}|\d[\d ()-]{8,}\d|[<>{}\[\]\\|_=#*~^]|©|®|™|copyright|licen[cs]e"
    r"|all rights reserved|[^\x20-\x7e\n\u00a0-\u017f\u2010-\u2026\u20ac]",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Document:
    """A document that a model wrote after an opening.

    Args:
        text: the document with its opening, up to the last complete sentence.
        unfit: why the document is not used (it is no clean prose, or known by heart); "" if it is
            fit for use.
    """

    text: str
    unfit: str


class Texts(NamedTuple):
    """Documents that edits spare, and held-out documents that show what an edit does to text."""

    statistics: tuple[str, ...]
    held_out: tuple[str, ...]


def write_documents(
    model: HookedTransformer, rounds: int, *, seed: int = 0, journal: Journal | None = None
) -> dict[str, Document]:
    """Writes `rounds` documents after each of OPENINGS; returns all of them, by their keys.

    The key 0-17 is that of the document of round 0 after opening 17. With more rounds, documents
    are added; those of earlier rounds stay the same.
    """
    journal = Journal() if journal is None else journal
    # a batch has documents of one round, or of rounds that follow one another: one round is enough
    of_round = lru_cache(maxsize=1)(lambda number: written(model, number, seed))

    def documents(items: Sequence[tuple[int, int]]) -> list[dict[str, str]]:
        return [to_record(of_round(number)[opening]) for number, opening in items]

    entries = journal.each_batch(
        list(product(range(rounds), range(len(OPENINGS)))),
        lambda item: "{}-{}".format(*item), documents, len(OPENINGS),
        unit="documents", doing="writing",
    )  # fmt: skip
    return {entry.key: from_record(Document, entry.record) for entry in entries}


def divided(
    documents: Mapping[str, Document], held_out: float, leave_out: Collection[str] = ()
) -> Texts:
    """Divides the documents that are fit, in their order; the last ones are held out.

    Args:
        held_out: share of the text that is held out, by its characters.
        leave_out: keys of documents that are not used, because a reader rejected them.
    """
    texts = [
        document.text
        for key, document in documents.items()
        if not document.unfit and key not in leave_out
    ]
    target_size, size, n_first = (1 - held_out) * sum(map(len, texts)), 0, 0
    while n_first < len(texts) and size < target_size:
        size += len(texts[n_first])
        n_first += 1
    return Texts(tuple(texts[:n_first]), tuple(texts[n_first:]))


def written(model: HookedTransformer, n: int, seed: int = 0) -> list[Document]:
    """Writes one document after each of OPENINGS, in their order.

    Args:
        n: the round; other rounds write other documents.
        seed: seed of the draw of tokens.
    """
    openings = [(*bos_ids(model), *plain_ids(model, opening)) for opening in OPENINGS]
    top_k = min(TOP_K, model.cfg.d_vocab)
    said = sampled(model, openings, LENGTH, top_k, seed * 1_000_003 + n)
    return [
        _document(model, opening, tokens) for opening, tokens in zip(openings, said, strict=True)
    ]


def _document(model: HookedTransformer, opening: Sequence[int], tokens: Sequence[int]) -> Document:
    """Decodes a document up to its last complete sentence, and checks whether it is fit.

    Args:
        opening: the tokens of the opening, with BOS.
        tokens: the tokens that the model wrote after it.
    """
    markup = markup_ids(model)
    # a model marks the end of its text by a token such as EOS
    end = next((index for index, token in enumerate(tokens) if token in markup), len(tokens))
    n_bos = len(bos_ids(model))
    text = decoded(model, *opening[n_bos:], *tokens[:end]).strip()
    # the length limit mostly cuts the last sentence off
    ends = [match.end() for match in re.finditer(r"[.!?][\"'”’)]*(?=\s|\Z)", text)]
    text = text[: ends[-1]] if ends else text
    unfit = ""
    if len(text) < SHORTEST:
        unfit = f"only {len(text)} characters"
    elif found := UNWANTED.search(text):
        unfit = f"contains {found[0]!r}"
    elif (varied := variety(plain_ids(model, text))) < VARIED:
        unfit = f"repeats itself: variety {varied:.2f}"
    elif (least := _least_surprise(model, text)) < SURPRISE:
        unfit = f"known by heart: {least:.2f} nats per token over {RECITED} tokens"
    return Document(text, unfit)


@torch.no_grad()
def _least_surprise(model: HookedTransformer, text: str) -> float:
    """Returns the lowest mean surprise of RECITED consecutive tokens, in nats per token."""
    ids = [*bos_ids(model), *plain_ids(model, text)][: model.cfg.n_ctx]
    nll = surprise(model, torch.tensor([ids], device=device(model)))[0]
    return float(nll.unfold(0, min(RECITED, len(nll)), 1).mean(1).min())
