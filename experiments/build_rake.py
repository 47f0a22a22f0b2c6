"""RaKE, the benchmark of both perspectives, built from CounterFact: the same bytes everywhere."""

import contextlib
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from experiments._bounds import require_options_in_bounds
from experiments._run import INTERRUPTED, RESULTS, command, console, write_whole
from kedit.progress import progress

if TYPE_CHECKING:
    from kedit.data.fields import Record, Skipped

# of CounterFact as it was published: Meng et al. 2022, table 2; relations counted in the file
PUBLISHED = {"records": 21_919, "subjects": 20_391, "new_objects": 749, "relations": 34}


@dataclass(frozen=True)
class Config:
    """What RaKE is built from, and where it goes."""

    source: str = ""
    """CounterFact, .json or .jsonl, plain or .xz or .gz (default: downloaded once and kept)."""
    edits: str = ""
    """In its stead: a file of CounterFact's edits alone, without prompts to test them with."""
    extras: str = ""
    """EasyEdit's additions to CounterFact, by case_id: for its portability questions."""
    limit: int = 0
    """How many records to build, from the first on; 0 for all."""
    out: str = ""
    """The folder (default: results/build_rake/NAME-OF-THE-SOURCE)."""


@dataclass
class Tally:
    """What has been built so far, counted."""

    relations: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # id, label, kind
    subjects: set[str] = field(default_factory=set)
    new_objects: set[str] = field(default_factory=set)
    paraphrases: set[str] = field(default_factory=set)
    neighbours: Counter[int] = field(default_factory=Counter)
    lacks: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    skipped: "list[Skipped]" = field(default_factory=list)

    def add(self, record: "Record") -> None:
        rewrite = record["requested_rewrite"]
        relation = rewrite["relation"]
        self.relations[relation["id"], relation["strs"][0], relation["kind"]] += 1
        self.subjects.add(rewrite["subject"])
        self.new_objects.add(rewrite["target_new"]["str"])
        self.paraphrases.update(record["rel_prompts"])
        self.neighbours[len(record["rel_neighborhood"])] += 1
        self.lacks.update(record["lacks"])
        self.notes.update(record["notes"])

    def totals(self) -> dict[str, int]:
        return {
            "records": self.relations.total(),
            "subjects": len(self.subjects),
            "new_objects": len(self.new_objects),
            "relations": len(self.relations),
        }

    def statistics(self) -> dict[str, Any]:
        kinds: Counter[str] = Counter()
        for (_, _, kind), n_records in self.relations.items():
            kinds[kind] += n_records
        return {
            **self.totals(),
            "skipped": len(self.skipped),
            "paraphrases": len(self.paraphrases),
            "kinds": dict(sorted(kinds.items())),
            "by_relation": {
                id: {"label": label, "kind": kind, "records": n_records}
                for (id, label, kind), n_records in sorted(self.relations.items())
            },
            "relation_neighbours": {str(n): self.neighbours[n] for n in sorted(self.neighbours)},
            "lacks": dict(self.lacks.most_common()),
            "notes": dict(self.notes.most_common()),
        }


def run(config: Config) -> Path:
    """Builds, counts, draws and prints; nothing lies in the folder before it is whole."""
    from kedit.data.rake_build import build, portability
    from kedit.data.survey import survey
    from kedit.errors import InputError

    source = _source(config)
    tally = Tally()
    questions, broken = portability(Path(config.extras)) if config.extras else ({}, [])
    tally.skipped += broken
    try:
        with progress("records") as bars:
            bar = bars.add_task("reading", total=None)
            seen = survey(source)
            total = min(config.limit or seen.n_edits, seen.n_edits)
            bars.update(bar, description="building", total=total)
            folder = Path(config.out or RESULTS / "build_rake" / source.name.partition(".")[0])
            folder.mkdir(parents=True, exist_ok=True)
            with _whole(folder / "rake.jsonl") as lines:
                digest = hashlib.sha256()
                for record in build(source, seen, questions):
                    if isinstance(record, dict):
                        line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
                        lines.write(line)
                        digest.update(line)
                        tally.add(record)
                        bars.advance(bar)
                    else:
                        tally.skipped.append(record)
                    if config.limit and tally.relations.total() == config.limit:
                        break
                if not tally.relations:
                    first = tally.skipped[0] if tally.skipped else "it is empty"
                    raise InputError(f"{source}: no record can be used; {first}")
    except KeyboardInterrupt:
        sys.stderr.write(
            "\nstopped: nothing is kept of what was built, the same command starts again\n"
        )
        sys.exit(INTERRUPTED)
    _finish(folder, source, tally, digest.hexdigest())
    return folder


def _source(config: Config) -> Path:
    """The file to build from.

    Raises:
        InputError: options that do not go together, or CounterFact cannot be downloaded.
    """
    from kedit.errors import InputError

    require_options_in_bounds(config)  # in a notebook no command has done so
    if config.source and config.edits:
        raise InputError("--source and --edits name the same thing: give one of them")
    if config.source or config.edits:
        return Path(config.source or config.edits)
    from kedit.data.download import counterfact

    return counterfact()


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to that has its name only when it is finished."""
    scratch = path.with_name(f"{path.name}.part")
    try:
        with scratch.open("wb") as lines:
            yield lines
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def _finish(folder: Path, source: Path, tally: Tally, digest: str) -> None:
    """Counts, what was skipped, figure and explanation into the folder; counts to the screen."""
    from dataclasses import asdict

    from figures.benchmark import Share, by_relation
    from figures.style import save

    statistics = {**tally.statistics(), "source": source.name, "sha256": digest}
    write_whole(
        folder / "skipped.jsonl",
        "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in tally.skipped),
    )
    write_whole(folder / "statistics.json", json.dumps(statistics, indent=1, ensure_ascii=False))
    write_whole(folder / "README.txt", EXPLAINED)
    shares = [
        Share(f"{label} ({id})", kind, n_records)
        for (id, label, kind), n_records in tally.relations.items()
    ]
    figure = by_relation(shares, f"RaKE, built from {source.name}", len(tally.subjects))
    save(figure, folder, "records-by-relation")
    screen = console()
    screen.print(_table(statistics))
    screen.print(f"Everything is in {folder}", soft_wrap=True)
    sys.stdout.write(json.dumps(tally.totals()) + "\n")
    sys.stdout.flush()


def _table(statistics: Mapping[str, Any]):
    from rich import box
    from rich.table import Table

    published = statistics["records"] == PUBLISHED["records"]
    table = Table(
        title=f"RaKE from {statistics['source']}",
        caption="lacks: prompts of that kind are missing from so many records.\n"
        "note: kept, but to be known when scores are read.",
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("")
    table.add_column("here", justify="right")
    if published:
        table.add_column("CounterFact", justify="right")
    for name, known in PUBLISHED.items():
        row = (name.replace("_", " "), f"{statistics[name]:,}", f"{known:,}")
        table.add_row(*row[: len(table.columns)])
    table.add_row("distinct paraphrases of relations", f"{statistics['paraphrases']:,}")
    found = sum(int(n) * times for n, times in statistics["relation_neighbours"].items())
    table.add_row("relation neighbours a record", f"{found / statistics['records']:.1f}")
    for kind, n_records in statistics["kinds"].items():
        table.add_row(f"records of a relation of kind {kind}", f"{n_records:,}")
    for prefix, counts in (("lacks", statistics["lacks"]), ("note", statistics["notes"])):
        for words, n_records in counts.items():
            table.add_row(f"{prefix}: {words}", f"{n_records:,}")
    table.add_row("records skipped (skipped.jsonl)", f"{statistics['skipped']:,}")
    return table


EXPLAINED = """\
rake.jsonl             the benchmark, a record a line
skipped.jsonl          records that could not be used: place in the source, reason, case_id
statistics.json        counts, and the sha256 of rake.jsonl
records-by-relation.*  the figure

A record has the fields of CounterFact and of RaKE's authors (rel_counterfact.json), and some of
our own, marked +. S is the subject, O the true object, O* the new one, R the relation's name.

case_id, pararel_idx       as in CounterFact
requested_rewrite
  prompt                   the entity prompt, {} for S; from target_true O to target_new O*
  relation_id, subject, target_new, target_true
  relation
    strs                   R, which is edited, and other names for it
    id, kind           +   Wikidata's id; symmetric, asymmetric or hierarchical
  add_rel_prompt           "The relation between {} and O* is": from "None" to R
  rm_rel_prompt            "The relation between {} and O is": from R to "None"
paraphrase_prompts         the entity prompt in other words: O* is wanted
neighborhood_prompts       other subjects with the same O: it is to stay
attribute_prompts          other subjects of which O* is true; kept, not scored
generation_prompts         beginnings of texts on S
rel_prompts                add_rel_prompt in other words: two for this relation, one for any
rm_rel_prompts         +   rm_rel_prompt in the same words
rel_neighborhood       +   subject S' and "The relation between S' and O is": R is to stay
rel_other_objects      +   object O' and "The relation between S and O' is", S having no relation to
                           O' that the source knows: what the model said is to stay
other_relations        +   prompts on other relations of S: what the model said is to stay
rel_other              +   relation_id, label and object O2 of what the source knows else of S, and
                           "The relation between S and O2 is": label is to stay
portability            +   prompt and answer: a question that is answered by way of O*
lacks                  +   prompts that there are none of
notes                  +   what a reader of the scores should know
"""


if __name__ == "__main__":
    command(Config, run)
