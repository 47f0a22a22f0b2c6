"""Where should a relation edit be written? Causal effect, separation and editing, site by site."""

from dataclasses import dataclass, field
from pathlib import Path

from experiments._run import command, open_run
from experiments._sites import POSITIONS


@dataclass(frozen=True)
class Config:
    """Which sites on which cases, and how editing there is tried."""

    model: str = "gemma-3-270m"
    """gemma-3-270m, toy, a name TransformerLens knows, a Hugging Face folder, or a .gguf file."""
    cases: str = "auto"
    """builtin, toy, or a file of edits: CounterFact, EasyEdit's, zsRE, or rake.jsonl as build_rake
    makes it (auto: the toy's own for the toy, else what build_rake made, else builtin).
    Take cases that nothing is tested on later."""
    limit: int = 8
    """How many cases, over as many relations as there are; 0 for all."""
    skip: int = 0
    """Leave out so many cases before."""
    positions: list[str] = field(default_factory=lambda: list(POSITIONS))
    """Tokens whose keys are taken: any of subject_last, object_last and last."""
    layers: list[int] = field(default_factory=list)
    """Which layers; none for all of the model's."""
    neighbours: int = 12
    """Of each case, that its keys are to be told from."""
    probes: int = 2
    """Of each kind a case is tested with, at most so many (scoring takes time); 0 for all."""
    settings: str = ""
    """More settings of the joint editor, each as field=value: neighbours=8:weight=3."""
    best: int = 5
    """So many sites are chosen, and held against as many random ones."""
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
    seed: int = 0
    """Of the choice of cases, neighbours, replacements, contexts, own text and the bootstrap."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""
    out: str = ""
    """The run's folder (default: results/choose_sites/MODEL-HASH)."""


def run(config: Config) -> Path:
    """Traces, compares keys, edits, sums up and draws; what is in the run's folder is kept."""
    from dataclasses import replace

    from experiments._score import chosen, passage, scores_before, to_edit
    from experiments._site_report import finish
    from experiments._sites import measured
    from kedit.scoring.drift import baseline
    from kedit.scoring.score import Scoring

    config = replace(config, cases=chosen(config.cases, config.model))
    every, cases, skipped, _ = to_edit(config, ["relation"])
    scoring = Scoring((), say=False, seed=config.seed)
    with open_run("choose_sites", config) as folder:
        folder.path.joinpath("README.txt").write_text(_EXPLAINED, encoding="utf-8")
        model = folder.load(config)
        text = baseline(model, passage(model, config))
        usable = scores_before(folder, model, cases, scoring)
        found = measured(config, folder, model, usable, every, scoring, text)
        folder.write_json("skipped.json", skipped)
        finish(config, folder, found)
    return folder.path


_EXPLAINED = """\
records.jsonl   a line for each case before any edit; for its two traces; for its keys; and for each
                edit of it; or why that could not be had
sites.json      all numbers by site and key position, with n and 95 % bootstrap intervals over
                cases; the rank correlations; the comparisons with random sites
sites.csv       the same numbers, a line for each site (or head) and key position
chosen.json     the sites with the best editing results
sites.png, .pdf the figure
skipped.json    records of the data that could not be used, with the reason

effect of relation  indirect effect on the log-probability (nats) of the true object's first token
                after the entity prompt, its relation's words replaced by others
effect of subject   the same of the relation's name after "The relation between S and O is", S
                replaced. The name's probability there is about 1e-4, so that its differences say
                nothing; for comparison both are logarithms. One layer at a time is restored. Where
                the total effect is 0 or less there is nothing to restore, and it means little.
separation      1 - mean |k C^-1 k'| / sqrt(k C^-1 k * k' C^-1 k') of the edit's keys k and those of
                its wording about other pairs; 1: the key tells them apart, 0: it is theirs
demands apart   the same of the keys after (S, new object) and (S, old object): 0 where they are one
Score, mean share   of a joint edit of this site alone: the harmonic mean of what was gained of what
                there was to gain (add, paraphrase and removal lift) and of what was kept; and the
                plain mean of the same shares, none counted as less than -1, for the Score is 0
                wherever one of them is. Shares are of success rates: with few cases and prompts
                many sites tie. Edits in trouble (compare_editors) count as no edit.

Heads are rows of W_O: traced, and their keys compared, but no edit is made of them alone.

Rank correlations are Spearman's, over sites; a draw of the bootstrap is a draw of cases, from which
all sites' numbers are made anew. That adds noise, and noise draws correlations towards 0: intervals
may lie closer to it than the estimate. The sites with the largest numbers are chosen in every draw;
the best site's own result is chosen and measured on the same cases, so it is a ceiling that
no other cases need reach.
"""


if __name__ == "__main__":
    command(Config, run)
