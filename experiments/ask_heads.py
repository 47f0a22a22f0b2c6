"""Shows what a relation's heads do: direct effects, ablation, knockout, paths and decoding.

The heads are chosen on some facts and examined on others.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from experiments import _options as options
from experiments._command import command, open_run
from experiments._loading import loaded
from experiments._printing import say, say_skipped, show
from kedit.data.choose import facts_source, of_relations, usable_facts
from kedit.data.enough import require_facts_to_ask
from kedit.heads import Head


@dataclass(frozen=True)
class Config:
    """Which heads are examined, and on which facts."""

    model: str = options.model()
    facts: str = options.facts()
    relations: str = options.relations("12")
    heads: str = ""
    """Names of heads such as L11H2, comma-separated. Empty: those with the largest effects by
    attribution."""
    n_heads: int = 6
    """The number of heads that are chosen if --heads is empty."""
    choose: int = 24
    """The number of facts on which heads are chosen; the heads are examined on other facts."""
    limit: int = 48
    """The number of facts on which the heads are examined."""
    corrupt: Literal["relation", "subject"] = "relation"
    """Whose words are replaced in the corrupted run."""
    window: int = 5
    """The number of adjacent layers in which attention edges are cut together."""
    decoded: int = 240
    """The number of facts whose relation is decoded, whether the model answers them or not; 0: no
    decoding."""
    metric: Literal["prob", "logprob", "logit_diff"] = options.metric()
    seed: int = options.seed(
        "the choice of facts, replacements and random heads, the linear probes, and the bootstrap"
    )
    device: str = options.device()
    dtype: str = options.dtype()
    out: str = options.out("ask_heads")


def run(config: Config) -> Path:
    """Examines heads, draws and prints; finished facts in the run's folder are used again."""
    from figures import questions
    from figures.style import save
    from kedit.tables import csv_text
    from probes.studies.heads import ask_heads

    config = replace(config, facts=facts_source(config.facts, config.model))
    pool, skipped = usable_facts(config.facts)
    say_skipped(config.facts, skipped, len(pool))
    facts = of_relations(pool, config.relations)
    require_facts_to_ask(facts, config.choose)
    heads = [Head.named(name) for name in config.heads.split(",")] if config.heads else None
    with open_run("ask_heads", config, ("metric",)) as folder:
        folder.write("README.txt", _EXPLAINED)
        folder.write_json("skipped.json", skipped)
        found = ask_heads(
            loaded(config, folder), facts, heads, pool=pool, choose=config.choose,
            n_heads=config.n_heads, limit=config.limit, corrupt=config.corrupt,
            window=config.window, decoded=config.decoded, metric=config.metric, seed=config.seed,
            journal=folder,
        )  # fmt: skip
        found.save(folder)
        folder.write("ov.csv", csv_text(found.ov_rows()))
        folder.write("knockout.csv", csv_text(found.knockout_rows()))
        folder.write("paths.csv", csv_text(found.path_rows()))
        save(questions.answers(found), folder.path, "heads")
        save(questions.knockouts(found), folder.path, "knockout")
        save(questions.paths(found), folder.path, "paths")
        if found.decoded:
            folder.write("decoding.csv", csv_text(found.decoding_rows()))
            save(questions.decoding(found), folder.path, "decoding")
        show(found.table())
        say(f"Everything is in {folder.path}")
    return folder.path


_EXPLAINED = """\
records.jsonl   a line for each fact on which heads were chosen or examined, or the reason why it
                could not be used; and the decoded relations
heads.json      all answers, fact by fact; kedit reads the result back from it
heads.csv       the answers for each head: means over facts with 95 % bootstrap intervals
ov.csv          for each fact, what each head would write if it attended to the subject alone
knockout.csv    the relative change of the answer with attention edges cut, by layer
paths.csv       the effect of a head through single paths: to the q, k or v of another head, to an
                MLP, or to the logits
decoding.csv    how well the relation can be decoded at each layer, and the same for a control task
*.png, *.pdf    the figures

direct: what the head itself adds to logit(answer) - logit(foil), with norms frozen. OV rank: the
rank of the answer among all tokens if the head attended to the subject's last token alone.
ablated: the change of the score if the head's output is replaced by its mean over the prompts of
other facts ("mean"), or by its output on the corrupted prompt ("resample"). "together": all heads
at once. "random": the same number of other heads, drawn for each fact.
"""


if __name__ == "__main__":
    command(Config, run)
