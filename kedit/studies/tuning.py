"""Tunes editors: tries the same number of settings of each editor on the same cases.

The settings are drawn at random from a space of values, and ranked by the Score of their edits.
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
from transformer_lens import HookedTransformer

from kedit.editing.edit import Editor
from kedit.editors.ft import bound_for
from kedit.editors.kn import nudge_for
from kedit.editors.registry import label_of, make_editor, with_setting
from kedit.editors.specs import fits, parted
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
from kedit.studies.edits import edit_cases
from kedit.studies.prepare import EditorChoice, one_sided
from kedit.studies.protocol import EditProtocol
from kedit.studies.scoring import scores_before

Space = Mapping[str, Sequence[Any]]  # the values to try, by the names of settings
WIDEST = 3  # largest number of layers that one edit changes
# the values to try of each setting that an editor has, on any model; `space_of` adds those that
# depend on the model, and "layer" follows from "layers"
SPACE: Space = {
    "training.clamp": [0.5, 1.0, 2.0, 4.0],
    "weight": [1.0, 30.0, 1e2, 3e2, 1e3],
    "keep": [0.3, 1.0, 3.0, 10.0],
    "neighbours": [0, 8],
    "wordings": [0, 4, 8],
    "lr": [1e-4, 2e-4, 5e-4],
    "scale": [0.5, 1.0, 1.5],
    "threshold": [0.1, 0.2, 0.4],
}
# times what suits the scale of the model's numbers: KN's factors, and FT+L's bound
NUDGES = (0.3, 1.0, 3.0)
BOUNDS = (0.25, 0.5, 1.0, 2.0)


# many parameters, all plain settings that are passed by name
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
    """Tries the same number of settings of every editor, and ranks them by their Scores.

    The Score of the best of several tries is too high, because it was chosen for its Score. Measure
    the chosen settings on other cases.

    Args:
        editors: specs or editors, see `tried`.
        perspective: which side is edited; only the probes of this side are scored.
        space: the values to try of each setting; None: `space_of` the model.
        tries: number of settings per editor.
        text, tokens_per_dim, held_out_text, chunks, chunk_tokens, journal: see
            `kedit.studies.comparing.compare`.
        seed: seed of the draw of settings, of contexts, of text that the model writes, and of the
            bootstrap.

    Raises:
        InputError: an editor is unknown or has fewer different settings than `tries`, a case lacks
            the side that is edited, no case can be scored, or the journal holds a tuning with other
            settings or weights.
    """
    protocol = EditProtocol(text, tokens_per_dim, held_out_text, chunks, chunk_tokens, seed)
    journal = protocol.begin("tune", model, journal)
    cases = one_sided(cases, perspective)
    space = space_of(model) if space is None else space
    settings = tried(model, editors, perspective, space, tries, seed)
    # two editors with the same spec are tried once
    by_spec = {spec: editor for of_name in settings.values() for spec, editor in of_name.items()}
    choices = [EditorChoice(spec, perspective, editor) for spec, editor in by_spec.items()]
    arms = protocol.prepare_choices(model, choices)
    assessment = protocol.assessment(model, Scoring(say=False, seed=seed))
    before = scores_before(model, cases, assessment.scoring, journal)
    outcomes = edit_cases(model, before, arms, assessment, journal)
    scored = {
        arm.name: score_of(
            arm.name, label_of(by_spec[arm.name]), perspective, list(before.values()), of_arm, seed
        )
        for arm, of_arm in outcomes.items()
    }
    tuned = tuple(
        TunedEditor(name, ranked([scored[spec] for spec in specs]))
        for name, specs in settings.items()
    )
    return Tuning(source_of(model), perspective, len(before), seed, tuned)


def space_of(model: HookedTransformer) -> Space:
    """Returns the values to try of each setting, for a model's depth and the scale of its numbers.

    "layers" has every window of 1 to WIDEST adjacent layers, from a fifth of the depth to the layer
    before the last.

    Raises:
        InputError: the model has no MLPs.
    """
    lowest, highest = model.cfg.n_layers // 5, model.cfg.n_layers - 1
    windows = [
        tuple(range(start, start + width))
        for width in range(1, WIDEST + 1)
        for start in range(lowest, highest - width + 1)
    ]
    nudge, bound = nudge_for(model), bound_for(model.cfg.d_model)
    nudges = [float(f"{factor * nudge:.2g}") for factor in NUDGES]
    bounds = [float(f"{factor * bound:.2g}") for factor in BOUNDS]
    return {**SPACE, "layers": windows, "erase": nudges, "write": nudges, "bound": bounds}


def read_space(file: str | Path) -> Space:
    """Reads the values to try of each setting from a JSON file.

    Raises:
        InputError: the file cannot be read, or is not an object whose values are lists.
    """
    try:
        space = json.loads(Path(file).read_text(encoding="utf-8"))
        if not all(isinstance(values, list) and values for values in space.values()):
            raise ValueError("every setting needs a list of values that is not empty")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"the space {file} (--space) cannot be used: {error}") from error
    return {
        field: [tuple(value) if isinstance(value, list) else value for value in values]
        for field, values in space.items()
    }


def tried(
    model: str | HookedTransformer,
    editors: Sequence[str | Editor],
    perspective: Perspective,
    space: Space,
    n: int,
    seed: int,
) -> dict[str, dict[str, Editor]]:
    """Returns, by editor, `n` different settings of it by their specs, first the editor as given.

    Each draw has a value of every setting of the space. All editors that have a setting are
    therefore tried with the same values of it. Editors with a single layer are tried with the
    middle one of the layers that the other editors get.

    Args:
        editors: specs such as "rome:where=last", or editors. The settings that a spec names, and
            those of an editor that are not its defaults, stay as they are.
        space: the values to try of each setting.
        n: number of settings per editor.

    Raises:
        InputError: an editor is unknown, or has fewer than `n` different settings.
    """
    found: dict[str, dict[str, Editor]] = {}
    for editor in editors:
        if isinstance(editor, str):
            name, first = editor, make_editor(editor, model, perspective)
        else:
            name, first = label_of(editor), editor
        fixed = _fixed(name)
        by_spec = {name: first}
        # a draw may give settings that were drawn before, most often where an editor has few
        for number in range(100 * n):
            if len(by_spec) == n:
                break
            drawn = {
                field: value
                for field, value in _drawn(space, f"{seed} {number}").items()
                if _takes(first, field, value) and not {field, field.partition(".")[0]} & fixed
            }
            changes = (f":{field}={_in_spec(value)}" for field, value in drawn.items())
            spec = name + "".join(changes)
            other = first
            for field, value in drawn.items():
                other = with_setting(other, field, value)
            if other not in by_spec.values():  # another spec may say the same settings
                by_spec[spec.replace(" ", "")] = other
        if len(by_spec) < n:
            raise InputError(
                f"{name}: tries={n} (--tries), but the space has only {len(by_spec)} different "
                "settings of it: try fewer, or give a larger space (--space)"
            )
        found[name] = by_spec
    return found


# six parameters: what was tried, and what it is measured by
def score_of(
    spec: str,
    settings: str,
    perspective: Perspective,
    before: Sequence[EditScore],
    outcomes: Sequence[Outcome],
    seed: int,
) -> Try:
    """Summarises the edits that were made with one setting of an editor.

    Args:
        spec: the editor with the settings that were tried.
        settings: the editor with all its settings.
        before: the scores of the cases before any edit.
        outcomes: the outcomes of the edits, in the order of the cases.
        seed: seed of the bootstrap.
    """
    after = [outcome.counted(old) for outcome, old in zip(outcomes, before, strict=True)]
    scores = [Key(perspective, "Score", way) for way in (BY_ALL, BY_MAGNITUDE)]
    found, by_magnitude = shares(before, after, scores, seed=seed)
    return Try(
        spec,
        row_interval(found.score),
        row_interval(by_magnitude.score),
        row_interval(found.mean),
        found.point,
        {part_name(part): row_interval(row) for part, row in found.parts.items()},
        sum(bool(outcome.trouble) for outcome in outcomes),
        settings,
    )


def ranked(tries: Sequence[Try]) -> tuple[Try, ...]:
    """Ranks tries by their Scores, the best first.

    Equal Scores are ranked by the Score by magnitude, then by the mean share. The mean share comes
    last, because an edit that does nothing has a high one: it keeps everything. NaN (no case has a
    prompt for the measure) counts as 0.
    """

    def rank(candidate: Try) -> tuple[float, ...]:
        each = (candidate.score, candidate.by_magnitude, candidate.mean)
        return tuple(float(np.nan_to_num(interval.mean)) for interval in each)

    return tuple(sorted(tries, key=rank, reverse=True))


def _fixed(name: str) -> set[str]:
    """Returns the settings that a spec or its variant fixes."""
    plain, changes = parted(name)
    of_variant = VARIANTS[plain].fixed if plain in VARIANTS else {}
    return {*(change.partition("=")[0] for change in changes), *of_variant}


def _takes(settings: Any, field: str, value: Any) -> bool:
    """Whether an editor has a setting that can have this value.

    Two editors may have settings of one name but of different types, as `wordings` of Joint and KN.
    A dot separates the name of a nested setting.
    """
    first, *rest = field.split(".")
    if not is_dataclass(settings) or first not in {each.name for each in fields(settings)}:
        return False
    if rest:
        return _takes(getattr(settings, first), ".".join(rest), value)
    return fits(value, get_type_hints(type(settings))[first])


def _in_spec(value: Any) -> str:
    """Returns a value as it is written in a spec."""
    return value if isinstance(value, str) else repr(value)


def _drawn(space: Space, seed: str) -> dict[str, Any]:
    """Draws a value of each setting.

    The random numbers depend on the name of the setting and on `seed` only: a space with more
    settings draws the same values of those that it shares with a smaller space.
    """
    drawn = {
        field: random.Random(f"{seed} {field}").choice(values) for field, values in space.items()
    }
    if "layers" in drawn:
        drawn.setdefault("layer", drawn["layers"][len(drawn["layers"]) // 2])
    return drawn
