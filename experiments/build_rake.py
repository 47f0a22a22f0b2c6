"""Builds RaKE, the benchmark for entity and relation edits, from CounterFact.

Every machine builds the same bytes.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from experiments import _options as options
from experiments._bounds import require_options_in_bounds
from experiments._command import INTERRUPTED, RESULTS, command


@dataclass(frozen=True)
class Config:
    """What RaKE is built from, and where it is written."""

    source: str = ""
    """The file of CounterFact: .json or .jsonl, also with .xz or .gz. Empty: it is downloaded once
    and cached."""
    edits: str = ""
    """Instead of --source: a file with only the edits of CounterFact, without test prompts."""
    extras: str = ""
    """A file of EasyEdit's additions to CounterFact, by case_id, for portability questions."""
    limit: int = 0
    """The number of records to build, from the first one on; 0: all records."""
    out: str = ""
    """The folder of the files (default: results/build_rake/NAME-OF-THE-SOURCE)."""
    seed: int = options.unused(0, "draws nothing")
    device: str = options.unused("auto", "loads no model")
    dtype: str = options.unused("float32", "loads no model")


def run(config: Config) -> Path:
    """Builds the benchmark, counts, draws and prints; each file appears only when it is whole."""
    from experiments._printing import say, show
    from figures.benchmark import by_relation
    from figures.style import save
    from kedit.errors import InputError
    from kedit.records import to_record
    from kedit.run_folder import write_whole
    from kedit.studies.rake import build_rake

    require_options_in_bounds(config)  # a notebook calls `run` without `command`
    if config.source and config.edits:
        raise InputError("--source and --edits exclude each other: give one of them")
    source = Path(config.source or config.edits or _downloaded())
    folder = Path(config.out or RESULTS / "build_rake" / source.name.partition(".")[0])
    try:
        built = build_rake(source, folder, extras=config.extras, limit=config.limit)
    except KeyboardInterrupt:
        sys.stderr.write(
            "\nstopped: the unfinished files are removed, and the same command starts again\n"
        )
        sys.exit(INTERRUPTED)
    counts = built.statistics
    write_whole(folder / "skipped.jsonl", built.skipped_lines())
    text = json.dumps(to_record(counts), indent=1, ensure_ascii=False)
    write_whole(folder / counts.FILE, text)
    write_whole(folder / "README.txt", EXPLAINED)
    save(by_relation(counts), folder, "records-by-relation")
    show(counts.table())
    say(f"Everything is in {folder}")
    sys.stdout.write(json.dumps(counts.totals()) + "\n")
    sys.stdout.flush()
    return folder


def _downloaded() -> Path:
    from kedit.data.download import counterfact  # imports torch, which a build does not need

    return counterfact()


EXPLAINED = """\
rake.jsonl             the benchmark, one record per line
skipped.jsonl          records that could not be used: location in the source, reason, case_id
statistics.json        counts, and the sha256 of rake.jsonl
records-by-relation.*  the figure

A record has the fields of CounterFact and of RaKE's authors (rel_counterfact.json). Fields that
kedit adds are marked +. S is the subject, O the true object, O* the new object, R the relation's
name.

case_id, pararel_idx       as in CounterFact
requested_rewrite
  prompt                   the entity prompt, {} for S; from target_true O to target_new O*
  relation_id, subject, target_new, target_true
  relation
    strs                   R, which is edited, and other names for it
    id, kind           +   the id in Wikidata; symmetric, asymmetric or hierarchical
  add_rel_prompt           "The relation between {} and O* is": from "None" to R
  rm_rel_prompt            "The relation between {} and O is": from R to "None"
paraphrase_prompts         the entity prompt in other words: the answer should be O*
neighborhood_prompts       other subjects with the same O: the answer should stay O
attribute_prompts          other subjects whose true object is O*; not scored
generation_prompts         beginnings of texts about S
rel_prompts                add_rel_prompt in other words: two for this relation, one for any
rm_rel_prompts         +   rm_rel_prompt in the same words
rel_neighborhood       +   subject S' and "The relation between S' and O is": R should stay
rel_other_objects      +   object O' and "The relation between S and O' is", where the source knows
                           no relation of S to O': the model's answer should stay
other_relations        +   prompts about other relations of S: the model's answer should stay
rel_other              +   relation_id, label and object O2 of another fact about S, and "The
                           relation between S and O2 is": label should stay
portability            +   prompt and answer: a question whose answer follows from O*
lacks                  +   the groups of prompts that this record does not have
notes                  +   what a reader of the scores should know
"""


if __name__ == "__main__":
    command(Config, run)
