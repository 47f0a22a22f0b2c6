"""Study: which heads carry which relation, and do relations share heads?

Takes traces of single heads (site "z") of facts of several relations. Compares the effects of heads
between relations (`probes.sharing`), and shows for the strongest heads which tokens they attend to
(`probes.attention`). If each relation has heads of its own, editing these heads could change one
relation and spare the others.
"""

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

N_STRONGEST = 8  # heads whose attention is shown: few enough for a figure


def compare_heads(
    model: HookedTransformer,
    traces: Traces,
    facts: Sequence[Fact],
    metric: str = "prob",
    journal: Journal | None = None,
) -> HeadsByRelation:
    """Compares heads' effects between relations, and measures what the strongest heads attend to.

    Args:
        model: the model that was traced.
        traces: traces with the site "z". A part (subject or relation) without it, or with too few
            facts, is not compared.
        facts: facts that include the traced ones, in the wordings that were traced.
        metric: metric of the effects.
        journal: facts whose attention is recorded in it are not read again.
    """
    seed, averaged = traces.settings.seed, traces.averaged
    heads, shared, not_compared = [], [], {}
    for part, part_traces in averaged.items():
        if not part_traces or "z" not in part_traces[0].grids:
            continue
        try:
            compared = by_relation(part_traces, dict(traces.relations), metric, seed)
            shared.append(sharing(part_traces, metric, seed=seed))
            heads.append(compared)
        except InputError as error:
            not_compared[part] = str(error)
    looks = ()
    if heads:
        looks = looks_of(model, _best(heads), _traced(facts, averaged), seed, journal)
    return HeadsByRelation(
        model=traces.model,
        corruption=traces.settings.corruption,
        metric=metric,
        seed=seed,
        heads=tuple(heads),
        sharing=tuple(shared),
        not_compared=not_compared,
        looks=looks,
    )


def looks_of(
    model: HookedTransformer,
    heads: Sequence[Head],
    facts: Sequence[Fact],
    seed: int = 0,
    journal: Journal | None = None,
) -> tuple[Looks, ...]:
    """Measures what `heads` attend to from the last token of facts' prompts, and what they move.

    Args:
        facts: the facts, with the rival that decides how much of the object ends the prompt.
        seed: seed of the bootstrap over facts.
        journal: keeps one record per fact, with the attention of all heads.
    """
    journal = Journal() if journal is None else journal

    def read(fact: Fact) -> tuple[dict[str, str], dict[str, Tensor]]:
        prompt = encode(model, fact)
        shares = {
            "attention": attention_to_roles(model, prompt),
            "moved": weighted_attention_to_roles(model, prompt),
        }
        return {"prompt": fact.prompt}, {name: share.cpu() for name, share in shares.items()}

    entries = journal.each(facts, _key, read, unit="facts", doing="reading attention")
    found = [journal.tensors(entry.key) for entry in entries if not entry.skipped]
    layers, columns = [head.layer for head in heads], [head.head for head in heads]
    shares, moved = (
        _over_facts(torch.stack([tensors[name][layers, columns] for tensors in found], 1), seed)
        for name in ("attention", "moved")
    )
    return tuple(
        Looks(head, ROLES, attended, written, len(found))
        for head, attended, written in zip(heads, shares, moved, strict=True)
    )


def _key(fact: Fact) -> str:
    """The record's key. It covers the rival, because that decides where the prompt ends."""
    return f"looks-{key_of(fact)}"


def _over_facts(values: Tensor, seed: int) -> list[Interval]:
    """Averages shares [head, fact, role] over facts, for each head."""
    return [bootstrap_ratio(shares, np.ones(len(shares)), seed=seed) for shares in values.numpy()]


def _best(seen: Sequence[RelationHeads]) -> list[Head]:
    """Selects the strongest heads of each part: the first of every part, then the second, ..."""
    # a head can be strong in several buckets and parts: four times as many leave enough
    ranked = [[head for _, head in strongest(heads, 4 * N_STRONGEST)] for heads in seen]
    in_turn = [head for heads_of_rank in zip(*ranked, strict=False) for head in heads_of_rank]
    return sorted(list(dict.fromkeys(in_turn))[:N_STRONGEST])


def _traced(facts: Sequence[Fact], traces: Mapping[str, Sequence[FactTrace]]) -> list[Fact]:
    """The facts that were traced, in the traced wordings and with the rivals of the traces."""
    rivals = {(trace.relation, trace.prompt, trace.object): "" if trace.whole else trace.rival
              for part_traces in traces.values() for trace in part_traces}  # fmt: skip
    found = {}
    for fact in facts:
        key = (fact.relation.id, fact.prompt, fact.object)
        if key in rivals:
            found[fact_key(fact)] = replace(fact, rival=rivals[key])
    return list(found.values())
