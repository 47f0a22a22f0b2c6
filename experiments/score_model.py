"""Scores an unedited model: every metric of the RaKE benchmark, on both sides."""

from dataclasses import dataclass
from pathlib import Path

from simple_parsing import field as option

from experiments import _options as options
from experiments._command import command, open_run
from experiments._engine import run_study
from experiments._spread import Spread


@dataclass(frozen=True)
class Config:
    """Which model is scored, on which cases, and what is measured besides likelihoods."""

    model: str = options.model()
    cases: str = options.cases()
    limit: int = options.n_cases(0)
    say: bool = True
    """Generate text after the prompts, and measure whether it opens with the answer."""
    n_texts: int = 100
    """The number of cases with longer generated texts, for their n-gram entropy (slow); 0: none."""
    held_out: str = options.held_out("The text on which the perplexity is measured")
    seed: int = options.seed("the choice of cases, the generated texts, and the bootstrap")
    device: str = options.device()
    dtype: str = options.dtype()
    out: str = options.out("score_model")
    spread: Spread = option(default_factory=Spread)


def run(config: Config) -> Path:
    """Scores cases, draws and prints; finished cases in the run's folder are used again."""
    from dataclasses import replace

    from experiments._printing import say, say_skipped, show, show_text
    from figures.score import by_relation, start
    from figures.style import save
    from kedit.data import choose
    from kedit.studies.scoring import score_cases
    from kedit.tables import plural, two_digits

    config = replace(config, cases=choose.cases_source(config.cases, config.model))
    cases, skipped = choose.usable_cases(config.cases)
    say_skipped(config.cases, skipped, len(cases))
    with open_run("score_model", config) as folder:
        folder.write("README.txt", _EXPLAINED)
        scores = run_study(config, folder, lambda model, journal: score_cases(
            model, choose.spread_cases(cases, config.limit, config.seed),
            labels=choose.labels_of(cases), say=config.say, n_texts=config.n_texts,
            held_out=config.held_out, seed=config.seed, journal=journal,
        ))  # fmt: skip
        scores = replace(scores, skipped={**skipped, **scores.skipped})
        scores.save(folder)
        folder.write_json("skipped.json", scores.skipped)
        save(start(scores), folder.path, "start")
        save(by_relation(scores), folder.path, "by-relation")
        show(scores.table())
        show(scores.summary())
        show_text(
            f"Perplexity on {scores.text}: {two_digits(scores.perplexity)}, "
            f"n = {plural(scores.n_chunks, 'chunk')}."
        )
        say(f"{len(scores.skipped)} records could not be used (skipped.json gives the reasons).")
        say(f"Everything is in {folder.path}")
    return folder.path


_EXPLAINED = """\
records.jsonl   one line per case: every prompt with log-probabilities, ranks and generated text
measures.json   every metric over all cases and by relation, with 95 % intervals (rates: Wilson's)
measures.csv    the same as one table
start.*, by-relation.*   the figures
skipped.json    records that could not be used, with the reason

A case holds "probes" (test prompts). Each of them has
perspective      entity or relation
group            efficacy, paraphrase, neighborhood, other relations, portability, removal, or
                 removal paraphrase
prompt
answer, rival    what the model should say after a successful edit, and what should then be less
                 probable
logprob, rival_logprob   mean log-probability of their tokens, in nats
exact            whether every token of the answer is the likeliest one, given those before it
rank             the rank of the relation's name among all relation names
said             the generated text (greedy)
says, says_rival whether this text opens with the answer, with the rival
"""


if __name__ == "__main__":
    command(Config, run)
