"""Compares editors: which one changes a fact best, from which side, and at what cost?

Every editor edits every case. The edited model is scored, the edit is undone, and the editors are
compared by paired tests over the cases.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, cast

import numpy as np
from transformer_lens import HookedTransformer

from kedit.data.choose import labels_of
from kedit.editing.edit import Editor
from kedit.editors.specs import by_side, has_preset, parted
from kedit.facts import EditCase
from kedit.journal import Journal
from kedit.models.load import source_of
from kedit.results.compared import ByCase, Compared, Costs, PairedTest
from kedit.results.outcomes import Outcome
from kedit.results.scores import EditScore
from kedit.scoring.score import Scoring
from kedit.scoring.summary import BY_ALL, LIFTS, Key, by_case, changes, shares
from kedit.stats import Paired, holm, other_sign, paired, row_interval
from kedit.studies.comparison import Comparison, Norms
from kedit.studies.edits import edit_cases
from kedit.studies.equal_norms import edit_equally
from kedit.studies.prepare import SIDES, Arm, Side, require_sides
from kedit.studies.protocol import EditProtocol
from kedit.studies.scoring import scores_before

Perspectives = Literal["both", "entity", "relation", "together"]
TESTED = ("success", "magnitude")
MIB = 2**20


def sides_of(perspective: Perspectives) -> list[Side]:
    """Returns the sides that are edited separately; "together" stands for one edit of both."""
    if perspective == "together":
        return ["together"]
    return [side for side in SIDES if perspective in ("both", side)]


# many parameters, all plain settings that are passed by name
def compare(
    model: HookedTransformer,
    cases: Sequence[EditCase],
    editors: Sequence[str | Editor],
    *,
    perspective: Perspectives | Sequence[Side] = "both",
    labels: Sequence[str] | None = None,
    say: bool = False,
    text: str = "",
    tokens_per_dim: int = 4,
    held_out_text: str = "",
    chunks: int = 2,
    chunk_tokens: int = 128,
    tuned: bool = False,
    norms: Norms = "own",
    seed: int = 0,
    journal: Journal | None = None,
) -> Comparison:
    """Edits every case by every editor, scores the edited model, and compares the editors.

    Each edit is undone before the next one. An edit that is not finite, moves no weight or no
    logit, or doubles the perplexity of held-out text counts as no edit: it enters all means with
    the unedited model's scores.

    Args:
        editors: specs such as "rome:layer=5", or editors; the others are tested against the first.
        perspective: which side is edited; "together": both requests of a case in one edit.
        labels: names of the relations among which a relation is ranked; None: those of the cases.
        say: whether each edited model also continues its prompts, to check whether it says the
            target.
        text: the text that edits spare; see `kedit.studies.prepare.prepare`.
        tokens_per_dim: number of tokens of this text per dimension of an editor's longest key.
        held_out_text: text on which perplexity and KL are measured; see
            `kedit.scoring.drift.held_out`.
        chunks: number of chunks of the held-out text.
        chunk_tokens: tokens per chunk.
        tuned: whether the editors' settings were chosen for this model; if not, the result marks
            editors that have no preset for it.
        norms: "own": edits keep their norms; "equal": each is scaled down to the norm of the
            smallest edit of its case and side.
        seed: seed of contexts, of text that the model writes itself, and of the bootstrap.
        journal: keeps finished scores and edits; what it holds is not computed again.

    Raises:
        InputError: an editor is unknown, a case lacks the side that is edited, no case can be
            scored, or the journal holds a comparison with other settings or weights.
    """
    protocol = EditProtocol(text, tokens_per_dim, held_out_text, chunks, chunk_tokens, seed)
    journal = protocol.begin("compare", model, journal, labels=labels, say=say, norms=norms)
    sides = sides_of(perspective) if isinstance(perspective, str) else list(perspective)
    require_sides(cases, sides)
    labels = labels_of(cases) if labels is None else labels
    arms = protocol.prepare(model, editors, sides)
    assessment = protocol.assessment(model, Scoring(tuple(labels), say, seed=seed))
    before = scores_before(model, cases, assessment.scoring, journal)
    edit_all = {"own": edit_cases, "equal": edit_equally}[norms]
    outcomes = edit_all(model, before, arms, assessment, journal)
    name = source_of(model)
    by_arm = [
        editor
        for side in sides
        for editor in compared(
            list(before.values()), {arm: outcomes[arm] for arm in arms if arm.side == side}, seed
        )
    ]
    return Comparison(
        model=name,
        n_cases=len(before),
        seed=seed,
        perplexity=float(assessment.text.nll.mean().exp()),
        held_out=protocol.name_of_held_out(model),
        editors=tuple(_marked(editor, name, tuned) for editor in by_arm),
        norms=norms,
    )


def compared(
    before: Sequence[EditScore], outcomes: Mapping[Arm, Sequence[Outcome]], seed: int
) -> list[Compared]:
    """Summarises the editors of one side, in their order, and tests them against the first.

    Args:
        before: the scores of the cases before any edit.
        outcomes: of each arm, the outcomes in the order of the cases.
        seed: seed of the bootstrap.
    """
    counted = {
        arm: [outcome.counted(old) for outcome, old in zip(of_arm, before, strict=True)]
        for arm, of_arm in outcomes.items()
    }
    first = next(iter(outcomes))
    measured = {
        arm: changes(before, scores, None if arm.side == "together" else arm.side, seed=seed)
        for arm, scores in counted.items()
    }
    keys = [measure.key for measure in measured[first] if measure.key.statistic in TESTED]
    values = {arm: {key: by_case(after, key) for key in keys} for arm, after in counted.items()}
    sides = ["both", *SIDES] if first.side == "together" else [first.side]
    scores = [Key(side, "Score", way) for side in sides for way in LIFTS]
    shares_of = {
        arm: dict(zip(scores, shares(before, after, scores, seed=seed), strict=True))
        for arm, after in counted.items()
    }
    others = [arm for arm in outcomes if arm is not first]
    tests = {
        (arm, key): paired(values[arm][key], values[first][key], seed=seed)
        for arm in others
        for key in keys
    }
    gaps = {
        (arm, key): found.score - shares_of[first][key].score
        for arm in others
        for key, found in shares_of[arm].items()
    }
    score_tests = {
        arm_and_key: Paired(row_interval(gap), other_sign(gap)) for arm_and_key, gap in gaps.items()
    }
    # Holm adjusts for all measures of the table together, and separately for all of its Scores
    paired_tests = [*_adjusted(tests), *_adjusted(score_tests)]
    whole = Key(sides[0], "Score", BY_ALL)
    return [
        Compared(
            editor=arm.name,
            side=arm.side,
            measures=tuple(measured[arm]),
            locality=row_interval(shares_of[arm][whole].locality),
            generalisation=row_interval(shares_of[arm][whole].generalisation),
            tests=tuple(test for tested, test in paired_tests if tested is arm),
            by_case=tuple(ByCase(key, of_cases) for key, of_cases in values[arm].items()),
            costs=costs_of(outcomes[arm]),
            is_tuned=True,
        )
        for arm in outcomes
    ]


def costs_of(outcomes: Sequence[Outcome]) -> Costs:
    """Returns mean costs over the edits that did not fail, and the number of those that did."""
    whole = [outcome for outcome in outcomes if not outcome.trouble]

    def mean(values: Sequence[int | float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None

    memory = mean([outcome.memory for outcome in whole])
    return Costs(
        failed=len(outcomes) - len(whole),
        seconds=mean([outcome.seconds for outcome in whole]),
        mib=None if memory is None else memory / MIB,
        perplexity=mean([outcome.perplexity for outcome in whole]),
        kl=mean([outcome.kl for outcome in whole]),
        norm=mean([outcome.norm for outcome in whole]),
    )


def _adjusted(tests: Mapping[tuple[Arm, Key], Paired]) -> list[tuple[Arm, PairedTest]]:
    """Returns the tests with p-values that Holm's method adjusts for all of them together."""
    adjusted = holm(np.array([test.p for test in tests.values()]))
    return [
        (arm, PairedTest(key, test.difference, test.p, float(p)))
        for ((arm, key), test), p in zip(tests.items(), adjusted, strict=True)
    ]


def _marked(editor: Compared, model: str, tuned: bool) -> Compared:
    """Returns the result of an editor, marked by whether its settings were chosen for the model."""
    side = cast(str, "relation" if editor.side == "relation" else "entity")
    specs = by_side(editor.editor, side)
    presets = [
        has_preset(parted(spec)[0], model, of_side) for of_side, spec in specs.items() if spec
    ]
    return replace(editor, is_tuned=tuned or all(presets))
