"""Which editor changes a fact best, from which side, and at what cost? Edit, score, undo."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from simple_parsing import field as option

from experiments._run import command, open_run
from kedit.editors.specs import names


@dataclass(frozen=True)
class Config:
    """Which editors on which cases, from which side, and what is measured."""

    model: str = "gemma-3-270m"
    """gemma-3-270m, toy, a name TransformerLens knows, a Hugging Face folder, or a .gguf file."""
    editors: str = option(
        default="rome,memit,ft",
        help=f"Any of {', '.join(names())}; each with changes to its settings if wanted: "
        "rome,rome:where=last:training.clamp=2,memit:layers=(4,5). GPT-2 and GPT-J have published "
        "settings; the published ROME is rome:key=legacy:moments=('FILE.npz',), with the authors' "
        "C. Or a tuned.json of tune_editors.",
    )
    perspective: Literal["both", "entity", "relation", "together"] = "both"
    """Which side is edited; both: each by itself; together: both requests of a case in one edit,
    by one editor or by two: "memit&joint", of which either may be left out, as in "memit&"."""
    cases: str = "auto"
    """builtin, toy, or a file of edits: CounterFact, EasyEdit's, zsRE, or rake.jsonl as build_rake
    makes it (auto: the toy's own for the toy, else what build_rake made, else builtin)."""
    limit: int = 20
    """How many cases, over as many relations as there are; 0 for all."""
    skip: int = 0
    """Leave out so many cases before: those that settings were tuned on."""
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
    ranks: bool = True
    """Rank each relation's name among all (slower)."""
    say: bool = False
    """Let each edited model speak after its prompts, and look whether it says the target (slow)."""
    seed: int = 0
    """Of the choice of cases, of contexts, own text and the bootstrap."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""
    dtype: str = "float32"
    """Of the weights; on CUDA also bfloat16 or float16."""
    out: str = ""
    """The run's folder (default: results/compare_editors/MODEL-HASH)."""


def run(config: Config) -> Path:
    """Edits, scores, sums up, draws and prints; what is in the run's folder is not done again."""
    from dataclasses import replace

    from experiments._edit_cases import SIDES, Side, edit_cases, prepared
    from experiments._score import chosen, labels, passage, scores_before, to_edit
    from experiments._verdict import finish
    from kedit.scoring.drift import baseline
    from kedit.scoring.score import Scoring

    sides: list[Side] = (
        ["together"]
        if config.perspective == "together"
        else [side for side in SIDES if config.perspective in ("both", side)]
    )
    config = replace(config, cases=chosen(config.cases, config.model))
    found = to_edit(config, sides)
    sides = [side for side in sides if side in found.sides]
    scoring = Scoring(labels(found.every) if config.ranks else (), config.say, seed=config.seed)
    with open_run("compare_editors", config) as folder:
        folder.path.joinpath("README.txt").write_text(_EXPLAINED, encoding="utf-8")
        model = folder.load(config)
        arms = prepared(model, config.editors, sides, config)
        text = baseline(model, passage(model, config))
        usable = scores_before(folder, model, found.cases, scoring)
        outcomes = edit_cases(folder, model, usable, arms, scoring, text)
        folder.write_json("skipped.json", found.skipped)
        finish(config, folder, list(usable.values()), outcomes, float(text.nll.mean().exp()))
    return folder.path


_EXPLAINED = """\
records.jsonl   a line for each case before any edit, and one for each edit of it: what was scored,
                seconds, memory, perplexity and KL of held-out text, norm, and what was wrong
comparison.*    all measures before and after, by edited side and editor: .md, .csv and .json
tests.csv       paired tests of every editor against the first one
comparison.png, frontier.png (and .pdf)   the figures
skipped.json    records of the data that could not be used, with the reason

An edit that is not finite, moves no weight or no logit, or doubles the perplexity of held-out text
is in trouble: it counts as failed, is taken back, and enters all means with the unedited model's
scores. Its own are in records.jsonl.
"""


if __name__ == "__main__":
    command(Config, run)
