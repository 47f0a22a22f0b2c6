"""What does attention add to a relation edit? W_out, W_O, both, and random heads of W_O."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from experiments._run import command, open_run


@dataclass(frozen=True)
class Config:
    """Which cases, from which side, and how the editors are set."""

    model: str = "gemma-3-270m"
    """gemma-3-270m, toy, a name TransformerLens knows, a Hugging Face folder, or a .gguf file."""
    tuned: str = ""
    """What tune_editors wrote with --editors w_out,w_o,joint; none: the model's own settings."""
    perspective: Literal["entity", "relation"] = "relation"
    """Which side is edited."""
    heads: int = 0
    """Random heads a layer whose rows of W_O may change, beside W_out; 0: half of all."""
    draws: int = 3
    """Of these heads."""
    cases: str = "auto"
    """builtin, toy, or a file of edits: CounterFact, EasyEdit's, zsRE, or rake.jsonl as build_rake
    makes it (auto: the toy's own for the toy, else what build_rake made, else builtin).
    Take others than those that settings were tuned on."""
    limit: int = 20
    """How many cases, over as many relations as there are; 0 for all."""
    skip: int = 0
    """Leave out so many cases before."""
    text: str = ""
    """Text whose statistics edits are to spare: a file, hf:NAME, self for what the model says
    by seed, or "" for kedit's text (the toy: self)."""
    tokens_a_key: int = 4
    """Tokens of that text for each number of a key, where an editor has not been told n_tokens."""
    held_out: str = ""
    """Text whose perplexity must not blow up: a file, hf:NAME, self, or "" for the part of kedit's
    text that is held out (the toy: self)."""
    chunks: int = 2
    """Of that text."""
    window: int = 128
    """Tokens of a chunk: fewer are read sooner."""
    probes: int = 0
    """Of each kind a case is tested with, at most so many (scoring takes time); 0 for all."""
    seed: int = 0
    """Of the choice of cases and of heads, of contexts, own text and the bootstrap."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""
    dtype: str = "float32"
    """Of the weights; on CUDA also bfloat16 or float16."""
    out: str = ""
    """The run's folder (default: results/ablate_attention/MODEL-HASH)."""


def run(config: Config) -> Path:
    """Edits, scores, sums up, draws and prints; what is in the run's folder is not done again."""
    from dataclasses import replace

    from experiments._ablation import ablate, arms_of
    from experiments._ablation_report import finish
    from experiments._edit_cases import prepared
    from experiments._score import chosen, passage, scores_before, to_edit
    from kedit.scoring.drift import baseline
    from kedit.scoring.score import Scoring

    config = replace(config, cases=chosen(config.cases, config.model))
    cases = to_edit(config, [config.perspective]).cases
    with open_run("ablate_attention", config) as folder:
        folder.path.joinpath("README.txt").write_text(_EXPLAINED, encoding="utf-8")
        model = folder.load(config)
        told = arms_of(config, model)
        every = ",".join(dict.fromkeys(one for ones in told.values() for one in ones))
        arms = prepared(model, every, [config.perspective], config)
        text = baseline(model, passage(model, config))
        scoring = Scoring(say=False, seed=config.seed)
        usable = scores_before(folder, model, cases, scoring)
        outcomes = ablate(folder, model, usable, arms, scoring, text)
        finish(config, folder, list(usable.values()), told, outcomes)
    return folder.path


_EXPLAINED = """\
records.jsonl   a line for each case before any edit, and two for each edit of it: as it was made
                ("free"), and scaled down to the norm of the smallest of that case ("equal")
ablation.json   Scores, the shares that they are made of, and paired differences from "both", for
                all cases and by kind of relation; 95 % bootstrap intervals over cases
ablation.csv    the same numbers
ablation.png, .pdf   the figure

Norm: Frobenius, over all matrices of an edit together. Score: the harmonic mean of what was gained
of what there was to gain and of what was kept. Random heads: W_out, and W_O's rows of some heads;
their numbers are means over the draws. p: twice the share of bootstrap draws of the cases in which
the difference of the Scores has the other sign.
"""


if __name__ == "__main__":
    command(Config, run)
