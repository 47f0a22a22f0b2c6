"""What does attention add to an edit? W_out, W_O, both, and random heads of W_O."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from transformer_lens import HookedTransformer

from kedit.editing.edit import Editor
from kedit.editing.provenance import current_fingerprint
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
from kedit.studies.edits import Assessment
from kedit.studies.equal_norms import Budget, edit_within
from kedit.studies.prepare import EditorChoice, prepared_arms, require_sides
from kedit.studies.scoring import scores_before

FEWEST = 5  # cases of a kind, for lines of its own
WITHIN: tuple[Budget, ...] = ("free", "equal")
Outcomes = Mapping[Budget, Mapping[str, Sequence[Outcome]]]  # by budget, then by spec
Rows = Mapping[str, Float[ndarray, " one_and_draws"]]


# plain settings, each by its name
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
    """Edits every case by editors that may change W_out, W_O or both, and both with random heads.

    Every edit is looked at as it is made, and scaled down to the norm of the smallest of its case.

    Args:
        editors: by what they may change, as ABLATED has them; that of "both" is a `Joint`.
        perspective: which side is edited.
        n_random_heads: random heads per layer whose rows of W_O may change, beside W_out; 0: half
            of all heads.
        draws: how often these heads are drawn.
        text, tokens_per_dim, held_out_text, chunks, chunk_tokens, journal: as
            `kedit.studies.comparing.compare` has them.
        seed: of the heads, of contexts, own text and the bootstrap.

    Raises:
        InputError: an unknown editor, more heads than there are, a case without the side that is
            edited, or none that can be scored.
    """
    journal = Journal() if journal is None else journal
    journal.ask(
        "ablate",
        model=current_fingerprint(model),
        text=text,
        tokens_per_dim=tokens_per_dim,
        held_out_text=held_out_text,
        chunks=chunks,
        chunk_tokens=chunk_tokens,
        seed=seed,
    )
    require_sides(cases, [perspective])
    by_arm = arms_of(model, editors, perspective, n_random_heads, draws, seed)
    every = {spec: one for ones in by_arm.values() for spec, one in ones.items()}
    wanted = [EditorChoice(spec, perspective, one) for spec, one in every.items()]
    arms = prepared_arms(model, wanted, text=text, tokens_per_dim=tokens_per_dim, seed=seed)
    scoring = Scoring(say=False, seed=seed)
    assessment = Assessment.by(model, scoring, held_out_text, chunks, chunk_tokens)
    before = scores_before(model, cases, scoring, journal)
    found = edit_within(model, before, arms, assessment, journal, WITHIN)
    outcomes: Outcomes = {one: {arm.name: found[arm, one] for arm in arms} for one in WITHIN}
    ablated = tuple(AblatedArm(name, tuple(ones)) for name, ones in by_arm.items())
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
    """By what may change, the editors by their specs: one, or one for each draw of heads.

    Raises:
        InputError: an unknown editor, more heads than there are, or "both" is no `Joint`.
    """
    found: dict[str, dict[str, Editor]] = {}
    for name, one in editors.items():
        spec = one if isinstance(one, str) else label_of(one)
        made = make_editor(one, model, perspective) if isinstance(one, str) else one
        found[name] = {spec: made}
    ((spec, both),) = found[BOTH].items()
    if not isinstance(both, Joint):
        raise InputError(f"{spec}: a joint editor is wanted for {BOTH!r}")
    n_heads = model.cfg.n_heads
    drawn = with_random_heads(both, n_heads, n_random_heads or n_heads // 2, draws, seed)
    found[RANDOM] = {f"{spec}:heads={one.heads!r}".replace(" ", ""): one for one in drawn}
    return found


def with_random_heads(editor: Joint, n_heads: int, n: int, draws: int, seed: int) -> list[Joint]:
    """The editor with the rows of `n` heads of each of its layers, drawn `draws` times.

    Args:
        n_heads: that a layer has.

    Raises:
        InputError: a layer has no more than `n` heads.
    """
    if not 0 < n < n_heads:
        raise InputError(f"--n-random-heads {n}: from 1 to {n_heads - 1} of a layer's {n_heads}")
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
    """Scores, shares and paired differences: by budget, kind of relation and arm."""
    for budget, by_spec in outcomes.items():
        for kind, places in _kinds(before).items():
            own = {
                arm.name: [[by_spec[spec][place] for place in places] for spec in arm.editors]
                for arm in arms
            }
            old = [before[place] for place in places]
            rows = {arm: _rows(old, each, perspective, seed) for arm, each in own.items()}
            for arm, each in own.items():
                gap = rows[BOTH][SCORE] - rows[arm][SCORE]
                yield AblationLine(
                    budget=budget,
                    kind=kind,
                    arm=arm,
                    values={name: row_interval(row) for name, row in rows[arm].items()},
                    difference=None if arm == BOTH else row_interval(gap),
                    p=None if arm == BOTH else float(other_sign(gap)),
                    n_cases=len(places),
                    n_failed=sum(bool(one.trouble) for ones in each for one in ones),
                )


def _kinds(before: Sequence[EditScore]) -> dict[str, list[int]]:
    """The places of all cases, then of each kind's, if it has enough."""
    kinds: dict[str, list[int]] = {ALL: list(range(len(before)))}
    for name in sorted({score.kind for score in before} - {""}):
        kinds[name] = [place for place, score in enumerate(before) if score.kind == name]
    return {name: own for name, own in kinds.items() if name == ALL or len(own) >= FEWEST}


def _rows(
    before: Sequence[EditScore],
    draws: Sequence[Sequence[Outcome]],
    perspective: Perspective,
    seed: int,
) -> Rows:
    """Score and shares over all cases and over each draw of them; means over the draws of heads."""
    scores = [Key(perspective, "Score", way) for way in LIFTS]
    each = []
    for outcomes in draws:
        after = [one.counted(old) for one, old in zip(outcomes, before, strict=True)]
        by_success, by_magnitude, made_of = shares(before, after, scores, seed=seed)
        sums = (by_success.score, by_magnitude.score, made_of.generalisation, made_of.locality)
        rows = {SCORE: made_of.score, **dict(zip(SUMMARIES, sums, strict=True))}
        each.append(rows | {part_name(part): row for part, row in made_of.parts.items()})
    return {name: np.mean([one[name] for one in each], axis=0) for name in each[0]}
