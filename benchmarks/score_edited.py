"""How much faster is it to score an edited model above the edit? python -m benchmarks.score_edited

Compares what `kedit.studies.edits.effect_of` does after an edit, with and without the states that
are kept below the lowest edited layer. Edits are real ones of built-in cases. Both ways give the
same scores, and the benchmark checks this. Times on one thread are CPU seconds. The last line is
JSON: the time from the embedding divided by the time from the lowest edited layer.

  joint, rome       checking the edit and scoring its case, once the states are kept
  *_score, *_check  parts of it: scoring the case; the check, most of which is held-out text
  study             both edits of each case, with the first reading, after which states are kept
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence

import torch
from transformer_lens import HookedTransformer

from benchmarks._timing import clock, report
from kedit.data import builtin
from kedit.data.choose import labels_of
from kedit.editing.checks import checked
from kedit.editing.edit import Edit
from kedit.facts import EditCase
from kedit.models.load import load
from kedit.scoring.drift import baseline, drift, held_out
from kedit.scoring.score import Scoring, score
from kedit.studies.edits import Assessment
from kedit.studies.prepare import Arm, prepare, requests_of

CHUNKS, CHUNK_TOKENS = 2, 128  # of held-out text, the defaults of compare_editors


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="gemma-3-270m")
    parser.add_argument("--cases", type=int, default=6, help="edit cases")
    parser.add_argument("--layer", type=int, default=13, help="layer that joint edits")
    parser.add_argument("--rome-layer", type=int, default=5, help="layer that ROME edits")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="one case")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = load(options.model, device="cpu")
    every = [case for case in builtin.cases() if case.relation]
    n_cases = 1 if options.quick else options.cases
    cases = every[:: max(1, len(every) // n_cases)][:n_cases]
    editors = {
        "joint": f"joint:layers=({options.layer},)",
        "rome": f"rome:layer={options.rome_layer}",
    }
    arms = dict(zip(editors, prepare(model, [*editors.values()], ["relation"]), strict=True))
    scoring = Scoring(tuple(labels_of(every)), say=False)
    text = baseline(model, held_out(model, "", CHUNKS, 0, CHUNK_TOKENS))
    spent: dict[str, float] = defaultdict(float)
    assessment = Assessment(scoring, text)
    for number, case in enumerate(cases):
        edits = {name: arm.edit(case) for name, arm in arms.items()}
        if not number:  # the text is read once for all cases of a study
            for edit in edits.values():
                with edit.applied(model):
                    drift(model, text, assessment.kept)
        compare(model, case, edits, arms, assessment, spent)
    figures = {}
    for key in [
        *arms,
        *(f"{name}_{part}" for name in arms for part in ("score", "check")),
        "study",
    ]:
        slow, fast = (spent[f"{key} {way}"] / len(cases) for way in ("plain", "kept"))
        figures[key] = slow / fast
        print(f"{key}: {slow:.2f} s from the embedding, {fast:.2f} s from the lowest edited layer")
    report(figures)


def compare(
    model: HookedTransformer,
    case: EditCase,
    edits: dict[str, Edit],
    arms: dict[str, Arm],
    assessment: Assessment,
    spent: dict[str, float],
) -> None:
    """Measures the edits of one case in all ways, and adds the seconds to `spent`."""
    for round_ in ("study", "again"):
        for name, edit in edits.items():
            found = []
            for way, states in (("plain", None), ("kept", assessment.kept)):
                start = clock()
                requests = requests_of(case, arms[name].side)
                check = checked(model, edit, requests, assessment.text, kept=states)
                middle = clock()
                with edit.applied(model):
                    scores = score(model, [case], assessment.scoring, None, states)
                end = clock()
                found.append((check.trouble, check.drift, scores))
                if round_ == "study":
                    spent[f"study {way}"] += end - start
                else:
                    spent[f"{name} {way}"] += end - start
                    spent[f"{name}_check {way}"] += middle - start
                    spent[f"{name}_score {way}"] += end - middle
            require_equal(*found)


def require_equal(slow: Sequence, fast: Sequence) -> None:
    """Checks that both ways have found the same, to the bit."""
    assert slow[0] == fast[0] and slow[2] == fast[2]
    if slow[1] is not None:
        assert torch.equal(slow[1].after, fast[1].after) and torch.equal(slow[1].kl, fast[1].kl)


if __name__ == "__main__":
    main()
