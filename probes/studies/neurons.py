"""Where do a relation's neurons and heads sit, and do they do what attribution says?"""

from collections.abc import Mapping, Sequence
from functools import partial

from transformer_lens import HookedTransformer

from kedit.data.enough import FEWEST_TO_SEARCH, require_facts_of_a_relation
from kedit.editing.neurons import Neuron
from kedit.editing.provenance import fingerprint
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
    """Searches relations for their neurons, and scales these under facts that were not searched.

    Args:
        facts: in any order and in several wordings: the seed draws relations and facts.
        n_relations: how many, of those of which the model knows enough facts; 0 for all.
        facts_per_relation: at most so many facts a relation, and at least four; 0 for all.
        wordings: a fact is asked in so many, all answered right (in all it has, if fewer).
        halves: any of "mlp" (neurons of W_out's key) and "attn" (numbers of all heads' z).
        gradient_steps, threshold: as `probes.neurons.search` has them.
        agree_wordings, agree_facts: a neuron of a fact, of a relation, is one in more than this
            share of its wordings, of its facts.
        controls: draws of as many random neurons, for each fact that is tested.

    Raises:
        InputError: there are too few facts, or the model knows too few; no such half; or a model
            that cannot be differentiated here.
    """
    journal = Journal() if journal is None else journal
    journal.ask(
        "find_neurons",
        model=fingerprint(model),
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
    wanted: list[Half] = [half for half in HALVES if half in halves]
    if not wanted or not set(halves) <= set(HALVES):
        raise InputError(f"halves {', '.join(halves)}: some of {', '.join(HALVES)} are wanted")
    searches = search_relations(
        model,
        facts,
        partial(
            search,
            model,
            halves=wanted,
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
    every = trials(searches.relations, agree_facts)
    scaled = scale_relations(model, every, journal, controls=controls, seed=seed)
    return _summed_up(model, searches, scaled, wanted, agree_facts, seed)


def _summed_up(
    model: HookedTransformer,
    searches: Searches,
    scaled: Mapping[str, Sequence[Sequence[Effect]]],
    halves: Sequence[Half],
    agree_facts: float,
    seed: int,
) -> NeuronFindings:
    relations = [
        gathered(model, each[0].worded[0].relation.name, [one.found for one in each], agree_facts)
        for each in searches.relations.values()
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
        sharing={part: sharing(own, seed) for part, own in sets.items()},
        changes=_changes(list(scaled.values()), [*sets], seed),
        n_prompts=sum(len(one.worded) for each in searches.relations.values() for one in each),
        left_out=LeftOutCounts(
            searches.reasons.get(WRONG, 0), searches.reasons.get(UNUSABLE, 0), searches.left_out
        ),
    )


def _by_part(
    relations: Sequence[Sequence[Searched]], halves: Sequence[Half]
) -> dict[str, list[list[frozenset[Neuron]]]]:
    """Each fact's neurons of each half; and of both, where both were searched."""
    sets = [[one.found.neurons for one in each] for each in relations]
    parts: dict[str, list[list[frozenset[Neuron]]]] = {
        half: [[of_half(fact, half) for fact in facts] for facts in sets] for half in halves
    }
    return parts | {"both": sets} if len(halves) > 1 else parts


def _changes(
    scaled: Sequence[Sequence[Sequence[Effect]]], parts: Sequence[str], seed: int
) -> tuple[ScalingChange, ...]:
    """What scaling did, both halves together first; then in the order of WHOSE and of factors."""
    blocks = sorted(parts, key=lambda part: part != "both")
    found = [one for one in averaged(scaled, seed) if one.half in blocks]

    def place(one: ScalingChange) -> tuple[int, int, float]:
        return blocks.index(one.half), NEURONS_OF.index(one.neurons), one.factor

    return tuple(sorted(found, key=place))
