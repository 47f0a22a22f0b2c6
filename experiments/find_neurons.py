"""Where do a relation's neurons and heads sit, and do they do what attribution says?"""

from dataclasses import dataclass, field
from pathlib import Path

from experiments._neurons import HALVES
from experiments._run import command, open_run


@dataclass(frozen=True)
class Config:
    """Which facts of which relations, and what counts as their neurons."""

    model: str = "gemma-3-270m"
    """gemma-3-270m, toy, a name TransformerLens knows, a Hugging Face folder, or a .gguf file."""
    facts: str = "auto"
    """builtin, toy, or a file: facts of your own (JSON Lines, CSV), known_1000.json, CounterFact, a
    relation file of evandez/relations ... (auto: the toy's own for the toy, else builtin)."""
    relations: int = 10
    """How many relations, of those of which the model knows enough facts; 0 for all."""
    limit: int = 8
    """At most so many facts a relation, and at least four; 0 for all."""
    wordings: int = 3
    """Every fact is asked in so many wordings, all answered right (in all it has, if fewer)."""
    halves: list[str] = field(default_factory=lambda: list(HALVES))
    """Any of mlp (neurons of W_out's key) and attn (numbers of all heads' z)."""
    steps: int = 20
    """Of the integrated gradients, as Dai et al. 2022."""
    threshold: float = 0.2
    """A neuron of a wording brings more than this share of what its strongest one does (theirs)."""
    agree_wordings: float = 0.5
    """A neuron of a fact is one in more than this share of its wordings (theirs: 0.7 and less, so
    that a fact has 2 to 5; of three wordings that is all)."""
    agree_facts: float = 0.4
    """A neuron of a relation is one in more than this share of its facts (0.4: 4 of 8, and 2 of
    the 4 that are searched for the other 4; with --limit 4 only 1 of 2)."""
    controls: int = 5
    """Draws of as many random neurons, for each fact that is tested."""
    seed: int = 0
    """Of the choice of relations and facts, of random neurons, and of the bootstrap."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""
    dtype: str = "float32"
    """Of the weights; on CUDA also bfloat16 or float16."""
    out: str = ""
    """The run's folder (default: results/find_neurons/MODEL-HASH)."""


def run(config: Config) -> Path:
    """Searches, tests, draws and prints; what is already in the run's folder is not done again."""
    from experiments._enough import require_facts_of_a_relation
    from experiments._facts import say_skipped, spread_out, usable_facts
    from experiments._neuron_report import finish
    from experiments._neurons import FEWEST, scale_relations, search_relations, settled

    config = settled(config)
    facts, skipped = usable_facts(config.facts)
    say_skipped(config.facts, skipped)
    require_facts_of_a_relation(spread_out(facts, config.seed), FEWEST)
    with open_run("find_neurons", config) as folder:
        folder.path.joinpath("README.txt").write_text(_EXPLAINED, encoding="utf-8")
        folder.write_json("skipped.json", skipped)
        model = folder.load(config)
        searched, left_out = search_relations(config, folder, model, facts)
        scaled = scale_relations(config, folder, model, searched)
        finish(config, folder, model, searched, left_out, scaled)
    return folder.path


_EXPLAINED = """\
records.jsonl   a line for each fact as it is searched: its wordings and its neurons, or why it was
                left out; and one as it is tested: what scaling neurons does to its answer
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
