"""Ablates attention from edits: what does it add that an edit may change W_O too?

Every case is edited with W_out alone, with W_O alone, with both, and with W_out and the rows of
random heads of W_O. If random heads do as well as all of W_O, the heads do not matter.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from transformer_lens import HookedTransformer

from kedit.editing.edit import Editor
from kedit.editors.joint import Joint
from kedit.editors.registry import label_of, make_editor
from kedit.errors import InputError
from kedit.facts import EditCase, Perspective
from kedit.journal import Journal
from kedit.models.load import source_of
from kedit.results.ablation import (
    ABLATED,
    ALL,
    BOTH,
    RANDOM,
    SCORE,
    SUMMARIES,
    AblatedArm,
    Ablation,
    AblationLine,
)
from kedit.results.outcomes import Outcome
from kedit.results.scores import EditScore
from kedit.scoring.score import Scoring
from kedit.scoring.summary import LIFTS, Key, part_name, shares
from kedit.stats import other_sign, row_interval
from kedit.studies.equal_norms import Budget, edit_within
from kedit.studies.prepare import EditorChoice, require_sides
from kedit.studies.protocol import EditProtocol
from kedit.studies.scoring import scores_before

MIN_CASES = 5  # a kind of relation with fewer cases gets no lines in the table
BUDGETS: tuple[Budget, ...] = ("free", "equal")
Outcomes = Mapping[Budget, Mapping[str, Sequence[Outcome]]]  # by budget, then by spec
Rows = Mapping[str, Float[ndarray, " one_and_draws"]]


# many parameters, all plain settings that are passed by name
def ablate(
    model: HookedTransformer,
    cases: Sequence[EditCase],
    editors: Mapping[str, str | Editor] = ABLATED,
    *,
    perspective: Perspective = "relation",
    n_random_heads: int = 0,
    draws: int = 3,
    text: str = "",
    tokens_per_dim: int = 4,
    held_out_text: str = "",
    chunks: int = 2,
    chunk_tokens: int = 128,
    seed: int = 0,
    journal: Journal | None = None,
) -> Ablation:
    """Edits every case with W_out, W_O, both, and W_out with random heads, and scores the edits.

    Every edit is scored as it is made, and again scaled down to the norm of the smallest edit of
    its case.

    Args:
        editors: editors by what they may change, with the keys of ABLATED; that of "both" must be
            a `Joint`.
        perspective: which side is edited.
        n_random_heads: number of random heads per layer whose rows of W_O may change in addition
            to W_out; 0: half of the layer's heads.
        draws: how often these heads are drawn.
        text, tokens_per_dim, held_out_text, chunks, chunk_tokens, journal: see
            `kedit.studies.comparing.compare`.
        seed: seed of the heads, of contexts, of text that the model writes, and of the bootstrap.

    Raises:
        InputError: an editor is unknown, n_random_heads is not below the number of heads, a case
            lacks the side that is edited, no case can be scored, or the journal holds an ablation
            with other settings or weights.
    """
    protocol = EditProtocol(text, tokens_per_dim, held_out_text, chunks, chunk_tokens, seed)
    journal = protocol.begin("ablate", model, journal)
    require_sides(cases, [perspective])
    by_arm = arms_of(model, editors, perspective, n_random_heads, draws, seed)
    by_spec = {spec: editor for drawn in by_arm.values() for spec, editor in drawn.items()}
    choices = [EditorChoice(spec, perspective, editor) for spec, editor in by_spec.items()]
    arms = protocol.prepare_choices(model, choices)
    assessment = protocol.assessment(model, Scoring(say=False, seed=seed))
    before = scores_before(model, cases, assessment.scoring, journal)
    found = edit_within(model, before, arms, assessment, journal, BUDGETS)
    outcomes: Outcomes = {
        budget: {arm.name: found[arm, budget] for arm in arms} for budget in BUDGETS
    }
    ablated = tuple(AblatedArm(name, tuple(drawn)) for name, drawn in by_arm.items())
    lines = tuple(ablation_lines(list(before.values()), ablated, outcomes, perspective, seed))
    return Ablation(source_of(model), perspective, seed, ablated, lines)


def arms_of(
    model: HookedTransformer,
    editors: Mapping[str, str | Editor],
    perspective: Perspective,
    n_random_heads: int,
    draws: int,
    seed: int,
) -> dict[str, dict[str, Editor]]:
    """Returns the editors of each arm, by their specs.

    An arm is named by what its edits may change. The arm with random heads has one editor per draw
    of heads, the others have one editor.

    Raises:
        InputError: an editor is unknown, n_random_heads is not below the number of heads, or the
            editor of "both" is no `Joint`.
    """
    found: dict[str, dict[str, Editor]] = {}
    for name, editor in editors.items():
        if isinstance(editor, str):
            found[name] = {editor: make_editor(editor, model, perspective)}
        else:
            found[name] = {label_of(editor): editor}
    ((spec, both),) = found[BOTH].items()
    if not isinstance(both, Joint):
        raise InputError(f"{spec}: the editor of {BOTH!r} must be a joint editor")
    n_heads = model.cfg.n_heads
    drawn = with_random_heads(both, n_heads, n_random_heads or n_heads // 2, draws, seed)
    found[RANDOM] = {f"{spec}:heads={joint.heads!r}".replace(" ", ""): joint for joint in drawn}
    return found


def with_random_heads(editor: Joint, n_heads: int, n: int, draws: int, seed: int) -> list[Joint]:
    """Returns `draws` editors that may change the rows of `n` random heads in each of their layers.

    Args:
        n_heads: number of heads of a layer.

    Raises:
        InputError: n is not between 1 and n_heads - 1.
    """
    if not 0 < n < n_heads:
        raise InputError(
            f"n_random_heads={n} (--n-random-heads): must be from 1 to {n_heads - 1}, as a layer "
            f"has {n_heads} heads"
        )
    draw = random.Random(seed)
    return [
        replace(
            editor,
            heads=tuple(
                (layer, head)
                for layer in editor.layers
                for head in sorted(draw.sample(range(n_heads), n))
            ),
        )
        for _ in range(draws)
    ]


def ablation_lines(
    before: Sequence[EditScore],
    arms: Sequence[AblatedArm],
    outcomes: Outcomes,
    perspective: Perspective,
    seed: int,
) -> Iterator[AblationLine]:
    """Yields scores, shares and paired differences: by budget, kind of relation and arm."""
    for budget, by_spec in outcomes.items():
        for kind, indices in _kinds(before).items():
            by_arm = {
                arm.name: [[by_spec[spec][index] for index in indices] for spec in arm.editors]
                for arm in arms
            }
            old = [before[index] for index in indices]
            rows = {arm: _rows(old, draws, perspective, seed) for arm, draws in by_arm.items()}
            for arm, draws in by_arm.items():
                gap = rows[BOTH][SCORE] - rows[arm][SCORE]
                yield AblationLine(
                    budget=budget,
                    kind=kind,
                    arm=arm,
                    values={name: row_interval(row) for name, row in rows[arm].items()},
                    difference=None if arm == BOTH else row_interval(gap),
                    p=None if arm == BOTH else float(other_sign(gap)),
                    n_cases=len(indices),
                    n_failed=sum(bool(outcome.trouble) for draw in draws for outcome in draw),
                )


def _kinds(before: Sequence[EditScore]) -> dict[str, list[int]]:
    """Returns the indices of all cases, then those of each kind of relation with enough cases."""
    kinds: dict[str, list[int]] = {ALL: list(range(len(before)))}
    for name in sorted({score.kind for score in before} - {""}):
        kinds[name] = [index for index, score in enumerate(before) if score.kind == name]
    return {name: rows for name, rows in kinds.items() if name == ALL or len(rows) >= MIN_CASES}


def _rows(
    before: Sequence[EditScore],
    draws: Sequence[Sequence[Outcome]],
    perspective: Perspective,
    seed: int,
) -> Rows:
    """Returns the Score and the shares of an arm, as means over its draws of heads.

    Each row holds the value over all cases, then the values over bootstrap draws of the cases.

    Args:
        draws: for each draw of heads, the outcomes in the order of the cases.
    """
    scores = [Key(perspective, "Score", way) for way in LIFTS]
    each = []
    for outcomes in draws:
        after = [outcome.counted(old) for outcome, old in zip(outcomes, before, strict=True)]
        by_success, by_magnitude, by_both = shares(before, after, scores, seed=seed)
        sums = (by_success.score, by_magnitude.score, by_both.generalisation, by_both.locality)
        rows = {SCORE: by_both.score, **dict(zip(SUMMARIES, sums, strict=True))}
        each.append(rows | {part_name(part): row for part, row in by_both.parts.items()})
    return {name: np.mean([rows[name] for rows in each], axis=0) for name in each[0]}
