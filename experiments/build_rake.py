"""RaKE, the benchmark of both perspectives, built from CounterFact: the same bytes everywhere."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from experiments._bounds import require_options_in_bounds
from experiments._command import INTERRUPTED, RESULTS, command


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


def run(config: Config) -> Path:
    """Builds, counts, draws and prints; nothing lies in the folder before it is whole."""
    from experiments._printing import say, show
    from figures.benchmark import by_relation
    from figures.style import save
    from kedit.errors import InputError
    from kedit.records import to_record
    from kedit.run_folder import write_whole
    from kedit.studies.rake import build_rake

    require_options_in_bounds(config)  # in a notebook no command has done so
    if config.source and config.edits:
        raise InputError("--source and --edits name the same thing: give one of them")
    source = Path(config.source or config.edits or _downloaded())
    folder = Path(config.out or RESULTS / "build_rake" / source.name.partition(".")[0])
    try:
        built = build_rake(source, folder, extras=config.extras, limit=config.limit)
    except KeyboardInterrupt:
        sys.stderr.write(
            "\nstopped: nothing is kept of what was built, the same command starts again\n"
        )
        sys.exit(INTERRUPTED)
    counts = built.statistics
    write_whole(folder / "skipped.jsonl", built.skipped_lines())
    told = json.dumps(to_record(counts), indent=1, ensure_ascii=False)
    write_whole(folder / counts.FILE, told)
    write_whole(folder / "README.txt", EXPLAINED)
    save(by_relation(counts), folder, "records-by-relation")
    show(counts.table())
    say(f"Everything is in {folder}")
    sys.stdout.write(json.dumps(counts.totals()) + "\n")
    sys.stdout.flush()
    return folder


def _downloaded() -> Path:
    from kedit.data.download import counterfact  # it brings torch, which a build does without

    return counterfact()


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
