"""Study: in which layers and heads are a relation's neurons, and does the model need them?

Searches facts of several relations for knowledge neurons of MLPs and of attention (Dai et al. 2022,
`probes.neurons`), counts them by layer and head and how many facts share them, and scales them
under facts on which they were not found (`probes.scaling`).
"""

from collections.abc import Mapping, Sequence
from functools import partial

from transformer_lens import HookedTransformer

from kedit.data.enough import FEWEST_TO_SEARCH, require_facts_of_a_relation
from kedit.editing.neurons import Neuron
from kedit.editing.provenance import current_fingerprint
from kedit.editing.write_sites import Half
from kedit.errors import InputError
from kedit.facts import Fact
from kedit.forward.packed import require_plain
from kedit.journal import UNUSABLE, Journal
from kedit.models.load import name_of
from kedit.results.neuron_findings import LeftOutCounts, NeuronFindings
from kedit.results.neurons import ScalingChange
from kedit.results.tracing import WRONG
from kedit.stats import Interval
from probes.neurons import attention_share, by_layer, gathered, of_half, search, sharing
from probes.scaling import Effect, averaged
from probes.studies.neuron_scaling import NEURONS_OF, scale_relations, trials
from probes.studies.neuron_search import Searched, Searches, search_relations

HALVES: tuple[Half, ...] = ("mlp", "attn")


# more parameters than six: a study's settings are plain arguments
def find_neurons(
    model: HookedTransformer,
    facts: Sequence[Fact],
    *,
    n_relations: int = 10,
    facts_per_relation: int = 8,
    wordings: int = 3,
    halves: Sequence[Half] = HALVES,
    gradient_steps: int = 20,
    threshold: float = 0.2,
    agree_wordings: float = 0.5,
    agree_facts: float = 0.4,
    controls: int = 5,
    seed: int = 0,
    journal: Journal | None = None,
) -> NeuronFindings:
    """Searches relations for their neurons, and scales these for facts they were not found on.

    Args:
        facts: facts in any order and in several wordings. The seed draws relations and facts.
        n_relations: number of relations of which the model knows enough facts; 0: all.
        facts_per_relation: largest number of facts per relation, at least 4; 0: all.
        wordings: number of wordings per fact, all of which the model has to answer right (all that
            the fact has, if they are fewer).
        halves: "mlp" (neurons of W_out's key), "attn" (numbers of all heads' z), or both.
        gradient_steps: number of steps of the integral (see `probes.neurons.search`).
        threshold: smallest attribution of a neuron, as a share of the largest.
        agree_wordings: a fact's neurons are those found in more than this share of its wordings.
        agree_facts: a relation's neurons are those found in more than this share of its facts.
        controls: number of random sets of neurons to scale for each fact.
        seed: seed of the draws of relations and facts, of random neurons and of the bootstrap.
        journal: records that exist already are not computed again.

    Raises:
        InputError: there are too few facts, the model knows too few, there is no such half, or
            gradients of this model cannot be computed here.
    """
    journal = Journal() if journal is None else journal
    journal.ask(
        "find_neurons",
        model=current_fingerprint(model),
        wordings=wordings,
        halves=halves,
        gradient_steps=gradient_steps,
        threshold=threshold,
        agree_wordings=agree_wordings,
        agree_facts=agree_facts,
        controls=controls,
        seed=seed,
    )
    require_facts_of_a_relation(facts, FEWEST_TO_SEARCH, facts_per_relation)
    require_plain(model)
    ordered: list[Half] = [half for half in HALVES if half in halves]
    if not ordered or not set(halves) <= set(HALVES):
        raise InputError(
            f"halves {', '.join(halves) or '(none)'}: must be one or more of {', '.join(HALVES)}"
        )
    searches = search_relations(
        model,
        facts,
        partial(
            search,
            model,
            halves=ordered,
            steps=gradient_steps,
            threshold=threshold,
            agreement=agree_wordings,
        ),
        journal,
        n_relations=n_relations,
        facts_per_relation=facts_per_relation,
        wordings=wordings,
        seed=seed,
    )
    all_trials = trials(searches.relations, agree_facts)
    scaled = scale_relations(model, all_trials, journal, controls=controls, seed=seed)
    return _summed_up(model, searches, scaled, ordered, agree_facts, seed)


def _summed_up(
    model: HookedTransformer,
    searches: Searches,
    scaled: Mapping[str, Sequence[Sequence[Effect]]],
    halves: Sequence[Half],
    agree_facts: float,
    seed: int,
) -> NeuronFindings:
    """Averages over relations, with bootstrap intervals."""
    relations = [
        gathered(
            model, facts[0].worded[0].relation.name, [fact.found for fact in facts], agree_facts
        )
        for facts in searches.relations.values()
    ]
    attention = attention_share(relations, seed) if set(halves) == set(HALVES) else None
    shares: dict[Half, Interval] = {}
    if attention:
        mean, low, high = attention.total
        shares = {"mlp": Interval(1 - mean, 1 - high, 1 - low), "attn": attention.total}
    sets = _by_part(list(searches.relations.values()), halves)
    return NeuronFindings(
        model=name_of(model),
        seed=seed,
        agree_facts=agree_facts,
        relations=tuple(relations),
        halves={half: by_layer(relations, half, shares.get(half), seed) for half in halves},
        attention=attention,
        sharing={part: sharing(by_fact, seed) for part, by_fact in sets.items()},
        changes=_changes(list(scaled.values()), [*sets], seed),
        n_prompts=sum(len(fact.worded) for facts in searches.relations.values() for fact in facts),
        left_out=LeftOutCounts(
            searches.reasons.get(WRONG, 0), searches.reasons.get(UNUSABLE, 0), searches.left_out
        ),
    )


def _by_part(
    relations: Sequence[Sequence[Searched]], halves: Sequence[Half]
) -> dict[str, list[list[frozenset[Neuron]]]]:
    """Each fact's neurons of each half, and of both halves if both were searched."""
    sets = [[fact.found.neurons for fact in facts] for facts in relations]
    parts: dict[str, list[list[frozenset[Neuron]]]] = {
        half: [[of_half(fact, half) for fact in facts] for facts in sets] for half in halves
    }
    return parts | {"both": sets} if len(halves) > 1 else parts


def _changes(
    scaled: Sequence[Sequence[Sequence[Effect]]], parts: Sequence[str], seed: int
) -> tuple[ScalingChange, ...]:
    """Averaged effects of scaling: both halves together first, then in the order of NEURONS_OF."""
    blocks = sorted(parts, key=lambda part: part != "both")
    found = [change for change in averaged(scaled, seed) if change.half in blocks]

    def order(change: ScalingChange) -> tuple[int, int, float]:
        return blocks.index(change.half), NEURONS_OF.index(change.neurons), change.factor

    return tuple(sorted(found, key=order))
