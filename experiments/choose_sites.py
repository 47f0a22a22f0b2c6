"""Where should a relation edit be written? Causal effect, separation and editing, site by site."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from experiments import _options as options
from experiments._command import command, loaded, open_run


@dataclass(frozen=True)
class Config:
    """Which sites on which cases, and how editing there is tried."""

    model: str = options.model()
    cases: str = options.cases("Take cases that nothing is tested on later.")
    limit: int = options.n_cases(8)
    skip: int = options.skip()
    positions: list[str] = field(default_factory=lambda: ["subject_last", "object_last", "last"])
    """Tokens whose keys are taken: any of subject_last, object_last and last."""
    layers: list[int] = field(default_factory=list)
    """Which layers; none for all of the model's."""
    n_neighbours: int = 12
    """Of each case, that its keys are to be told from."""
    prompts_per_kind: int = options.prompts_per_kind(2)
    settings: str = ""
    """More settings of the joint editor, each as field=value: neighbours=8:weight=3."""
    best: int = 5
    """So many sites are chosen, and held against as many random ones."""
    text: str = options.text()
    tokens_per_dim: int = options.tokens_per_dim()
    held_out: str = options.held_out()
    chunks: int = options.chunks()
    chunk_tokens: int = options.chunk_tokens()
    seed: int = options.seed(
        "the choice of cases, neighbours, replacements, contexts, own text and the bootstrap"
    )
    device: str = options.device()
    out: str = options.out("choose_sites")


def run(config: Config) -> Path:
    """Traces, compares keys, edits, sums up and draws; what is in the run's folder is kept."""
    from experiments._edit_options import to_edit
    from experiments._printing import say, show
    from figures.sites import sites
    from figures.style import save
    from kedit.data.choose import cases_source
    from probes.studies.write_sites import choose_sites

    config = replace(config, cases=cases_source(config.cases, config.model))
    found = to_edit(config, ["relation"])
    with open_run("choose_sites", config) as folder:
        folder.write("README.txt", _EXPLAINED)
        folder.write_json("skipped.json", found.skipped)
        result = choose_sites(
            loaded(config, folder), found.cases, pool=found.every,
            positions=config.positions,  # pyright: ignore[reportArgumentType]
            layers=config.layers, n_neighbours=config.n_neighbours, settings=config.settings,
            best=config.best, text=config.text, tokens_per_dim=config.tokens_per_dim,
            held_out_text=config.held_out, chunks=config.chunks, chunk_tokens=config.chunk_tokens,
            seed=config.seed, journal=folder,
        )  # fmt: skip
        result.save(folder)
        save(sites(result), folder.path, "sites")
        for table in result.tables():
            show(table, 175)
        say(result.note)
        say(f"Everything is in {folder.path}")
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
