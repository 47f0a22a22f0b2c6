"""Where do a relation's neurons and heads sit, and do they do what attribution says?"""

from dataclasses import dataclass, field, replace
from pathlib import Path

from experiments import _options as options
from experiments._command import command, loaded, open_run
from experiments._printing import say, say_skipped, show
from kedit.data.choose import facts_source, usable_facts
from kedit.data.enough import FEWEST_TO_SEARCH, require_facts_of_a_relation


@dataclass(frozen=True)
class Config:
    """Which facts of which relations, and what counts as their neurons."""

    model: str = options.model()
    facts: str = options.facts()
    n_relations: int = 10
    """How many relations, of those of which the model knows enough facts; 0 for all."""
    facts_per_relation: int = 8
    """At most so many facts a relation, and at least four; 0 for all."""
    wordings: int = 3
    """Every fact is asked in so many wordings, all answered right (in all it has, if fewer)."""
    halves: list[str] = field(default_factory=lambda: ["mlp", "attn"])
    """Any of mlp (neurons of W_out's key) and attn (numbers of all heads' z)."""
    gradient_steps: int = 20
    """Of the integrated gradients, as Dai et al. 2022."""
    threshold: float = 0.2
    """A neuron of a wording brings more than this share of what its strongest one does (theirs)."""
    agree_wordings: float = 0.5
    """A neuron of a fact is one in more than this share of its wordings (theirs: 0.7 and less, so
    that a fact has 2 to 5; of three wordings that is all)."""
    agree_facts: float = 0.4
    """A neuron of a relation is one in more than this share of its facts (0.4: 4 of 8, and 2 of
    the 4 that are searched for the other 4; with --facts-per-relation 4 only 1 of 2)."""
    controls: int = 5
    """Draws of as many random neurons, for each fact that is tested."""
    seed: int = options.seed(
        "the choice of relations and facts, of random neurons, and of the bootstrap"
    )
    device: str = options.device()
    dtype: str = options.dtype()
    out: str = options.out("find_neurons")


def run(config: Config) -> Path:
    """Finds neurons into a folder; what is already in it is not done again."""
    from figures import neurons, scaling
    from figures.style import save
    from kedit.tables import csv_text
    from probes.studies.neurons import find_neurons

    config = replace(config, facts=facts_source(config.facts, config.model))
    facts, skipped = usable_facts(config.facts)
    say_skipped(config.facts, skipped)
    require_facts_of_a_relation(facts, FEWEST_TO_SEARCH, config.facts_per_relation)
    with open_run("find_neurons", config) as folder:
        folder.write("README.txt", _EXPLAINED)
        folder.write_json("skipped.json", skipped)
        found = find_neurons(
            loaded(config, folder), facts,
            n_relations=config.n_relations, facts_per_relation=config.facts_per_relation,
            wordings=config.wordings, gradient_steps=config.gradient_steps,
            halves=config.halves,  # pyright: ignore[reportArgumentType]  # looked at before
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
            f"{left_out.wrong} facts that the model answers otherwise in too many wordings and "
            f"{left_out.unusable} that could not be used are left out (records.jsonl says why); "
            f"{len(left_out.relations)} relations had too few others."
        )
        say(f"Everything is in {folder.path}")
    return folder.path


_EXPLAINED = """\
records.jsonl   a line for each fact as it is asked: the wordings that the model answers right, or
                why it was left out; one as it is searched: its neurons; one as it is tested: what
                scaling neurons does to its answer
tensors/        positive attributions of each fact, summed by layer (MLP) and by head (attention)
neurons.json    all numbers by relation, layer and head; 95 % bootstrap intervals over relations
neurons.csv     every neuron of every relation: half, layer, index, head
effects.csv     what scaling does: own neurons, those of other relations, and two controls
*.png, *.pdf    the figures

Attribution: integrated gradients of the probability of the answer's first token over one site's key
at the prompt's last token, the site scaled alone from zero. So the sum over one site is what that
site brings; sums over sites count shared paths more than once and need not add up to anything.

A relation's facts are split in two; the neurons that are scaled under a fact were found on the
other part's facts. "loudest" are as many other neurons at the same sites that write most there.
"""


if __name__ == "__main__":
    command(Config, run)
