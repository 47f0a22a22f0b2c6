"""Which settings suit which editor? As many tries for each, on the same cases."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from experiments._run import command, open_run


@dataclass(frozen=True)
class Config:
    """Which editors, on which cases, and how many settings of each are tried."""

    model: str = "gemma-3-270m"
    """gemma-3-270m, toy, a name TransformerLens knows, a Hugging Face folder, or a .gguf file."""
    editors: str = "rome,memit,rome@last,w_out,w_o,joint"
    """Names of kedit.editors, each with settings that are not to be tuned if wanted."""
    perspective: Literal["entity", "relation"] = "relation"
    """Which side is edited; only its probes are scored."""
    tries: int = 8
    """Settings of each editor; the first are those that it has for the model."""
    space: str = ""
    """A JSON file with the values of every field, {"training.clamp": [0.5, 1]}; none: our own."""
    cases: str = "auto"
    """builtin, toy, or a file of edits: CounterFact, EasyEdit's, zsRE, or rake.jsonl as build_rake
    makes it (auto: the toy's own for the toy, else what build_rake made, else builtin).
    Take those to tune on, as split_cases writes them: tune.jsonl."""
    limit: int = 16
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
    chunks: int = 1
    """Of that text."""
    window: int = 128
    """Tokens of a chunk: fewer are read sooner."""
    probes: int = 2
    """Of each kind a case is tested with, at most so many; 0 for all."""
    seed: int = 0
    """Of the settings that are tried, the choice of cases, contexts, own text and the bootstrap."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""
    dtype: str = "float32"
    """Of the weights; on CUDA also bfloat16 or float16."""
    out: str = ""
    """The run's folder (default: results/tune_editors/MODEL-HASH)."""


def run(config: Config) -> Path:
    """Tries, sums up, draws and prints; what is in the run's folder is not done again."""
    from dataclasses import replace

    from experiments._edit_cases import edit_cases, prepared
    from experiments._score import chosen, passage, scores_before, to_edit
    from experiments._tuning import finish, one_sided, space_of, tries
    from kedit.scoring.drift import baseline
    from kedit.scoring.score import Scoring

    config = replace(config, cases=chosen(config.cases, config.model))
    cases = to_edit(config, [config.perspective]).cases
    cases = [one_sided(case, config.perspective) for case in cases]
    with open_run("tune_editors", config) as folder:
        folder.path.joinpath("README.txt").write_text(_EXPLAINED, encoding="utf-8")
        model = folder.load(config)
        told = tries(config, space_of(config.space, model.cfg.n_layers))
        every = ",".join(dict.fromkeys(one for ones in told.values() for one in ones))
        arms = prepared(model, every, [config.perspective], config)
        text = baseline(model, passage(model, config))
        scoring = Scoring(say=False, seed=config.seed)
        usable = scores_before(folder, model, cases, scoring)
        outcomes = edit_cases(folder, model, usable, arms, scoring, text)
        finish(config, folder, list(usable.values()), told, outcomes)
    return folder.path


_EXPLAINED = """\
tuned.json      each editor with the settings that did best, and all that were tried;
                compare_editors --editors tuned.json reads it
tries.csv       every try: its settings, its Score, and the shares that this is made of
tuning.png, frontier.png (and .pdf)   the figures
records.jsonl   a line for each case before any edit, and one for each edit of it

The Score is the harmonic mean of what was gained of what there was to gain and of what was kept,
by success and by magnitude; where that is zero the one by magnitude alone decides, then the mean.
An edit in trouble (kedit.editing.checks) counts as no edit. The best of several tries looks better
than it
is: what it is worth, other cases tell.
"""


if __name__ == "__main__":
    command(Config, run)
