"""Finds a relation's neurons and heads by attribution, and tests them by scaling the neurons."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from experiments import _options as options
from experiments._command import command, open_run
from experiments._loading import loaded
from experiments._printing import say, say_skipped, show
from kedit.data.choose import facts_source, usable_facts
from kedit.data.enough import FEWEST_TO_SEARCH, require_facts_of_a_relation


@dataclass(frozen=True)
class Config:
    """Which facts of which relations are searched, and what counts as their neurons."""

    model: str = options.model()
    facts: str = options.facts()
    n_relations: int = 10
    """The number of relations, among those with enough facts that the model knows; 0: all."""
    facts_per_relation: int = 8
    """The most facts per relation, at least 4; 0: all facts."""
    wordings: int = 3
    """The wordings per fact (all, if it has fewer). The model must answer each of them right."""
    halves: list[str] = field(default_factory=lambda: ["mlp", "attn"])
    """What is searched: mlp (neurons, the key of W_out), attn (the numbers of all heads' z)."""
    gradient_steps: int = 20
    """The number of steps of the integrated gradients (20 in Dai et al. 2022)."""
    threshold: float = 0.2
    """A neuron counts for a wording if its attribution is above this share of the largest one (0.2
    in Dai et al.)."""
    agree_wordings: float = 0.5
    """A neuron counts for a fact if it counts for more than this share of the wordings. Dai et al.
    start at 0.7 and lower it until a fact has 2 to 5 neurons; of 3 wordings 0.7 means all."""
    agree_facts: float = 0.4
    """A neuron counts for a relation if it counts for more than this share of its facts. 0.4 means
    4 of 8 facts, and 2 of the 4 that are searched to test the other 4; with
    --facts-per-relation 4 only 1 of 2."""
    controls: int = 5
    """The number of random draws of the same number of neurons, for each tested fact."""
    seed: int = options.seed(
        "the choice of relations and facts, the random neurons, and the bootstrap"
    )
    device: str = options.device()
    dtype: str = options.dtype()
    out: str = options.out("find_neurons")


def run(config: Config) -> Path:
    """Finds and scales neurons, draws and prints; finished facts in the folder are used again."""
    from figures import neurons, scaling
    from figures.style import save
    from kedit.tables import csv_text
    from probes.studies.neurons import find_neurons

    config = replace(config, facts=facts_source(config.facts, config.model))
    facts, skipped = usable_facts(config.facts)
    say_skipped(config.facts, skipped, len(facts))
    require_facts_of_a_relation(facts, FEWEST_TO_SEARCH, config.facts_per_relation)
    with open_run("find_neurons", config) as folder:
        folder.write("README.txt", _EXPLAINED)
        folder.write_json("skipped.json", skipped)
        found = find_neurons(
            loaded(config, folder), facts,
            n_relations=config.n_relations, facts_per_relation=config.facts_per_relation,
            wordings=config.wordings, gradient_steps=config.gradient_steps,
            halves=config.halves,  # pyright: ignore[reportArgumentType]  # checked by `command`
            threshold=config.threshold, agree_wordings=config.agree_wordings,
            agree_facts=config.agree_facts, controls=config.controls, seed=config.seed,
            journal=folder,
        )  # fmt: skip
        found.save(folder)
        folder.write("effects.csv", csv_text(found.effect_rows()))
        save(neurons.layers(found), folder.path, "layers")
        save(neurons.relations(found), folder.path, "relations")
        save(scaling.sharing(found), folder.path, "sharing")
        save(scaling.scaled(found), folder.path, "scaling")
        if "attn" in found.halves:
            save(neurons.heads(found), folder.path, "heads")
        show(found.table())
        show(found.half_table())
        show(found.scaling_table())
        left_out = found.left_out
        say(
            f"Left out: {left_out.wrong} facts that the model gets wrong in too many wordings, "
            f"{left_out.unusable} facts that could not be used (records.jsonl gives the reasons), "
            f"and {len(left_out.relations)} relations with too few other facts."
        )
        say(f"Everything is in {folder.path}")
    return folder.path


_EXPLAINED = """\
records.jsonl   up to three lines for each fact: the wordings that the model answers right, or why
                the fact is left out; its neurons; what scaling neurons does to its answer
tensors/        positive attributions of each fact, summed by layer (MLP) and by head (attention)
neurons.json    all numbers by relation, layer and head; 95 % bootstrap intervals over relations
neurons.csv     every neuron of every relation: half, layer, index, head
effects.csv     effects of scaling: neurons of the relation, of other relations, and two controls
*.png, *.pdf    the figures

Attribution: integrated gradients of the probability of the answer's first token over the key of one
site at the prompt's last token; this site alone is scaled, from zero. The sum over one site is the
effect of that site. Sums over several sites count shared paths more than once.

The facts of a relation are split in two halves. The neurons that are scaled for a fact were found
on the other half. "loudest": the same number of other neurons at the same sites, those that write
most.
"""


if __name__ == "__main__":
    command(Config, run)
