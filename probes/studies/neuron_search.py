"""Searches relations for their neurons, on facts that the model knows in several wordings.

Neurons of a fact the model does not know would mean nothing, and a single wording cannot
distinguish the fact's neurons from those of its words (Dai et al. 2022). Relations and facts are
therefore drawn in turn, and searched only where the model answers enough of them right.
"""

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
    """A fact in the wordings that were searched, and its neurons."""

    worded: Sequence[Fact]
    found: FactNeurons


@dataclass(frozen=True)
class Searches:
    """The facts that were searched, and what was left out.

    Args:
        relations: the searched facts, by relation id.
        left_out: relations of which the model knows too few facts.
        reasons: number of facts left out for each reason.
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
    """Searches facts of several relations, which are drawn by the seed.

    A fact is left out if the model answers fewer than `wordings` of its wordings right.

    Args:
        facts: facts in any order and in several wordings.
        search: finds the neurons of a fact, given in all its wordings.
        n_relations: number of relations of which the model knows enough facts; 0: all.
        facts_per_relation: largest number of facts per relation; 0: all.
        wordings: number of wordings per fact (all that it has, if they are fewer).

    Raises:
        InputError: there is no relation of which the model knows enough facts.
    """
    by_relation: dict[str, list[list[Fact]]] = {}
    for worded in spread_facts(facts, seed):
        by_relation.setdefault(worded[0].relation.id, []).append(worded)
    n_needed = min(n_relations or len(by_relation), len(by_relation))
    done: dict[str, list[Searched]] = {}
    left_out: list[str] = []
    reasons = Counter[str]()
    with progress("relations") as bars:
        bar = bars.add_task("", total=n_needed)
        for relation, candidates in by_relation.items():
            if len(done) == n_needed:
                break
            name = candidates[0][0].relation.name[:24]
            bars.update(bar, description=f"testing knowledge: {name}")
            tested = list(_tested(model, candidates, facts, journal, facts_per_relation, wordings))
            reasons.update(entry.record["why"] for entry in tested if entry.skipped)
            known = [_known(entry.item, entry.record) for entry in tested if not entry.skipped]
            found: list[Searched] = []
            for entry in _search(known if len(known) >= FEWEST_TO_SEARCH else [], search, journal):
                if entry.skipped:
                    reasons[entry.record["why"]] += 1
                    continue
                neurons = FactNeurons.from_record(entry.record, journal.tensors(entry.key))
                found.append(Searched(entry.item, neurons))
                text = f"searching: {name}, {len(found)} of {len(known)} facts"
                bars.update(bar, completed=len(done) + len(found) / len(known), description=text)
            if len(found) < FEWEST_TO_SEARCH:
                left_out.append(relation)
            else:
                done[relation] = found
    if not done:
        raise InputError(
            f"there is no relation of which the model answers {FEWEST_TO_SEARCH} facts right in "
            f"{wordings} wordings each: lower --wordings"
        )
    return Searches(done, tuple(left_out), reasons)


def _tested(
    model: HookedTransformer,
    facts: Sequence[Sequence[Fact]],
    pool: Sequence[Fact],
    journal: Journal,
    facts_per_relation: int,
    wordings: int,
) -> Iterator[Entry[Sequence[Fact]]]:
    """Tests facts of a relation until the model knows `facts_per_relation` of them.

    A known fact gets its likeliest rival.
    """

    def test(worded: Sequence[Fact]) -> Record:
        known, wrong_answers = _answered(model, worded, wordings)
        if not known:
            said = ", ".join(map(repr, wrong_answers))
            return skip(WRONG, f"it says {said}", **about(worded))
        rivals = [with_likeliest_rival(model, fact, pool).rival for fact in known]
        prompts = [fact.prompt for fact in known]
        return {"object": known[0].object, "prompts": prompts, "rivals": rivals}

    def about(worded: Sequence[Fact]) -> dict[str, Any]:
        return {"relation": worded[0].relation.id, "prompt": worded[0].prompt}

    return journal.each(
        facts,
        key=lambda worded: f"{fact_key(worded[0])}-asked",
        work=test,
        unit="facts",
        doing="testing knowledge",
        total=facts_per_relation or None,
        about=about,
    )


def _known(worded: Sequence[Fact], record: Record) -> list[Fact]:
    """The wordings that a record says the model answers right, each with its rival."""
    by_prompt = {fact.prompt: fact for fact in worded if fact.object == record["object"]}
    return [
        replace(by_prompt[prompt], rival=rival)
        for prompt, rival in zip(record["prompts"], record["rivals"], strict=True)
    ]


def _search(
    known: Sequence[Sequence[Fact]],
    search: Callable[[Sequence[Fact]], FactNeurons],
    journal: Journal,
) -> Iterator[Entry[Sequence[Fact]]]:
    """Searches each known fact, unless the journal has it already."""

    def work(worded: Sequence[Fact]) -> Finished:
        found = search(worded)
        return found.to_record(), found.tensors()

    return journal.each(
        known, lambda worded: fact_key(worded[0]), work, unit="facts", doing="searching"
    )


def _answered(
    model: HookedTransformer, worded: Sequence[Fact], wordings: int
) -> tuple[list[Fact], list[str]]:
    """Returns the first wordings that the model answers right, up to the number needed.

    If they are too few, returns none of them, and the model's wrong answers.
    """
    n_needed = min(wordings, len({fact.template for fact in worded}))
    known, wrong_answers = [], []
    for n_tested, fact in enumerate(worded):
        # stop when there are enough, and when the rest could not make them enough
        if len(known) == n_needed or len(known) + len(worded) - n_tested < n_needed:
            break
        if known and fact.object != known[0].object:
            continue  # a subject may have two objects: all wordings have to be about the same one
        right, said = answers_right(model, fact)
        if right:
            known.append(fact)
        else:
            wrong_answers.append(said)
    return (known, []) if len(known) == n_needed else ([], wrong_answers)
