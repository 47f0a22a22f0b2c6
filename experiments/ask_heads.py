"""What do a relation's heads do? They are asked, on other facts than they were chosen on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from experiments._run import command, open_run


@dataclass(frozen=True)
class Config:
    """Which heads, and on which facts they are asked."""

    model: str = "gemma-3-270m"
    """gemma-3-270m, toy, a name TransformerLens knows, a Hugging Face folder, or a .gguf file."""
    facts: str = "auto"
    """builtin, toy, or a file: known_1000.json, CounterFact, or JSON Lines of your own (auto:
    the toy's own for the toy, else builtin)."""
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
    seed: int = 0
    """Of the choice of facts, replacements, random heads, probes and the bootstrap."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""
    dtype: str = "float32"
    """Of the weights; on CUDA also bfloat16 or float16."""
    out: str = ""
    """The run's folder (default: results/ask_heads/MODEL-HASH)."""


def run(config: Config) -> Path:
    """Chooses, asks, decodes, sums up, draws, prints; no fact is asked about again."""
    from dataclasses import replace

    from experiments._enough import require_facts_to_ask
    from experiments._facts import of_relations, say_skipped, spread_out, usable_facts
    from experiments._head_answers import finish
    from experiments._head_questions import ask_heads

    if config.facts == "auto":
        config = replace(config, facts="toy" if config.model == "toy" else "builtin")
    pool, skipped = usable_facts(config.facts)
    say_skipped(config.facts, skipped)
    order = spread_out(of_relations(pool, config.relations), config.seed)
    require_facts_to_ask(order, config.choose)
    with open_run("ask_heads", config, ("metric",)) as folder:
        folder.path.joinpath("README.txt").write_text(_EXPLAINED, encoding="utf-8")
        folder.write_json("skipped.json", skipped)
        finish(config, folder, ask_heads(config, folder, pool, order))
    return folder.path


_EXPLAINED = """\
records.jsonl   a line for each fact that heads were chosen on, and for each that they were asked
                about; or why it could not be used
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
