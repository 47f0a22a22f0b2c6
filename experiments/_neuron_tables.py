"""What find_neurons prints: relation by relation, both halves side by side, what scaling does."""

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments._run import console
from experiments._tables import percent, plain_table

if TYPE_CHECKING:
    from rich.table import Table

    from experiments._neuron_report import Findings
    from experiments.find_neurons import Config
    from probes.neurons import RelationNeurons

HALF_NAMES = {"mlp": "MLP", "attn": "attention", "both": "both"}
NAMED = 3  # layers and heads of a relation


def print_tables(
    config: "Config", findings: "Findings", counted: Mapping[str, Any], path: Path
) -> None:
    screen = console()
    screen.print(_by_relation(config, findings))
    screen.print(_by_half(config, findings))
    screen.print(_scaled(config, findings))
    screen.print(
        f"{counted['facts answered wrong']} facts that the model answers otherwise in too many "
        f"wordings and {counted['facts not usable']} that could not be used are left out "
        f"(records.jsonl says why); {len(counted['relations left out'])} relations had too few "
        f"others.\nEverything is in {path}"
    )


def _by_relation(config: "Config", findings: "Findings") -> "Table":
    from figures.style import plural

    halves = list(findings.halves)
    table = plain_table(
        f"Neurons of {plural(len(findings.relations), 'relation')}: {config.model}",
        f"Of a relation: the neurons of more than {100 * config.agree_facts:.0f} % of its facts. "
        "Layers: those with most of them. Heads: those with most of the positive attribution of "
        "all sites (each an integral along its own key alone).",
        ("relation", "facts", *(HALF_NAMES[half] for half in halves), "layers", "heads"),
    )
    for one in findings.relations.values():
        totals = [str(int(one.counts[half].sum())) for half in halves]
        heads = _heads(one) if "attn" in halves else ""
        table.add_row(one.name[:24], str(one.n_facts), *totals, _layers(one), heads)
    return table


def _layers(one: "RelationNeurons") -> str:
    counts = sum(part.sum(1) for part in one.counts.values())
    ordered = sorted(enumerate(counts.tolist()), key=lambda place: -place[1])  # pyright: ignore
    return ", ".join(f"L{layer} ({n})" for layer, n in ordered[:NAMED] if n)


def _heads(one: "RelationNeurons") -> str:
    from figures.neurons import strongest

    shares = one.head_shares
    return ", ".join(
        f"L{layer}H{head} {100 * shares[layer, head]:.1f} %"
        for layer, head in strongest(shares)[:NAMED]
    )


def _by_half(config: "Config", findings: "Findings") -> "Table":
    from figures.style import estimate

    table = plain_table(
        "MLP and attention",
        f"Means{_spread(config, findings)}; shared: with "
        "another fact, over pairs of facts. Attribution: the sites' sums, which need not add up "
        "across sites.",
        ("", *(HALF_NAMES[half] for half in findings.sharing)),
    )
    sharing = findings.sharing.values()
    total = [estimate(*one.total.floats()) for one in findings.halves.values()]
    table.add_row("neurons of a relation", *total)
    table.add_row("neurons of a fact", *(estimate(*one.own.floats()) for one in sharing))
    table.add_row("  shared in its relation", *(estimate(*one.within.floats()) for one in sharing))
    table.add_row("  shared outside of it", *(estimate(*one.between.floats()) for one in sharing))
    if findings.attention:
        shares = [one.share for one in findings.halves.values() if one.share]
        table.add_row("share of attribution (%)", *(estimate(*one.floats(100)) for one in shares))
    return table


def _scaled(config: "Config", findings: "Findings") -> "Table":
    from figures.scaling import asked_most
    from figures.style import estimate

    clean = percent(asked_most(findings.changes).clean) if findings.changes else "-"
    table = plain_table(
        f"Scaling neurons at the last token: how the answer's probability changes from {clean} %",
        "In percentage points, and its logarithm in nats: means over facts"
        f"{_spread(config, findings)}. n: neurons scaled. They were found on "
        "other facts of their relation; loudest and random: as many others at the same sites, "
        "those that write most there, and any. effects.csv has it in percent, too.",
        ("half", "neurons", "n", "facts", "× 0: points", "nats", "× 2: points", "nats"),
    )
    for (half, whose), own in groupby(findings.changes, key=lambda one: (one.half, one.neurons)):
        pair = list(own)
        cells = [
            text for one in pair for text in (percent(one.prob), estimate(*one.logprob.floats()))
        ]
        n = f"{pair[0].n_neurons:.0f}"
        table.add_row(HALF_NAMES[half], whose, n, str(pair[0].n_facts), *cells)
    return table


def _spread(config: "Config", findings: "Findings") -> str:
    if len(findings.relations) < 2:
        return " (one relation, so no intervals)"
    return f" with 95 % bootstrap intervals over relations (seed {config.seed})"
