"""Which heads carry which relation, do relations share them, and where do the strongest look?"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.data.choose import fact_key
from kedit.errors import InputError
from kedit.facts import Fact
from kedit.heads import Head
from kedit.journal import Journal
from kedit.models.prompts import ROLES, encode
from kedit.records import key_of
from kedit.results.heads import Looks, RelationHeads
from kedit.results.relation_heads import HeadsByRelation
from kedit.results.traced import Traces
from kedit.results.traces import FactTrace
from kedit.stats import Interval, bootstrap_ratio
from probes.attention import attention_to_roles, weighted_attention_to_roles
from probes.sharing import by_relation, sharing, strongest

LOOKED_AT = 8  # of the strongest heads, for a figure that is still read at a glance


def compare_heads(
    model: HookedTransformer,
    traces: Traces,
    facts: Sequence[Fact],
    metric: str = "prob",
    journal: Journal | None = None,
) -> HeadsByRelation:
    """Heads' effects by relation, their correlations, and where the strongest heads look.

    Args:
        model: that was traced.
        traces: with the site "z"; a part without it, or with too few facts, is not compared.
        facts: among them those that were traced, in the wordings that were traced.
        metric: of the effects.
        journal: where a fact has been looked at already, it is not looked at again.
    """
    seed, averaged = traces.settings.seed, traces.averaged
    heads, shared, not_compared = [], [], {}
    for part, done in averaged.items():
        if not done or "z" not in done[0].grids:
            continue
        try:
            own = by_relation(done, dict(traces.relations), metric, seed)
            shared.append(sharing(done, metric, seed=seed))
            heads.append(own)
        except InputError as error:
            not_compared[part] = str(error)
    looked = ()
    if heads:
        looked = looks_of(model, _best(heads), _traced(facts, averaged), seed, journal)
    return HeadsByRelation(
        model=traces.model,
        corruption=traces.settings.corruption,
        metric=metric,
        seed=seed,
        heads=tuple(heads),
        sharing=tuple(shared),
        not_compared=not_compared,
        looks=looked,
    )


def looks_of(
    model: HookedTransformer,
    heads: Sequence[Head],
    facts: Sequence[Fact],
    seed: int = 0,
    journal: Journal | None = None,
) -> tuple[Looks, ...]:
    """Where `heads` look from the last token of the facts' prompts, and what they move from there.

    Args:
        facts: each up to the token that is asked for (Fact.rival).
        seed: of the bootstrap over facts.
        journal: keeps what all heads look at, a record a fact.
    """
    journal = Journal() if journal is None else journal

    def looked(fact: Fact) -> tuple[dict[str, str], dict[str, Tensor]]:
        prompt = encode(model, fact)
        shares = {
            "attention": attention_to_roles(model, prompt),
            "moved": weighted_attention_to_roles(model, prompt),
        }
        return {"prompt": fact.prompt}, {name: one.cpu() for name, one in shares.items()}

    entries = journal.each(facts, _key, looked, unit="facts", doing="attention")
    found = [journal.tensors(entry.key) for entry in entries if not entry.skipped]
    layers, columns = [head.layer for head in heads], [head.head for head in heads]
    shares, moved = (
        _over_facts(torch.stack([one[name][layers, columns] for one in found], 1), seed)
        for name in ("attention", "moved")
    )
    return tuple(
        Looks(head, ROLES, share, own, len(found))
        for head, share, own in zip(heads, shares, moved, strict=True)
    )


def _key(fact: Fact) -> str:
    """With its rival, by which more or fewer of the object's tokens end the prompt."""
    return f"looks-{key_of(fact)}"


def _over_facts(values: Tensor, seed: int) -> list[Interval]:
    """Of shares by head, fact and role: each head's mean over facts."""
    return [bootstrap_ratio(own, np.ones(len(own)), seed=seed) for own in values.numpy()]


def _best(seen: Sequence[RelationHeads]) -> list[Head]:
    """The strongest heads of every part, in turn, each once."""
    ranked = [[head for _, head in strongest(heads, 4 * LOOKED_AT)] for heads in seen]
    in_turn = [head for several in zip(*ranked, strict=False) for head in several]
    return sorted(list(dict.fromkeys(in_turn))[:LOOKED_AT])


def _traced(facts: Sequence[Fact], traces: Mapping[str, Sequence[FactTrace]]) -> list[Fact]:
    """The facts that were traced, in their wordings and up to the token that was traced."""
    rivals = {(trace.relation, trace.prompt, trace.object): "" if trace.whole else trace.rival
              for done in traces.values() for trace in done}  # fmt: skip
    found = {}
    for fact in facts:
        key = (fact.relation.id, fact.prompt, fact.object)
        if key in rivals:
            found[fact_key(fact)] = replace(fact, rival=rivals[key])
    return list(found.values())
