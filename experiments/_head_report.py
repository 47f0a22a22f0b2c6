"""From head traces to: heads by relation, whether relations share them, where they look."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from experiments._facts import fact_key, usable_facts
from experiments._run import RunFolder, console
from experiments._tables import listed, plain_table, write_rows
from experiments._trace import Config, corruption_in_words
from kedit.progress import progress

if TYPE_CHECKING:
    from torch import Tensor

    from kedit.facts import Fact
    from kedit.heads import Head
    from kedit.results.heads import Looks, RelationHeads, Sharing
    from kedit.results.traces import FactTrace
    from kedit.stats import Interval

LOOKED_AT = 8  # of the strongest heads, for a figure that is still read at a glance


def finish(config: Config, folder: RunFolder, traces: "Mapping[str, Sequence[FactTrace]]") -> None:
    """heads.csv, sharing.json, looks.csv, the figures and the table; nothing without "z"."""
    from figures.relations import clusters, looks
    from figures.style import Study, save
    from kedit.errors import InputError
    from probes.sharing import by_relation, sharing

    facts, _ = usable_facts(config.facts)
    names = {fact.relation.id: fact.relation.name for fact in facts}
    told, rows, seen = [], [], []
    for part, done in traces.items():
        if not done or "z" not in done[0].grids:
            continue
        try:
            heads = by_relation(done, names, config.metric, config.seed)
            shared = sharing(done, config.metric, seed=config.seed)
        except InputError as error:
            console().print(f"{part} corrupted: heads are not compared by relation: {error}")
            continue
        study = Study(shared.n_facts, f"the {part}'s {corruption_in_words(config)}", config.metric,
                      config.seed, config.model)  # fmt: skip
        save(clusters(heads, shared, study), folder.path, f"{part}-relations")
        told.append(shared)
        rows += _rows(heads)
        seen.append(heads)
    if not seen:
        return
    write_rows(folder.path / "heads.csv", rows)
    folder.write_json("sharing.json", [listed(vars(one)) for one in told])
    looked = looks_of(config, _best(seen), _facts(facts, traces))
    write_rows(folder.path / "looks.csv", list(_look_rows(looked)))
    study = Study(looked[0].n_facts, "", config.metric, config.seed, config.model)
    save(looks(looked, study), folder.path, "looks")
    console().print(_table(told))


def looks_of(config: Config, heads: "Sequence[Head]", facts: "Sequence[Fact]") -> "list[Looks]":
    """Where `heads` look from the last token of the facts' prompts."""
    from kedit.models.load import load
    from kedit.models.prompts import ROLES, encode
    from kedit.results.heads import Looks
    from probes.attention import attention_to_roles, weighted_attention_to_roles

    layers, columns = [head.layer for head in heads], [head.head for head in heads]
    shares, moved = [], []
    with progress("facts") as bars:
        bar = bars.add_task("attention", total=len(facts))
        model = load(config.model, config.device, config.dtype)
        for fact in facts:
            prompt = encode(model, fact)
            shares.append(attention_to_roles(model, prompt)[layers, columns])
            moved.append(weighted_attention_to_roles(model, prompt)[layers, columns])
            bars.advance(bar)
    looked, carried = (_by_head(kept, config.seed) for kept in (shares, moved))
    return [
        Looks(head, ROLES, share, own, len(facts))
        for head, share, own in zip(heads, looked, carried, strict=True)
    ]


def _by_head(kept: "Sequence[Tensor]", seed: int) -> "list[Interval]":
    """Of shares by fact, head and role: each head's mean over facts."""
    import numpy as np

    from kedit.stats import bootstrap_ratio

    values = np.stack([one.cpu().numpy() for one in kept], axis=1)
    return [bootstrap_ratio(own, np.ones(len(own)), seed=seed) for own in values]


def _best(seen: "Sequence[RelationHeads]") -> "list[Head]":
    """The strongest heads of every part, in turn, each once."""
    from probes.sharing import strongest

    ranked = [[head for _, head in strongest(heads, 4 * LOOKED_AT)] for heads in seen]
    in_turn = [head for several in zip(*ranked, strict=False) for head in several]
    return sorted(list(dict.fromkeys(in_turn))[:LOOKED_AT])


def _facts(facts: "Sequence[Fact]", traces: "Mapping[str, Sequence[FactTrace]]") -> "list[Fact]":
    """The facts that were traced, in their wordings and up to the token that was traced."""
    rivals = {(trace.relation, trace.prompt, trace.object): "" if trace.whole else trace.rival
              for done in traces.values() for trace in done}  # fmt: skip
    found = {}
    for fact in facts:
        key = (fact.relation.id, fact.prompt, fact.object)
        if key in rivals:
            found[fact_key(fact)] = replace(fact, rival=rivals[key])
    return list(found.values())


def _rows(heads: "RelationHeads") -> Iterator[dict[str, Any]]:
    """A line for each relation, bucket and head."""
    import numpy as np

    from kedit.heads import Head

    for place in np.ndindex(heads.mean.shape):
        relation, bucket, layer, head = place
        yield {
            "corrupted": heads.part,
            "relation": heads.relations[relation],
            "facts": heads.n_facts[relation],
            "bucket": heads.buckets[bucket],
            "head": str(Head(layer, head)),
            "effect": float(heads.mean[place]),
            "low": float(heads.low[place]),
            "high": float(heads.high[place]),
        }


def _look_rows(looked: "Sequence[Looks]") -> Iterator[dict[str, Any]]:
    for one in looked:
        for column, role in enumerate(one.roles):
            numbers = {
                f"{name}{bound}": float(values[column])
                for name, interval in (("attention", one.share), ("moved", one.moved))
                for bound, values in zip(("", " low", " high"), interval, strict=True)
            }
            yield {"head": str(one.head), "to": role, "facts": one.n_facts, **numbers}


def _table(told: "Sequence[Sharing]"):
    from figures.style import estimate

    table = plain_table(
        "Do relations share heads? Correlations of single facts' maps of head effects",
        "shared: between / within; 1 if all relations have the same heads. 95 % bootstrap "
        "intervals over relations; p: facts permuted among relations.",
        ("corrupted", "relations", "facts", "within", "between", "shared", "p"),
    )
    for one in told:
        numbers = [
            estimate(*interval.floats()) for interval in (one.within, one.between, one.shared)
        ]
        table.add_row(one.part, str(one.n_relations), str(one.n_facts), *numbers, f"{one.p:.2g}")
    return table
