"""Which editor changes a fact best, from which side, and at what cost? Edit, score, undo, test."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, cast

import numpy as np
from transformer_lens import HookedTransformer

from kedit.data.choose import labels_of
from kedit.data.corpus import corpus_of
from kedit.editing.edit import Editor
from kedit.editing.provenance import current_fingerprint
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
from kedit.studies.edits import Assessment, edit_cases
from kedit.studies.equal_norms import edit_equally
from kedit.studies.prepare import SIDES, Arm, Side, prepare, require_sides
from kedit.studies.scoring import scores_before

Perspectives = Literal["both", "entity", "relation", "together"]
TESTED = ("success", "magnitude")
MIB = 2**20


def sides_of(perspective: Perspectives) -> list[Side]:
    """The sides that are edited, each by itself; "together": both requests of a case at once."""
    if perspective == "together":
        return ["together"]
    return [side for side in SIDES if perspective in ("both", side)]


# plain settings, each by its name
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
    """Edits every case by every editor, scores the edited model, and takes the edit back.

    An edit that is not finite, moves no weight or no logit, or doubles the perplexity of held-out
    text counts as no edit: it enters all means with the unedited model's scores.

    Args:
        editors: specs such as "rome:layer=5", or editors; tests are against the first one.
        perspective: which side is edited; "together": both requests of a case in one edit.
        labels: relations' names, among which a relation is ranked; None: those of the cases.
        say: let each edited model speak after its prompts, and look whether it says the target.
        text, tokens_per_dim: whose statistics edits are to spare (`kedit.studies.prepare.prepare`).
        held_out_text, chunks, chunk_tokens: whose perplexity is watched: which text, how many
            chunks of it, and tokens per chunk (`kedit.scoring.drift.held_out`).
        tuned: the editors' settings were chosen for the model, whether or not it has presets.
        norms: of edits: their own, or all "equal": scaled down to the smallest of their case and
            side.
        seed: of contexts, of the model's own text and of the bootstrap.
        journal: keeps what is finished; what it holds is not done again.

    Raises:
        InputError: an unknown editor, a case without the side that is edited, or none that can be
            scored.
    """
    journal = Journal() if journal is None else journal
    journal.ask(
        "compare",
        model=current_fingerprint(model),
        labels=labels,
        say=say,
        text=text,
        tokens_per_dim=tokens_per_dim,
        held_out_text=held_out_text,
        chunks=chunks,
        chunk_tokens=chunk_tokens,
        norms=norms,
        seed=seed,
    )
    sides = sides_of(perspective) if isinstance(perspective, str) else list(perspective)
    require_sides(cases, sides)
    labels = labels_of(cases) if labels is None else labels
    arms = prepare(model, editors, sides, text=text, tokens_per_dim=tokens_per_dim, seed=seed)
    scoring = Scoring(tuple(labels), say, seed=seed)
    assessment = Assessment.by(model, scoring, held_out_text, chunks, chunk_tokens)
    before = scores_before(model, cases, scoring, journal)
    how = {"own": edit_cases, "equal": edit_equally}[norms]
    outcomes = how(model, before, arms, assessment, journal)
    name = source_of(model)
    by_arm = [
        one
        for side in sides
        for one in compared(
            list(before.values()), {arm: outcomes[arm] for arm in arms if arm.side == side}, seed
        )
    ]
    return Comparison(
        model=name,
        n_cases=len(before),
        seed=seed,
        perplexity=float(assessment.text.nll.mean().exp()),
        held_out=corpus_of(name, held_out_text, seed, held_out=True).name,
        editors=tuple(_marked(one, name, tuned) for one in by_arm),
        norms=norms,
    )


def compared(
    before: Sequence[EditScore], outcomes: Mapping[Arm, Sequence[Outcome]], seed: int
) -> list[Compared]:
    """The editors of one side, in their order: measures, shares, and tests against the first."""
    counted = {
        arm: [one.counted(old) for one, old in zip(ones, before, strict=True)]
        for arm, ones in outcomes.items()
    }
    first = next(iter(outcomes))
    measured = {
        arm: changes(before, scores, None if arm.side == "together" else arm.side, seed=seed)
        for arm, scores in counted.items()
    }
    keys = [one.key for one in measured[first] if one.key.statistic in TESTED]
    values = {arm: {key: by_case(own, key) for key in keys} for arm, own in counted.items()}
    sides = ["both", *SIDES] if first.side == "together" else [first.side]
    scores = [Key(side, "Score", way) for side in sides for way in LIFTS]
    made_of = {
        arm: dict(zip(scores, shares(before, own, scores, seed=seed), strict=True))
        for arm, own in counted.items()
    }
    others = [arm for arm in outcomes if arm is not first]
    tests = {
        (arm, key): paired(values[arm][key], values[first][key], seed=seed)
        for arm in others
        for key in keys
    }
    gaps = {
        (arm, key): own.score - made_of[first][key].score
        for arm in others
        for key, own in made_of[arm].items()
    }
    score_tests = {both: Paired(row_interval(gap), other_sign(gap)) for both, gap in gaps.items()}
    # all measures of one table together, and all of its Scores
    paired_tests = [*_adjusted(tests), *_adjusted(score_tests)]
    whole = Key(sides[0], "Score", BY_ALL)
    return [
        Compared(
            editor=arm.name,
            side=arm.side,
            measures=tuple(measured[arm]),
            locality=row_interval(made_of[arm][whole].locality),
            generalisation=row_interval(made_of[arm][whole].generalisation),
            tests=tuple(test for one, test in paired_tests if one is arm),
            by_case=tuple(ByCase(key, own) for key, own in values[arm].items()),
            costs=costs_of(outcomes[arm]),
            is_tuned=True,
        )
        for arm in outcomes
    ]


def costs_of(outcomes: Sequence[Outcome]) -> Costs:
    """Means over edits; what failed counts in the number of failures only."""
    whole = [one for one in outcomes if not one.trouble]

    def mean(values: Sequence[int | float | None]) -> float | None:
        there = [value for value in values if value is not None]
        return sum(there) / len(there) if there else None

    memory = mean([one.memory for one in whole])
    return Costs(
        failed=len(outcomes) - len(whole),
        seconds=mean([one.seconds for one in whole]),
        mib=None if memory is None else memory / MIB,
        perplexity=mean([one.perplexity for one in whole]),
        kl=mean([one.kl for one in whole]),
        norm=mean([one.norm for one in whole]),
    )


def _adjusted(tests: Mapping[tuple[Arm, Key], Paired]) -> list[tuple[Arm, PairedTest]]:
    """Tests that are made together, with Holm's p-values."""
    adjusted = holm(np.array([test.p for test in tests.values()]))
    return [
        (arm, PairedTest(key, test.difference, test.p, float(p)))
        for ((arm, key), test), p in zip(tests.items(), adjusted, strict=True)
    ]


def _marked(one: Compared, model: str, tuned: bool) -> Compared:
    """With whether somebody chose its settings for the model."""
    side = cast(str, "relation" if one.side == "relation" else "entity")
    specs = by_side(one.editor, side)
    presets = [has_preset(parted(spec)[0], model, own) for own, spec in specs.items() if spec]
    return replace(one, is_tuned=tuned or all(presets))
