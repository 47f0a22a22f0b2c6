"""What do a relation's heads do? They are asked, on other facts than they were chosen on."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from experiments import _options as options
from experiments._command import command, loaded, open_run
from experiments._printing import say, say_skipped, show
from kedit.data.choose import facts_source, of_relations, usable_facts
from kedit.data.enough import require_facts_to_ask
from kedit.heads import Head


@dataclass(frozen=True)
class Config:
    """Which heads, and on which facts they are asked."""

    model: str = options.model()
    facts: str = options.facts()
    relations: str = "12"
    """Only facts of these: ids or names, separated by commas; or of so many, those that have the
    most subjects."""
    heads: str = ""
    """Names as L11H2, separated by commas; none: those with the largest effects by attribution."""
    n_heads: int = 6
    """How many are chosen, if none are named."""
    choose: int = 24
    """Facts that they are chosen on; none of these is asked about."""
    limit: int = 48
    """Facts that are asked about."""
    corrupt: Literal["relation", "subject"] = "relation"
    """Whose words are replaced by others in corrupted runs."""
    window: int = 5
    """Layers in which attention edges are cut together."""
    decoded: int = 240
    """Facts (whether the model answers them or not) whose relation is decoded; 0 for none."""
    metric: Literal["prob", "logprob", "logit_diff"] = "prob"
    """Which score tables and figures show; all three are measured."""
    seed: int = options.seed(
        "the choice of facts, replacements, random heads, probes and the bootstrap"
    )
    device: str = options.device()
    dtype: str = options.dtype()
    out: str = options.out("ask_heads")


def run(config: Config) -> Path:
    """Asks heads into a folder; no fact is asked about again."""
    from figures import questions
    from figures.style import save
    from kedit.tables import csv_text
    from probes.studies.heads import ask_heads

    config = replace(config, facts=facts_source(config.facts, config.model))
    pool, skipped = usable_facts(config.facts)
    say_skipped(config.facts, skipped)
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
records.jsonl   a line for each fact that heads were chosen on, and for each that they were asked
                about, or why it could not be used; and what was decoded
heads.json      all answers, fact by fact, from which kedit has the result back
heads.csv       each head's answers: means over facts with 95 % bootstrap intervals
ov.csv          what each head would write, fact by fact, were it to read the subject alone
knockout.csv    the answer's relative change with attention edges cut, by layer
paths.csv       what goes from a head straight to another's q, k or v, to an MLP, to the logits
decoding.csv    where the relation can be decoded, and how well the control task can
*.png, *.pdf    the figures

direct: what the head itself adds to logit(answer) - logit(foil), norms frozen. OV rank: of the
answer among all tokens, were the head to read the subject's last token alone. ablated: change of
the score with the head's output replaced by its mean over other facts' prompts ("mean"), or by
what it is on the corrupted prompt ("resample"). "together": all the heads at once; "random": as
many others, drawn anew for each fact.
"""


if __name__ == "__main__":
    command(Config, run)
