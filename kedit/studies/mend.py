"""Trains a MEND for a model, and measures it on requests that it never saw.

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

STAYS = "neighbours"  # prompts where the likeliest next token should stay


# seven parameters: what is trained on, how, and where it is kept
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
    """Trains, validates, keeps the best network, and edits every held-out request with it.

    Args:
        locality_text: running text that should stay: a file, hf:NAME, self, or "" for kedit's text.
        removal: relation edits ask for their removal too; no published code does that.
        seed: of what is drawn, and of the network's start.
        journal: a training that was stopped goes on from its checkpoint.

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
    told = {"text": corpus_of(name, locality_text, seed).name, "removal": removal, "seed": seed}
    train(model, practice, recipe, journal, {"model": name, **requests.about, **told})
    skipped = dict(practice.skipped)
    rates = tuple(_rates(_tried(model, practice, journal, skipped)))
    steps = sorted(int(key) for key in journal.records if key.isdigit())
    found = {step: journal.records[str(step)] for step in steps}
    file = journal.file(NAME)
    return TrainedMend(
        name, seed, len(practice.train), len(practice.held_out),
        best=int(read_hypernetwork(file)[1].recipe["trained for"]),
        n_steps=steps[-1],
        training=tuple(Loss(at, **one["training"]) for at, one in found.items() if one["training"]),
        validation={
            side: tuple(Loss(step, **one["validation"][side]) for step, one in found.items())
            for side in found[steps[0]]["validation"]
        },
        rates=rates, skipped=skipped, file=str(file),
    )  # fmt: skip


def _tried(
    model: HookedTransformer, practice: Practice, journal: Journal, skipped: dict[str, str]
) -> list[Record]:
    """What the kept network does with each held-out request; `skipped` gets what it cannot edit."""
    edits = MEND(str(journal.file(NAME)), removal=practice.removal).on(model)

    def tried(one: Material) -> Record:
        demand = one.request.demands[0]
        prompts = {
            "own prompt": [Said(demand.fact.prompt, demand.target)],
            "other wordings": one.wordings,
        }
        before = _preferred(model, prompts, demand.fact.object)
        stays = _likeliest(model, one.neighbours)
        with edits([one.request]).applied(model):
            after = _preferred(model, prompts, demand.fact.object)
            kept = _likeliest(model, one.neighbours)
        same = sum(a == b for a, b in zip(stays, kept, strict=True)) / len(kept)
        rates = {name: (before[name], after[name]) for name in prompts} | {STAYS: (1.0, same)}
        return {"side": one.request.perspective, "rates": rates}

    found = []
    for entry in journal.each(
        practice.held_out, lambda one: f"held out {key_of(one)}", tried,
        unit="requests", doing="editing what was held out",
    ):  # fmt: skip
        if entry.skipped:
            skipped[entry.item.id] = entry.skipped
        else:
            found.append(entry.record)
    return found


def _preferred(
    model: HookedTransformer, prompts: Mapping[str, Sequence[Said]], rival: str
) -> dict[str, float]:
    """How often each kind of prompt has its answer likelier than the rival."""
    rates = {}
    for name, ones in prompts.items():
        asked = [
            Query(
                prompt_ids(model, one.prompt),
                tuple(answers_ids(model, one.prompt, (one.answer, rival))),
            )
            for one in ones
        ]
        won = [
            own.logprob > other.logprob
            for own, other in (answered.answers for answered in likelihoods(model, asked))
        ]
        rates[name] = sum(won) / len(won)
    return rates


def _likeliest(model: HookedTransformer, prompts: Sequence[Said]) -> list[int]:
    """The likeliest next token after each prompt."""
    reading = read(model, [prompt_ids(model, one.prompt) for one in prompts])
    return last_logits(model, reading.last).argmax(-1).tolist()


def _rates(found: Sequence[Record]) -> Iterator[HeldOutRate]:
    """Means over requests, by side and kind of prompt."""
    for side in dict.fromkeys(one["side"] for one in found):
        own = [one["rates"] for one in found if one["side"] == side]
        for prompts in own[0]:
            before, after = (
                rate_interval(np.array([one[prompts][when] for one in own]), np.ones(len(own)))
                for when in (0, 1)
            )
            yield HeldOutRate(side, prompts, before, after, len(own))
