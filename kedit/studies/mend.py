"""Trains a MEND for a model, and measures it on held-out requests.

requests = requests_for(load_cases("cases.jsonl"))
trained = train_mend(model, requests, Recipe(rank=16, steps=200))
edit = MEND(trained.file)(model, [request])
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

import numpy as np
from transformer_lens import HookedTransformer

from kedit.data.corpus import corpus_of
from kedit.editing.hypernetwork import read_hypernetwork
from kedit.editing.provenance import current_fingerprint
from kedit.editors.mend import MEND, NAME
from kedit.forward.likelihood import Query, likelihoods
from kedit.forward.metrics import last_logits
from kedit.forward.reading import read
from kedit.journal import Journal, Record
from kedit.models.load import name_of
from kedit.models.prompts import answers_ids, prompt_ids
from kedit.records import key_of
from kedit.results.mend import HeldOutRate, Loss, TrainedMend
from kedit.stats import rate_interval
from kedit.studies.mend_practice import Practice, practice_of
from kedit.studies.mend_requests import Material, Requests, Said
from kedit.studies.mend_training import Recipe, train

NEIGHBOURS = "neighbours"  # kind of prompts whose likeliest next token should stay


# seven parameters: what the MEND is trained on, how, and the journal
def train_mend(
    model: HookedTransformer,
    requests: Requests,
    recipe: Recipe | None = None,
    *,
    locality_text: str = "",
    removal: bool = False,
    seed: int = 0,
    journal: Journal | None = None,
) -> TrainedMend:
    """Trains a MEND, keeps the network that validates best, and edits held-out requests with it.

    Args:
        requests: requests to train on, and held-out requests; see `requests_for`.
        recipe: which matrices the MEND edits, and how it is trained.
        locality_text: running text whose predictions should stay: a file, hf:NAME, self (text that
            the model writes), or "" for kedit's text.
        removal: whether relation edits also make their removals; no published code does this.
        seed: seed of the drawn exercises and of the network's initial weights.
        journal: keeps the checkpoint of the training, from which an interrupted training continues,
            and the results on held-out requests.

    Raises:
        InputError: a loss is NaN or infinite; the text, or all requests, cannot be read; or the
            journal holds a training with other requests, settings or weights.
    """
    recipe = recipe or Recipe()
    journal = Journal() if journal is None else journal
    journal.ask(
        "train_mend",
        model=current_fingerprint(model),
        requests=key_of((requests.train, requests.held_out)),
        text=locality_text,
        removal=removal,
        seed=seed,
        **asdict(recipe),
    )
    practice = practice_of(model, requests, text=locality_text, removal=removal, seed=seed)
    name = name_of(model)
    text = corpus_of(name, locality_text, seed).name
    settings = {"text": text, "removal": removal, "seed": seed}
    train(model, practice, recipe, journal, {"model": name, **requests.about, **settings})
    skipped = dict(practice.skipped)
    rates = tuple(_rates(_held_out_records(model, practice, journal, skipped)))
    steps = sorted(int(key) for key in journal.records if key.isdigit())
    validations = {step: journal.records[str(step)] for step in steps}
    file = journal.file(NAME)
    return TrainedMend(
        name, seed, len(practice.train), len(practice.held_out),
        best=int(read_hypernetwork(file)[1].recipe["trained for"]),
        n_steps=steps[-1],
        training=tuple(
            Loss(step, **record["training"])
            for step, record in validations.items()
            if record["training"]  # before the first step there are no losses of training
        ),
        validation={
            side: tuple(
                Loss(step, **record["validation"][side]) for step, record in validations.items()
            )
            for side in validations[steps[0]]["validation"]
        },
        rates=rates, skipped=skipped, file=str(file),
    )  # fmt: skip


def _held_out_records(
    model: HookedTransformer, practice: Practice, journal: Journal, skipped: dict[str, str]
) -> list[Record]:
    """Edits each held-out request with the best network, and returns what the edits do.

    Args:
        skipped: the requests that cannot be edited are added here, with the reasons.
    """
    edits = MEND(str(journal.file(NAME)), removal=practice.removal).on(model)

    def measured(material: Material) -> Record:
        demand = material.request.demands[0]
        prompts = {
            "own prompt": [Said(demand.fact.prompt, demand.target)],
            "other wordings": material.wordings,
        }
        before = _preferred(model, prompts, demand.fact.object)
        tokens_before = _likeliest(model, material.neighbours)
        with edits([material.request]).applied(model):
            after = _preferred(model, prompts, demand.fact.object)
            tokens_after = _likeliest(model, material.neighbours)
        n_same = sum(a == b for a, b in zip(tokens_before, tokens_after, strict=True))
        same = n_same / len(tokens_after)
        rates = {name: (before[name], after[name]) for name in prompts} | {NEIGHBOURS: (1.0, same)}
        return {"side": material.request.perspective, "rates": rates}

    found = []
    for entry in journal.each(
        practice.held_out, lambda material: f"held out {key_of(material)}", measured,
        unit="requests", doing="editing held-out requests",
    ):  # fmt: skip
        if entry.skipped:
            skipped[entry.item.id] = entry.skipped
        else:
            found.append(entry.record)
    return found


def _preferred(
    model: HookedTransformer, prompts: Mapping[str, Sequence[Said]], rival: str
) -> dict[str, float]:
    """Returns, for each kind of prompt, the share whose answer is likelier than the rival."""
    rates = {}
    for kind, with_answers in prompts.items():
        queries = [
            Query(prompt_ids(model, prompt), tuple(answers_ids(model, prompt, (answer, rival))))
            for prompt, answer in with_answers
        ]
        won = [
            answer.logprob > other.logprob
            for answer, other in (weighed.answers for weighed in likelihoods(model, queries))
        ]
        rates[kind] = sum(won) / len(won)
    return rates


def _likeliest(model: HookedTransformer, prompts: Sequence[Said]) -> list[int]:
    """Returns the likeliest next token after each prompt."""
    reading = read(model, [prompt_ids(model, prompt) for prompt, _ in prompts])
    return last_logits(model, reading.last).argmax(-1).tolist()


def _rates(records: Sequence[Record]) -> Iterator[HeldOutRate]:
    """Yields means over requests, by side and kind of prompt."""
    for side in dict.fromkeys(record["side"] for record in records):
        of_requests = [record["rates"] for record in records if record["side"] == side]
        n = len(of_requests)
        for kind in of_requests[0]:
            before, after = (
                rate_interval(np.array([rates[kind][index] for rates in of_requests]), np.ones(n))
                for index in (0, 1)
            )
            yield HeldOutRate(side, kind, before, after, n)
