"""Compares the frontiers of editors: which one gains more for what it loses?

A single comparison of two editors depends on how strong each one's settings make its edits: a
stronger edit gains more and keeps less. So a setting that makes edits stronger or weaker is varied,
and editors are compared where they keep equally much, or gain equally much.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from transformer_lens import HookedTransformer

from kedit.editors.specs import varied
from kedit.errors import InputError
from kedit.facts import EditCase, Perspective
from kedit.journal import Journal
from kedit.models.load import source_of
from kedit.results.frontier import Curve, Frontiers, Gap, gap_between
from kedit.results.outcomes import Outcome
from kedit.results.scores import EditScore
from kedit.scoring.score import Scoring
from kedit.scoring.summary import BY_ALL, Key, Shares, shares
from kedit.stats import holm, other_sign, row_interval
from kedit.studies.edits import edit_cases
from kedit.studies.prepare import one_sided, require_different
from kedit.studies.protocol import EditProtocol
from kedit.studies.scoring import scores_before


# many parameters, all plain settings that are passed by name
def compare_frontiers(
    model: HookedTransformer,
    cases: Sequence[EditCase],
    editors: Sequence[str],
    *,
    field: str = "weight",
    values: Sequence[int | float],
    perspective: Perspective = "relation",
    text: str = "",
    tokens_per_dim: int = 4,
    held_out_text: str = "",
    chunks: int = 1,
    chunk_tokens: int = 128,
    seed: int = 0,
    journal: Journal | None = None,
) -> Frontiers:
    """Edits every case by every editor with every value of a setting; compares the frontiers.

    Args:
        editors: specs such as "joint" or "rome:layer=5"; each must have the setting.
        field: the setting that is varied, such as "weight" or "training.clamp".
        values: its values.
        perspective: which side is edited; only the prompts of this side are scored.
        text, tokens_per_dim, held_out_text, chunks, chunk_tokens, seed, journal: see
            `kedit.studies.comparing.compare`.

    Raises:
        InputError: an editor is unknown or lacks the setting, a value is out of bounds, fewer than
            two values or the same value or editor twice, a case lacks the side that is edited, no
            case can be scored, or the journal holds another study.
    """
    if len(values) < 2 or len(set(values)) < len(values):
        raise InputError(f"values: must be at least two different values, got {[*values]}")
    require_different(editors)
    protocol = EditProtocol(text, tokens_per_dim, held_out_text, chunks, chunk_tokens, seed)
    journal = protocol.begin("compare_frontiers", model, journal)
    cases = one_sided(cases, perspective)
    specs = {editor: [varied(editor, field, value) for value in values] for editor in editors}
    every = [spec for of_editor in specs.values() for spec in of_editor]
    arms = protocol.prepare(model, every, [perspective])
    assessment = protocol.assessment(model, Scoring(say=False, seed=seed))
    before = scores_before(model, cases, assessment.scoring, journal)
    outcomes = edit_cases(model, before, arms, assessment, journal)
    by_spec = {arm.name: of_arm for arm, of_arm in outcomes.items()}
    found = {
        editor: [
            _shares(list(before.values()), by_spec[spec], perspective, seed) for spec in of_editor
        ]
        for editor, of_editor in specs.items()
    }
    curves = tuple(
        Curve(
            editor,
            tuple(one.point for one in found[editor]),
            tuple(row_interval(one.score) for one in found[editor]),
            tuple(sum(bool(o.trouble) for o in by_spec[spec]) for spec in of_editor),
        )
        for editor, of_editor in specs.items()
    )
    return Frontiers(
        source_of(model), perspective, field, tuple(values), len(before), seed, curves,
        gaps_of({editor: points_of(of_editor) for editor, of_editor in found.items()}),
    )  # fmt: skip


def points_of(found: Sequence[Shares]) -> Float[ndarray, "one_and_draws value 2"]:
    """Returns locality and generalisation for each value of the setting, in every draw."""
    both = [np.stack([one.locality, one.generalisation], -1) for one in found]
    return np.stack(both, 1)


def gaps_of(points: Mapping[str, Float[ndarray, "one_and_draws value 2"]]) -> tuple[Gap, ...]:
    """Compares every pair of editors, at equal locality and at equal generalisation."""
    rows = {
        (editor, other, column): np.array(
            [
                gap_between(ours, theirs, column)
                for ours, theirs in zip(points[editor], points[other], strict=True)
            ]
        )
        for editor, other in combinations(points, 2)
        for column in (0, 1)
    }
    p_values = np.array([other_sign(row) for row in rows.values()])
    return tuple(
        Gap(editor, other, "generalisation" if column else "locality", row_interval(row),
            float(p), float(adjusted))
        for ((editor, other, column), row), p, adjusted in zip(
            rows.items(), p_values, holm(p_values), strict=True
        )
    )  # fmt: skip


def _shares(
    before: Sequence[EditScore], outcomes: Sequence[Outcome], side: Perspective, seed: int
) -> Shares:
    """The shares of one editor with one value of the setting, by success and magnitude together."""
    counted = [outcome.counted(old) for outcome, old in zip(outcomes, before, strict=True)]
    (found,) = shares(before, counted, [Key(side, "Score", BY_ALL)], seed=seed)
    return found
