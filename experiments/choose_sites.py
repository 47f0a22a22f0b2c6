"""Shows where to write a relation edit: causal effect, key separation and Score of each site."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from experiments import _options as options
from experiments._command import command, open_run
from experiments._loading import loaded


@dataclass(frozen=True)
class Config:
    """Which sites are compared, on which cases, and how edits at each site are made."""

    model: str = options.model()
    cases: str = options.cases("Use cases on which nothing is tested later.")
    limit: int = options.n_cases(8)
    skip: int = options.skip()
    positions: list[str] = field(default_factory=lambda: ["subject_last", "object_last", "last"])
    """The tokens whose keys are used: any of subject_last, object_last and last."""
    layers: list[int] = field(default_factory=list)
    """The layers that are compared. Empty: all layers of the model."""
    n_neighbours: int = 12
    """The number of neighbours per case from whose keys the edit's keys should differ."""
    prompts_per_kind: int = options.prompts_per_kind(2)
    settings: str = ""
    """Further settings of the editor joint, separated by colons: neighbours=8:weight=3."""
    best: int = 5
    """The number of sites that are chosen, and of random sites that they are compared with."""
    text: str = options.text()
    tokens_per_dim: int = options.tokens_per_dim()
    held_out: str = options.held_out()
    chunks: int = options.chunks()
    chunk_tokens: int = options.chunk_tokens()
    seed: int = options.seed(
        "the choice of cases, neighbours and replacements, contexts, the text of self, bootstrap"
    )
    device: str = options.device()
    dtype: str = options.dtype()
    out: str = options.out("choose_sites")


def run(config: Config) -> Path:
    """Traces, compares keys, edits, draws and prints; finished work in the folder is reused."""
    from experiments._edit_options import to_edit
    from experiments._printing import say, show, show_text
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
        show_text(result.note)
        say(f"Everything is in {folder.path}")
    return folder.path


_EXPLAINED = """\
records.jsonl   a line for each case before any edit, for its two traces, for its keys, and for each
                edit of it; or the reason why one of these is missing
sites.json      all numbers by site and key position, with n and 95 % bootstrap intervals over
                cases; the rank correlations; the comparisons with random sites
sites.csv       the same numbers, a line for each site (or head) and key position
chosen.json     the sites whose edits did best
sites.png, .pdf the figure
skipped.json    records of the data that could not be used, with the reason

effect of relation  the indirect effect on the log-probability (nats) of the true object's first
                token after the entity prompt, with the relation's words replaced
effect of subject   the same for the relation's name after "The relation between S and O is", with S
                replaced. The probability of the name is about 1e-4 there, so differences of
                probabilities show nothing; therefore both effects are logarithms. One layer is
                restored at a time. A total effect of 0 or less leaves nothing to restore: the
                numbers of such a case mean little.
separation      1 - mean |k C^-1 k'| / sqrt(k C^-1 k * k' C^-1 k') for the keys k of the edit and
                the keys k' of its wording with other pairs. 1: an edit at k writes nothing at k';
                0: both are one direction
demands apart   the same for the keys after (S, new object) and (S, old object); 0 if they are equal
Score, mean share   of a joint edit of this site alone. Score: the harmonic mean of the shares
                gained (add, paraphrase and removal lift) and kept. Mean share: the plain mean of
                the same shares, each counted as at least -1; the Score is 0 wherever one share is
                0, the mean share still differs there. Shares are of success rates: with few cases
                and prompts many sites tie. Edits in trouble (see compare_editors) count as no edit.

Heads are rows of W_O: they are traced and their keys are compared, but they are not edited alone.

Rank correlations are Spearman's, over sites. A bootstrap draw is a draw of cases, from which the
numbers of all sites are computed again. This adds noise, and noise moves correlations towards 0, so
an interval may lie closer to 0 than the estimate. Every draw chooses the sites with the largest
numbers anew. The result of the best site is chosen and measured on the same cases: it is an upper
bound that other cases need not reach.
"""


if __name__ == "__main__":
    command(Config, run)
