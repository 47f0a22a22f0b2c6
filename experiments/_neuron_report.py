"""From searched and scaled facts to numbers by relation, layer and head; figures and files."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from experiments._neuron_tables import print_tables
from experiments._neurons import WHOSE, Searched, searched_halves
from experiments._run import RunFolder
from experiments._tables import listed, write_rows
from experiments._trace import UNUSABLE, WRONG

if TYPE_CHECKING:
    import numpy as np
    from transformer_lens import HookedTransformer

    from experiments.find_neurons import Config
    from figures.neurons import ByLayer
    from kedit.editing.write_sites import Half
    from kedit.results.neurons import Change
    from kedit.stats import Interval
    from probes.neurons import RelationNeurons, Sharing
    from probes.scaling import Effect


@dataclass(frozen=True)
class Findings:
    """All that is told of a run; intervals are over relations.

    Args:
        relations: by id.
        halves: what each half holds, by layer.
        attention: its share of the positive attributions, layer by layer, and of all at last;
            empty if one half was not searched.
        sharing: of each half, and of "both".
        changes: what scaling did, in the order of halves, whose neurons, and factors.
        n_facts: of all relations.
    """

    relations: "Mapping[str, RelationNeurons]"
    halves: "Mapping[Half, ByLayer]"
    attention: "Sequence[Interval]"
    sharing: "Mapping[str, Sharing]"
    changes: "Sequence[Change]"
    n_facts: int


def finish(
    config: "Config",
    folder: RunFolder,
    model: "HookedTransformer",
    searched: Mapping[str, Sequence[Searched]],
    left_out: Sequence[str],
    scaled: "Mapping[str, Sequence[Sequence[Effect]]]",
) -> None:
    """Numbers and figures into the folder; tables and the folder's name to the screen."""
    findings = summed_up(config, model, searched, scaled)
    reasons = Counter(record["why"] for record in folder.records.values() if "skipped" in record)
    counted = {
        "relations": len(searched),
        "facts": findings.n_facts,
        "prompts": sum(len(one.worded) for each in searched.values() for one in each),
        "facts answered wrong": reasons[WRONG],
        "facts not usable": reasons[UNUSABLE],
        "relations left out": left_out,
    }
    folder.write_json("neurons.json", {"counted": counted, **_record(findings)})
    write_rows(folder.path / "neurons.csv", list(_neuron_rows(findings, model.cfg.d_head)))
    write_rows(folder.path / "effects.csv", [_change_row(one) for one in findings.changes])
    _draw(config, folder, findings)
    print_tables(config, findings, counted, folder.path)


def summed_up(
    config: "Config",
    model: "HookedTransformer",
    searched: Mapping[str, Sequence[Searched]],
    scaled: "Mapping[str, Sequence[Sequence[Effect]]]",
) -> Findings:
    from probes.neurons import attention_share, gathered, of_half, sharing
    from probes.scaling import averaged

    relations = {
        relation: gathered(
            model,
            each[0].worded[0].relation.name,
            [one.found for one in each],
            config.agree_facts,
        )
        for relation, each in searched.items()
    }
    halves, every = searched_halves(config), list(relations.values())
    attention = attention_share(every, config.seed) if len(halves) == 2 else ()
    sets = [[one.found.neurons for one in each] for each in searched.values()]
    parts: dict[str, Any] = {
        half: [[of_half(fact, half) for fact in facts] for facts in sets] for half in halves
    }
    if len(halves) == 2:
        parts["both"] = sets
    changes = [one for one in averaged(list(scaled.values()), config.seed) if one.half in parts]
    blocks = ["both", *halves]
    return Findings(
        relations=relations,
        halves={half: _by_layer(every, half, attention, config.seed) for half in halves},
        attention=attention,
        sharing={half: sharing(own, config.seed) for half, own in parts.items()},
        changes=sorted(
            changes,
            key=lambda one: (blocks.index(one.half), WHOSE.index(one.neurons), one.factor),
        ),
        n_facts=sum(map(len, searched.values())),
    )


def _by_layer(
    relations: "Sequence[RelationNeurons]", half: "Half", attention: "Sequence[Interval]", seed: int
) -> "ByLayer":
    import numpy as np

    from figures.neurons import ByLayer
    from kedit.stats import Interval, bootstrap_ratio

    def mean(values: "np.ndarray") -> Interval:
        return bootstrap_ratio(values.astype(float), np.ones(len(values)), seed=seed)

    counts, mass = (
        np.stack([getattr(one, name)[half].sum(1) for one in relations])
        for name in ("counts", "mass")
    )
    share = attention[-1] if attention else None
    if share and half == "mlp":
        share = Interval(1 - share.mean, 1 - share.high, 1 - share.low)
    return ByLayer(mean(counts), mean(counts.sum(1)), mean(mass), share)


def _draw(config: "Config", folder: RunFolder, findings: Findings) -> None:
    """Every figure, as PNG and PDF."""
    import numpy as np

    from figures import neurons, scaling
    from figures.style import save

    relations = list(findings.relations.values())
    sample = neurons.Sample(config.model, len(relations), findings.n_facts, config.seed)
    counts: dict[Half, np.ndarray] = {
        half: np.stack([one.counts[half] for one in relations]) for half in findings.halves
    }
    shares = None
    if "attn" in counts:
        shares = np.stack([one.head_shares for one in relations])
        save(neurons.heads(counts["attn"], sample), folder.path, "heads")
    save(neurons.layers(findings.halves, sample), folder.path, "layers")
    by_layer: dict[Half, np.ndarray] = {half: each.sum(2) for half, each in counts.items()}
    names = [one.name for one in relations]
    save(neurons.relations(names, by_layer, shares, sample), folder.path, "relations")
    rows: dict[Half, dict[str, Interval]] = {
        half: {
            "neurons of a fact": found.own,
            "shared by two facts\nof one relation": found.within,
            "shared by two facts\nof two relations": found.between,
        }
        for half in findings.halves
        for found in [findings.sharing[half]]
    }
    save(scaling.sharing(rows, sample), folder.path, "sharing")
    save(scaling.scaled(findings.changes, sample), folder.path, "scaling")


def _record(findings: Findings) -> dict[str, Any]:
    """For JSON; arrays are by layer, or by layer and head (one column for an MLP)."""
    return {
        "halves": {
            half: {
                name: listed(value._asdict())
                for name, value in found._asdict().items()
                if value is not None
            }
            for half, found in findings.halves.items()
        },
        "attention's share by layer": [listed(one._asdict()) for one in findings.attention[:-1]],
        "sharing": {
            half: {name: listed(value._asdict()) for name, value in found._asdict().items()}
            for half, found in findings.sharing.items()
        },
        "changes": [_change_row(one) for one in findings.changes],
        "by relation": {
            relation: {
                "name": one.name,
                "facts": one.n_facts,
                "neurons": {half: counts.tolist() for half, counts in one.counts.items()},
                "positive attribution": {half: mass.tolist() for half, mass in one.mass.items()},
            }
            for relation, one in findings.relations.items()
        },
    }


def _change_row(one: "Change") -> dict[str, Any]:
    intervals = {
        column: value
        for name in ("clean", "prob", "relative", "logprob")
        for column, value in getattr(one, name).named(name).items()
    }
    return {
        "neurons": one.neurons, "half": one.half, "factor": one.factor, "n_facts": one.n_facts,
        "n_neurons": one.n_neurons, **intervals,
    }  # fmt: skip


def _neuron_rows(findings: Findings, d_head: int) -> Iterator[dict[str, Any]]:
    """Every neuron of every relation; those of z with their head."""
    for relation, one in findings.relations.items():
        for neuron in sorted(one.neurons, key=lambda own: (own.site, own.index)):
            head = neuron.index // d_head if neuron.site.half == "attn" else ""
            yield {
                "relation": relation, "name": one.name, "half": neuron.site.half,
                "layer": neuron.site.layer, "index": neuron.index, "head": head,
            }  # fmt: skip
