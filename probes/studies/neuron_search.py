"""Relations searched for their neurons: the facts that the model knows, wording by wording."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from transformer_lens import HookedTransformer

from kedit.data.choose import fact_key, spread_facts
from kedit.data.enough import FEWEST_TO_SEARCH
from kedit.errors import InputError
from kedit.facts import Fact
from kedit.journal import Entry, Finished, Journal, Record, skip
from kedit.progress import progress
from kedit.results.tracing import WRONG
from probes.known import answers_right, with_likeliest_rival
from probes.neurons import FactNeurons


@dataclass(frozen=True)
class Searched:
    """A fact in the wordings that were asked, and what was found."""

    worded: Sequence[Fact]
    found: FactNeurons


@dataclass(frozen=True)
class Searches:
    """The facts that were searched, by relation id, and what was not.

    Args:
        left_out: relations that had too few facts which the model knows.
        reasons: why facts were left out, and how many.
    """

    relations: Mapping[str, Sequence[Searched]]
    left_out: tuple[str, ...]
    reasons: Mapping[str, int]


# eight parameters: the model, its facts, how they are searched, the journal, and how many
def search_relations(
    model: HookedTransformer,
    facts: Sequence[Fact],
    search: Callable[[Sequence[Fact]], FactNeurons],
    journal: Journal,
    *,
    n_relations: int,
    facts_per_relation: int,
    wordings: int,
    seed: int,
) -> Searches:
    """Searches facts of `n_relations` relations; relations and facts are drawn by the seed.

    A fact that the model does not answer right in as many wordings as are wanted is left out.

    Args:
        search: of a fact in all its wordings.
        n_relations, facts_per_relation: how many, and how many facts of each at most; 0 for all.

    Raises:
        InputError: the model knows enough facts of no relation.
    """
    by_relation: dict[str, list[list[Fact]]] = {}
    for worded in spread_facts(facts, seed):
        by_relation.setdefault(worded[0].relation.id, []).append(worded)
    wanted = min(n_relations or len(by_relation), len(by_relation))
    done: dict[str, list[Searched]] = {}
    left_out: list[str] = []
    reasons = Counter[str]()
    with progress("relations") as bars:
        bar = bars.add_task("", total=wanted)
        for relation, every in by_relation.items():
            if len(done) == wanted:
                break
            name = every[0][0].relation.name[:24]
            bars.update(bar, description=f"asking: {name}")
            asked = list(_asked(model, every, facts, journal, facts_per_relation, wordings))
            reasons.update(entry.record["why"] for entry in asked if entry.skipped)
            known = [_known(entry.item, entry.record) for entry in asked if not entry.skipped]
            found: list[Searched] = []
            for entry in _search(known if len(known) >= FEWEST_TO_SEARCH else [], search, journal):
                if entry.skipped:
                    reasons[entry.record["why"]] += 1
                    continue
                neurons = FactNeurons.from_record(entry.record, journal.tensors(entry.key))
                found.append(Searched(entry.item, neurons))
                told = f"searching: {name}, {len(found)} of {len(known)} facts"
                bars.update(bar, completed=len(done) + len(found) / len(known), description=told)
            if len(found) < FEWEST_TO_SEARCH:
                left_out.append(relation)
            else:
                done[relation] = found
    if not done:
        raise InputError(
            f"the model answers {FEWEST_TO_SEARCH} facts right in {wordings} wordings of no "
            "relation: ask for fewer --wordings"
        )
    return Searches(done, tuple(left_out), reasons)


def _asked(
    model: HookedTransformer,
    facts: Sequence[Sequence[Fact]],
    pool: Sequence[Fact],
    journal: Journal,
    facts_per_relation: int,
    wordings: int,
) -> Iterator[Entry[Sequence[Fact]]]:
    """Facts until the model knows `facts_per_relation` of them, each with its likeliest rival."""

    def ask(worded: Sequence[Fact]) -> Record:
        known, heard = _answered(model, worded, wordings)
        if not known:
            return skip(WRONG, f"it says {', '.join(map(repr, heard))}", **about(worded))
        rivals = [with_likeliest_rival(model, fact, pool).rival for fact in known]
        prompts = [fact.prompt for fact in known]
        return {"object": known[0].object, "prompts": prompts, "rivals": rivals}

    def about(worded: Sequence[Fact]) -> dict[str, Any]:
        return {"relation": worded[0].relation.id, "prompt": worded[0].prompt}

    return journal.each(
        facts,
        key=lambda worded: f"{fact_key(worded[0])}-asked",
        work=ask,
        unit="facts",
        doing="asking",
        total=facts_per_relation or None,
        about=about,
    )


def _known(worded: Sequence[Fact], record: Record) -> list[Fact]:
    """The wordings that the model answers right, each told apart from its rival."""
    own = {fact.prompt: fact for fact in worded if fact.object == record["object"]}
    return [
        replace(own[prompt], rival=rival)
        for prompt, rival in zip(record["prompts"], record["rivals"], strict=True)
    ]


def _search(
    known: Sequence[Sequence[Fact]],
    search: Callable[[Sequence[Fact]], FactNeurons],
    journal: Journal,
) -> Iterator[Entry[Sequence[Fact]]]:
    def work(worded: Sequence[Fact]) -> Finished:
        found = search(worded)
        return found.to_record(), found.tensors()

    return journal.each(
        known, lambda worded: fact_key(worded[0]), work, unit="facts", doing="searching"
    )


def _answered(
    model: HookedTransformer, worded: Sequence[Fact], wordings: int
) -> tuple[list[Fact], list[str]]:
    """The first wordings that the model answers right; if they are too few, what else it said."""
    wanted = min(wordings, len({fact.template for fact in worded}))
    known, heard = [], []
    for asked, fact in enumerate(worded):
        if len(known) == wanted or len(known) + len(worded) - asked < wanted:
            break
        if known and fact.object != known[0].object:
            continue  # a subject may have two objects, and its wordings are to be of one fact
        right, said = answers_right(model, fact)
        if right:
            known.append(fact)
        else:
            heard.append(said)
    return (known, []) if len(known) == wanted else ([], heard)
