"""Where does a model start? Every metric of the RaKE benchmark, on both sides, before any edit."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from experiments._run import RunFolder, command, console, open_run

if TYPE_CHECKING:
    from kedit.results.scores import EditScore


@dataclass(frozen=True)
class Config:
    """Which model, on which cases, and what is measured beside the likelihoods."""

    model: str = "gemma-3-270m"
    """gemma-3-270m, toy, a name TransformerLens knows, a Hugging Face folder, or a .gguf file."""
    cases: str = "auto"
    """builtin, toy, or a file: facts of your own with a target (JSON Lines, CSV), rake.jsonl as
    experiments.build_rake makes it, rel_counterfact.json, CounterFact, KnowEdit, EasyEdit's form,
    MQuAKE, zsRE, a relation file of evandez/relations (auto: the toy's own for the toy, else what
    build_rake made out of CounterFact, else builtin)."""
    limit: int = 0
    """How many cases, over as many relations as there are; 0 for all."""
    say: bool = True
    """Let the model speak after the prompts, and look whether it says the answer."""
    texts: int = 100
    """Of so many cases, generate texts and take their n-gram entropy (slow); 0 for none."""
    text: str = ""
    """Held-out text for perplexity: a file, hf:NAME, self for what the model says by seed, or
    "" for the part of kedit's text that is held out (the toy: self)."""
    seed: int = 0
    """Of the choice of cases, of generated texts, and of the bootstrap."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""
    dtype: str = "float32"
    """Of the weights; on CUDA also bfloat16 or float16."""
    out: str = ""
    """The run's folder (default: results/score_model/MODEL-HASH)."""


def run(config: Config) -> Path:
    """Scores, sums up, draws and prints; what is already in the run's folder is not done again."""
    from dataclasses import replace

    from experiments._facts import say_skipped
    from experiments._score import benchmark, chosen, labels, score_cases, spread
    from kedit.errors import InputError
    from kedit.scoring.drift import held_out, surprise
    from kedit.scoring.score import Scoring

    config = replace(config, cases=chosen(config.cases, config.model))
    cases, skipped = benchmark(config.cases)
    say_skipped(config.cases, skipped)
    scoring = Scoring(labels(cases), config.say, seed=config.seed)
    cases = spread(cases, config.limit, config.seed)
    with open_run("score_model", config) as folder:
        folder.path.joinpath("README.txt").write_text(_EXPLAINED, encoding="utf-8")
        model = folder.load(config)
        scores = score_cases(folder, model, cases, scoring, config.texts)
        unscored = {
            record["id"]: record["skipped"]
            for record in folder.records.values()
            if "skipped" in record
        }
        folder.write_json("skipped.json", skipped | unscored)
        if not scores:
            raise InputError(f"no case could be scored: see {folder.path / 'skipped.json'}")
        nll = surprise(model, held_out(model, config.text, seed=config.seed)).mean(1)
        _finish(config, folder, scores, nll.tolist(), len(skipped | unscored))
    return folder.path


def _finish(
    config: Config,
    folder: RunFolder,
    scores: "list[EditScore]",
    nll: list[float],
    n_skipped: int,
) -> None:
    """Measures over all cases and by relation, tables and figures."""
    import numpy as np

    from experiments._tables import (
        listed,
        measures_table,
        scores_table,
        two_digits,
        write_csv,
    )
    from figures.score import by_relation as drawn_by_relation
    from figures.score import start
    from figures.style import Source, plural, save
    from kedit.data.corpus import corpus_of
    from kedit.scoring.summary import by_relation, measures
    from kedit.stats import Interval, bootstrap_ratio

    overall = measures(scores, seed=config.seed)
    each = {name: measures(own, seed=config.seed) for name, own in by_relation(scores).items()}
    mean_nll = bootstrap_ratio(np.array(nll), np.ones(len(nll)), seed=config.seed)
    perplexity = Interval(*(np.exp(value) for value in mean_nll))
    folder.write_json(
        "measures.json",
        {
            "cases": len(scores),
            "skipped": n_skipped,
            "perplexity": listed(perplexity._asdict()),
            "perplexity chunks": len(nll),
            "overall": [one.to_record() for one in overall],
            "by relation": {
                name: [one.to_record() for one in found] for name, found in each.items()
            },
        },
    )
    write_csv(folder.path / "measures.csv", {"all": overall, **each})
    kinds = {score.relation: score.kind for score in scores}
    source = Source(config.model, f"seed {config.seed}")
    save(start(overall, source), folder.path, "start")
    save(drawn_by_relation(each, kinds, source), folder.path, "by-relation")
    screen = console()
    title = f"{config.model} before any edit, {plural(len(scores), 'case')}"
    screen.print(measures_table(overall, title))
    screen.print(scores_table(overall))
    text = corpus_of(config.model, config.text, config.seed, held_out=True).name
    screen.print(
        f"Perplexity on {text}: {two_digits(perplexity)}, n = {plural(len(nll), 'chunk')}. "
        f"{n_skipped} records could not be used (skipped.json says why)."
    )
    screen.print(f"Everything is in {folder.path}", soft_wrap=True)


_EXPLAINED = """\
records.jsonl   one case a line: every prompt with log-probabilities, ranks and what the model said
measures.json   every metric over all cases and by relation, with 95 % intervals (Wilson's of rates)
measures.csv    the same as one table
start.*, by-relation.*   the figures
skipped.json    records that could not be used, with the reason

A case holds "probes", and each of them: perspective (entity, relation), group (efficacy,
paraphrase, neighborhood, other relations, portability, removal, removal paraphrase), prompt, answer
(what an edit that works leaves the model saying), rival (what must then be less probable), logprob
and rival_logprob (mean over tokens, nats), exact (all tokens likeliest, teacher-forced), rank (of
the relation's name among all), said (greedy text), says and says_rival (it opens with the answer,
with the rival).
"""


if __name__ == "__main__":
    command(Config, run)
