"""Study: what do the heads that carry relations do for the answer?

Chooses the heads with the largest effects, and examines them on other facts by several probes:
direct effects, ablation, OV circuits, path patching and attention knockout. Linear probes show in
addition from which activations the relation can be decoded. One wants this study to find out
whether the attention half of a model stores relations, as RaKE suggests, and how.
"""

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, get_args

from transformer_lens import HookedTransformer

from kedit.data.choose import fact_key, spread_facts
from kedit.data.enough import require_facts_to_ask
from kedit.editing.provenance import current_fingerprint
from kedit.errors import InputError
from kedit.facts import Fact
from kedit.heads import Head
from kedit.journal import Journal
from kedit.models.load import name_of
from kedit.models.masked_prompts import readable
from kedit.records import from_record, key_of, require_finite, to_record
from kedit.results.decoding import Decoded
from kedit.results.fact_answers import FactAnswers
from kedit.results.head_answers import HeadAnswers
from probes.decoding import Split, decode, read_features
from probes.studies.head_choice import FactRuns, choose_heads, fact_runs, of_known, require_heads
from probes.studies.head_questions import fact_answers

REFERENCES = 16  # prompts over which a head's output is averaged, for ablations


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
    """Chooses heads on some facts and measures on other facts what they do for the answer.

    Args:
        facts: facts in any order, perhaps in several wordings. The seed decides their order, in
            which relations alternate.
        heads: heads to examine; None: the `n_heads` heads with the largest mean effects by
            attribution.
        pool: facts whose words replace others and whose objects may be rivals; None: `facts`.
        choose: number of facts that heads are chosen on; their prompts also give the mean outputs
            for ablations.
        n_heads: number of heads to choose.
        limit: number of other facts that the heads are examined on; 0: all.
        corrupt: "relation" or "subject", whose words are replaced in corrupted runs.
        window: number of layers in which attention edges are cut together.
        decoded: number of facts, known or not, that linear probes are trained and tested on; 0:
            none.
        metric: metric by which heads are chosen, and which tables and figures show.
        seed: seed of the order of facts, of replacements and of linear probes.
        journal: records that exist already are not computed again.

    Raises:
        InputError: there are too few facts, none could be used, or the model has no such head.
    """
    journal = Journal() if journal is None else journal
    journal.ask(
        "ask_heads",
        model=current_fingerprint(model),
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
        require_finite(repr(fact.prompt), asdict(found))  # NaN would be stored as None
        return to_record(found)

    entries = journal.each(
        order[choice.n_tried :],
        key=lambda worded: f"asked {fact_key(worded[0])}",
        work=lambda worded: of_known(model, worded, others, answers),
        unit="facts",
        doing="examining heads",
        total=limit or None,
        about=lambda worded: {"prompt": worded[0].prompt},
    )
    examined = [from_record(FactAnswers, entry.record) for entry in entries if not entry.skipped]
    if not examined:
        raise InputError(f"heads could be examined on no fact: {journal.where} has the reasons")
    decodable = list(
        itertools.islice(readable(model, itertools.chain.from_iterable(order)), decoded)
    )
    return HeadAnswers(
        model=name_of(model),
        metric=metric,
        corrupt=corrupt,
        window=window,
        seed=seed,
        facts=tuple(examined),
        decoded=_decoded(model, decodable, seed, journal),
        n_decoded=len(decodable),
    )


def _decoded(
    model: HookedTransformer, facts: Sequence[Fact], seed: int, journal: Journal
) -> Mapping[str, tuple[Decoded, ...]]:
    """Decodes relations at the last token, with subjects or with wordings held out."""

    def work(facts: Sequence[Fact]) -> dict[str, Any]:
        features, found = read_features(model, facts), {}
        for split in get_args(Split):
            # not possible for a split in which some relation has a single wording or subject
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
                split: tuple(from_record(Decoded, record) for record in found)
                for split, found in entry.record["decoded"].items()
            }
    return {}
