"""Which settings suit which editor? As many tries for each, on the same cases."""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformer_lens import HookedTransformer

from kedit.editing.edit import Editor
from kedit.editing.provenance import current_fingerprint
from kedit.editors.registry import label_of, make_editor, with_setting
from kedit.editors.specs import parted
from kedit.editors.variants import VARIANTS
from kedit.errors import InputError
from kedit.facts import EditCase, Perspective
from kedit.journal import Journal
from kedit.models.load import source_of
from kedit.results.outcomes import Outcome
from kedit.results.scores import EditScore
from kedit.results.tuning import Try, TunedEditor, Tuning
from kedit.scoring.score import Scoring
from kedit.scoring.summary import BY_ALL, BY_MAGNITUDE, Key, part_name, shares
from kedit.stats import row_interval
from kedit.studies.edits import Assessment, edit_cases
from kedit.studies.prepare import EditorChoice, prepared_arms, require_sides
from kedit.studies.scoring import scores_before

Space = Mapping[str, Sequence[Any]]  # the values of every field that are tried
WIDEST = 3  # layers that are written together
# what is tried of a field that an editor has; "layers" and "layer" come from the model's depth
SPACE: Space = {
    "training.clamp": [0.5, 1.0, 2.0],
    "training.lr": [0.1, 0.3],
    "weight": [30.0, 1e2, 3e2, 1e3, 3e3],
    "keep": [0.3, 1.0, 3.0, 10.0],
    "neighbours": [0, 8],
    "family": [0, 128, 256],
    "wordings": [0, 4, 8],
    "lr": [1e-4, 2e-4, 5e-4],
    "bound": [5e-4, 1e-3, 2e-3],
    "scale": [0.5, 1.0, 1.5],
    "erase": [0.01, 0.03, 0.05],
    "write": [0.01, 0.03, 0.05],
}


# plain settings, each by its name
def tune(
    model: HookedTransformer,
    cases: Sequence[EditCase],
    editors: Sequence[str | Editor],
    *,
    perspective: Perspective = "relation",
    space: Space | None = None,
    tries: int = 8,
    text: str = "",
    tokens_per_dim: int = 4,
    held_out_text: str = "",
    chunks: int = 1,
    chunk_tokens: int = 128,
    seed: int = 0,
    journal: Journal | None = None,
) -> Tuning:
    """Tries as many settings of every editor on the same cases, and ranks them by their Scores.

    The best of several tries looks better than it is: what it is worth, other cases tell.

    Args:
        editors: as `tried` takes them.
        perspective: which side is edited; only its probes are scored.
        space: the values of every field; by default `space_of` the model's depth.
        tries: settings of each editor.
        text, tokens_per_dim, held_out_text, chunks, chunk_tokens, journal: as
            `kedit.studies.comparing.compare` has them.
        seed: of the settings that are tried, of contexts, own text and the bootstrap.

    Raises:
        InputError: an unknown editor, or one with fewer settings; a case without the side that is
            edited, or none that can be scored.
    """
    journal = Journal() if journal is None else journal
    journal.ask(
        "tune",
        model=current_fingerprint(model),
        text=text,
        tokens_per_dim=tokens_per_dim,
        held_out_text=held_out_text,
        chunks=chunks,
        chunk_tokens=chunk_tokens,
        seed=seed,
    )
    require_sides(cases, [perspective])
    cases = [one_sided(case, perspective) for case in cases]
    space = space_of(model.cfg.n_layers) if space is None else space
    settings = tried(model, editors, perspective, space, tries, seed)
    # editors that are one by their settings are tried once
    every = {spec: one for ones in settings.values() for spec, one in ones.items()}
    wanted = [EditorChoice(spec, perspective, one) for spec, one in every.items()]
    arms = prepared_arms(model, wanted, text=text, tokens_per_dim=tokens_per_dim, seed=seed)
    scoring = Scoring(say=False, seed=seed)
    assessment = Assessment.by(model, scoring, held_out_text, chunks, chunk_tokens)
    before = scores_before(model, cases, scoring, journal)
    outcomes = edit_cases(model, before, arms, assessment, journal)
    came_to = {
        arm.name: score_of(arm.name, perspective, list(before.values()), own, seed)
        for arm, own in outcomes.items()
    }
    tuned = (TunedEditor(name, ranked([came_to[s] for s in own])) for name, own in settings.items())
    return Tuning(source_of(model), perspective, len(before), seed, tuple(tuned))


def one_sided(case: EditCase, side: Perspective) -> EditCase:
    """The case with the probes of one side only: those of the other do not decide."""
    return replace(case, probes=tuple(one for one in case.probes if one.perspective == side))


def space_of(n_layers: int) -> Space:
    """The values of every field; layers from a fifth of the depth to a last few."""
    lowest, highest = n_layers // 5, n_layers - 1
    windows = [
        tuple(range(start, start + width))
        for width in range(1, WIDEST + 1)
        for start in range(lowest, highest - width + 1)
    ]
    return {**SPACE, "layers": windows}


def read_space(file: str | Path) -> Space:
    """The values of every field that a JSON file has.

    Raises:
        InputError: a file that is not an object of lists.
    """
    try:
        own = json.loads(Path(file).read_text(encoding="utf-8"))
        if not all(isinstance(values, list) and values for values in own.values()):
            raise ValueError("a list of values is wanted for every field")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"--space {file}: {error}") from error
    return {
        field: [tuple(one) if isinstance(one, list) else one for one in values]
        for field, values in own.items()
    }


def tried(
    model: str | HookedTransformer,
    editors: Sequence[str | Editor],
    perspective: Perspective,
    space: Space,
    n: int,
    seed: int,
) -> dict[str, dict[str, Editor]]:
    """By editor, `n` settings of it by their specs, all different: first as it is.

    A try is a draw of every field, so that all editors that have a field are tried with the same
    values of it, and those that have one layer with the middle one of the others' layers.

    Args:
        editors: specs such as "rome:where=last", or editors; the settings that a spec tells, and
            those of an editor that are not its defaults, stay as they are.

    Raises:
        InputError: an unknown editor, or one with fewer settings.
    """
    found: dict[str, dict[str, Editor]] = {}
    for one in editors:
        name = one if isinstance(one, str) else label_of(one)
        first = make_editor(one, model, perspective) if isinstance(one, str) else one
        fixed = _fixed(name)
        own = {name: first}
        for number in range(100 * n):
            if len(own) == n:
                break
            drawn = {
                field: value
                for field, value in _drawn(space, f"{seed} {number}").items()
                if _has(first, field) and not {field, field.partition(".")[0]} & fixed
            }
            spec = name + "".join(f":{field}={_told(value)}" for field, value in drawn.items())
            other = first
            for field, value in drawn.items():
                other = with_setting(other, field, value)
            own.setdefault(spec.replace(" ", ""), other)
        if len(own) < n:
            raise InputError(f"{name}: --tries {n}, but there are {len(own)} settings")
        found[name] = own
    return found


def score_of(
    spec: str,
    perspective: Perspective,
    before: Sequence[EditScore],
    outcomes: Sequence[Outcome],
    seed: int,
) -> Try:
    """What the edits with some settings came to."""
    after = [one.counted(old) for one, old in zip(outcomes, before, strict=True)]
    scores = [Key(perspective, "Score", way) for way in (BY_ALL, BY_MAGNITUDE)]
    found, by_magnitude = shares(before, after, scores, seed=seed)
    return Try(
        spec,
        row_interval(found.score),
        row_interval(by_magnitude.score),
        row_interval(found.mean),
        found.point,
        {part_name(part): row_interval(row) for part, row in found.parts.items()},
        sum(bool(one.trouble) for one in outcomes),
    )


def ranked(ones: Sequence[Try]) -> tuple[Try, ...]:
    """By Score; where that is the same by that by magnitude alone, then by the mean share.

    Where all Scores are 0, the mean share is highest for an edit that does nothing; and what no
    case has a prompt for, NaN, decides nothing.
    """

    def rank(one: Try) -> tuple[float, ...]:
        each = (one.score, one.by_magnitude, one.mean)
        return tuple(float(np.nan_to_num(interval.mean)) for interval in each)

    return tuple(sorted(ones, key=rank, reverse=True))


def _fixed(name: str) -> set[str]:
    """The fields that a spec or its variant sets."""
    plain, changes = parted(name)
    of_variant = VARIANTS[plain].fixed if plain in VARIANTS else {}
    return {*(change.partition("=")[0] for change in changes), *of_variant}


def _has(settings: Any, field: str) -> bool:
    first, *rest = field.split(".")
    if not is_dataclass(settings) or first not in {one.name for one in fields(settings)}:
        return False
    return not rest or _has(getattr(settings, first), ".".join(rest))


def _told(value: Any) -> str:
    """A value, as a spec has it."""
    return value if isinstance(value, str) else repr(value)


def _drawn(space: Space, seed: str) -> dict[str, Any]:
    """A value of every field, drawn by its name, so that other fields change nothing of it."""
    drawn = {
        field: random.Random(f"{seed} {field}").choice(values) for field, values in space.items()
    }
    if "layers" in drawn:
        drawn.setdefault("layer", drawn["layers"][len(drawn["layers"]) // 2])
    return drawn
