"""Where does a model start? Every metric of the RaKE benchmark, on both sides, before any edit."""

from dataclasses import dataclass
from pathlib import Path

from experiments import _options as options
from experiments._command import command, loaded, open_run


@dataclass(frozen=True)
class Config:
    """Which model, on which cases, and what is measured beside the likelihoods."""

    model: str = options.model()
    cases: str = options.cases()
    limit: int = options.n_cases(0)
    say: bool = True
    """Let the model speak after the prompts, and look whether it says the answer."""
    n_texts: int = 100
    """Of so many cases, generate texts and take their n-gram entropy (slow); 0 for none."""
    held_out: str = ""
    """Held-out text for perplexity: a file, hf:NAME, self for what the model says by seed, or
    "" for the part of kedit's text that is held out (the toy: self)."""
    seed: int = options.seed("the choice of cases, of generated texts, and of the bootstrap")
    device: str = options.device()
    dtype: str = options.dtype()
    out: str = options.out("score_model")


def run(config: Config) -> Path:
    """Scores, sums up, draws and prints; what is already in the run's folder is not done again."""
    from dataclasses import replace

    from experiments._printing import say, say_skipped, show
    from figures.score import by_relation, start
    from figures.style import save
    from kedit.data import choose
    from kedit.studies.scoring import score_cases
    from kedit.tables import plural, two_digits

    config = replace(config, cases=choose.cases_source(config.cases, config.model))
    cases, skipped = choose.usable_cases(config.cases)
    say_skipped(config.cases, skipped)
    with open_run("score_model", config) as folder:
        folder.write("README.txt", _EXPLAINED)
        scores = score_cases(
            loaded(config, folder),
            choose.spread_cases(cases, config.limit, config.seed),
            labels=choose.labels_of(cases),
            say=config.say,
            n_texts=config.n_texts,
            held_out=config.held_out,
            seed=config.seed,
            journal=folder,
        )
        scores = replace(scores, skipped={**skipped, **scores.skipped})
        scores.save(folder)
        folder.write_json("skipped.json", scores.skipped)
        save(start(scores), folder.path, "start")
        save(by_relation(scores), folder.path, "by-relation")
        show(scores.table())
        show(scores.summary())
        say(
            f"Perplexity on {scores.text}: {two_digits(scores.perplexity)}, "
            f"n = {plural(scores.n_chunks, 'chunk')}. "
            f"{len(scores.skipped)} records could not be used (skipped.json says why)."
        )
        say(f"Everything is in {folder.path}")
    return folder.path


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
