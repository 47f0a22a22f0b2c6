"""What do a relation's heads do? They are asked, on other facts than they were chosen on."""

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, get_args

from transformer_lens import HookedTransformer

from kedit.data.choose import fact_key, spread_facts
from kedit.data.enough import require_facts_to_ask
from kedit.editing.provenance import fingerprint
from kedit.errors import InputError
from kedit.facts import Fact
from kedit.heads import Head
from kedit.journal import Journal
from kedit.models.load import name_of
from kedit.models.prompts import readable
from kedit.records import from_record, key_of, require_finite, to_record
from kedit.results.decoding import Decoded
from kedit.results.fact_answers import FactAnswers
from kedit.results.head_answers import HeadAnswers
from probes.decoding import Split, decode, read_features
from probes.studies.head_choice import FactRuns, choose_heads, fact_runs, of_known, require_heads
from probes.studies.head_questions import fact_answers

REFERENCES = 16  # prompts that a head's mean output is taken over


# more parameters than six: a study's settings are plain arguments
def ask_heads(
    model: HookedTransformer,
    facts: Sequence[Fact],
    heads: Sequence[Head] | None = None,
    *,
    pool: Sequence[Fact] | None = None,
    choose: int = 24,
    n_heads: int = 6,
    limit: int = 48,
    corrupt: str = "relation",
    window: int = 5,
    decoded: int = 240,
    metric: str = "prob",
    seed: int = 0,
    journal: Journal | None = None,
) -> HeadAnswers:
    """Chooses heads on some facts and asks them on others: what do they do for the answer?

    Args:
        facts: in any order, in several wordings if they are there: the seed spreads them.
        heads: that are asked; None: the `n_heads` of the largest mean effects by attribution.
        pool: facts whose words replace others; None: `facts`.
        choose: how many facts heads are chosen on, or have their mean outputs from.
        limit: how many others they are asked on; 0 for all.
        corrupt: "relation" or "subject": whose words are replaced in corrupted runs.
        window: layers in which attention edges are cut together.
        decoded: facts (known or not) whose relation is decoded; 0 for none.
        metric: by which heads are chosen, and which means, tables and figures show.

    Raises:
        InputError: there are too few facts, none could be used, or the model has no such head.
    """
    journal = Journal() if journal is None else journal
    journal.ask(
        "ask_heads",
        model=fingerprint(model),
        heads=heads,
        choose=choose,
        n_heads=n_heads,
        corrupt=corrupt,
        window=window,
        seed=seed,
    )
    require_facts_to_ask(facts, choose)
    require_heads(model, heads or ())
    others, order = facts if pool is None else pool, spread_facts(facts, seed)

    def runs(fact: Fact) -> FactRuns:
        return fact_runs(model, fact, corrupt, others, seed)

    choice = choose_heads(
        model, order, runs, others, journal, choose=choose, n_heads=n_heads, metric=metric
    )
    chosen = tuple(sorted(heads)) if heads else choice.heads
    references = choice.prompts[:REFERENCES]

    def answers(fact: Fact) -> dict[str, Any]:
        found = fact_answers(model, fact, runs(fact), chosen, references, window)
        require_finite(repr(fact.prompt), asdict(found))  # a record has None for NaN
        return to_record(found)

    entries = journal.each(
        order[choice.n_tried :],
        key=lambda worded: f"asked {fact_key(worded[0])}",
        work=lambda worded: of_known(model, worded, others, answers),
        unit="facts",
        doing="asking",
        total=limit or None,
        about=lambda worded: {"prompt": worded[0].prompt},
    )
    asked = [from_record(FactAnswers, one.record) for one in entries if not one.skipped]
    if not asked:
        raise InputError(f"no fact could be asked about: see {journal.where}")
    every = list(itertools.islice(readable(model, itertools.chain.from_iterable(order)), decoded))
    return HeadAnswers(
        model=name_of(model),
        metric=metric,
        corrupt=corrupt,
        window=window,
        seed=seed,
        facts=tuple(asked),
        decoded=_decoded(model, every, seed, journal),
        n_decoded=len(every),
    )


def _decoded(
    model: HookedTransformer, facts: Sequence[Fact], seed: int, journal: Journal
) -> Mapping[str, tuple[Decoded, ...]]:
    """Relations, decoded at the last token, by what the probe has not seen: subjects, wordings."""

    def work(facts: Sequence[Fact]) -> dict[str, Any]:
        features, found = read_features(model, facts), {}
        for split in get_args(Split):
            # a relation that is there in one wording only leaves none to hold out
            with contextlib.suppress(InputError):
                found[split] = decode(features, split, seed=seed)
        return {"decoded": to_record(found)}

    entries = journal.each(
        [facts] if facts else [],
        key=lambda facts: f"decoded {key_of(tuple(facts))}",
        work=work,
        unit="",
        doing=f"decoding relations of {len(facts)} facts",
    )
    for entry in entries:
        if not entry.skipped:
            return {
                split: tuple(from_record(Decoded, one) for one in found)
                for split, found in entry.record["decoded"].items()
            }
    return {}
