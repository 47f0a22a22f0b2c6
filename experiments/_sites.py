"""Write sites at key positions, and all that is measured there, into a run folder."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments._edit_cases import Outcome, edit_cases, edit_key, prepared
from experiments._run import RunFolder

if TYPE_CHECKING:
    import numpy as np
    from transformer_lens import HookedTransformer

    from experiments.choose_sites import Config
    from kedit.editing.write_sites import Half
    from kedit.facts import EditCase
    from kedit.models.prompts import KeyPosition
    from kedit.results.scores import EditScore
    from kedit.scoring.drift import Baseline
    from kedit.scoring.score import Scoring

POSITIONS: "tuple[KeyPosition, ...]" = ("subject_last", "object_last", "last")
HALVES: "tuple[Half, ...]" = ("mlp", "attn")
EFFECTS = {"effect of relation": "relation", "effect of subject": "subject"}  # what is corrupted
SEPARATIONS = ("separation", "demands apart")
# among few of Gemma’s 262,144 words, in one wording, without a family: all would take far longer
PLAINLY = "training.words=1000:wordings=0:family=0"


class Place(NamedTuple):
    """A write site, or one head's rows of W_O, at a key position."""

    layer: int
    half: "Half"
    head: int | None
    where: "KeyPosition"

    @property
    def name(self) -> str:
        """As records have it: "last L8 mlp", "last L8H2"."""
        part = f" {self.half}" if self.head is None else f"H{self.head}"
        return f"{self.where} L{self.layer}{part}"

    def told(self, settings: str) -> str:
        """The joint editor that writes there and nowhere else, as the command line has it."""
        told = f"joint:layers=({self.layer},):halves=('{self.half}',):where={self.where}"
        return ":".join(filter(None, (told, PLAINLY, settings.strip(":"))))


@dataclass(frozen=True)
class Measured:
    """All that was measured.

    Args:
        places: with their heads, which nothing was written to.
        tables: by quantity, [case, place]; NaN where there is no number.
        totals: what each corruption costs, by effect: [case].
        before: each case's score before any edit.
        outcomes: by place that was written to, in the order of the cases.
    """

    places: "Sequence[Place]"
    tables: "Mapping[str, np.ndarray]"
    totals: "Mapping[str, np.ndarray]"
    before: "Sequence[EditScore]"
    outcomes: Mapping[Place, Sequence[Outcome]]


def places(config: "Config", model: "HookedTransformer") -> list[Place]:
    """By key position and layer: W_out, W_O, and W_O's heads.

    Raises:
        InputError: the model has no such layer.
    """
    from kedit.errors import InputError

    n_layers, heads = model.cfg.n_layers, [None, *range(model.cfg.n_heads)]
    layers = sorted(set(config.layers)) or range(n_layers)
    strange = [str(layer) for layer in layers if not 0 <= layer < n_layers]
    if strange:
        told = f"--layers {' '.join(strange)}: the model has 0 to {n_layers - 1}"
        raise InputError(told)
    return [
        Place(layer, half, head, where)
        for where in POSITIONS
        if where in config.positions
        for layer, half in itertools.product(layers, HALVES)
        for head in (heads if half == "attn" else [None])
    ]


def positions(every: Sequence[Place]) -> "list[KeyPosition]":
    """That the places are at."""
    return [where for where in POSITIONS if any(place.where == where for place in every)]


def measured(
    config: "Config",
    folder: RunFolder,
    model: "HookedTransformer",
    cases: "Mapping[EditCase, EditScore]",
    pool: "Sequence[EditCase]",
    scoring: "Scoring",
    text: "Baseline",
) -> Measured:
    """Everything; what the folder holds already is not done again.

    Args:
        cases: with their scores before any edit.
        pool: whose words replace others.
        text: held out, for the rails.
    """
    import numpy as np

    from experiments._site_probes import effects, separations

    every, asked = places(config, model), list(cases)
    traced = {name: effects(config, folder, model, asked, pool, every, name) for name in EFFECTS}
    compared = separations(config, folder, model, asked, every)
    return Measured(
        every,
        {name: _table(every, records, "nats") for name, records in traced.items()}
        | {name: _table(every, compared, name) for name in SEPARATIONS},
        {
            name: np.array([one.get("total", np.nan) for one in records])
            for name, records in traced.items()
        },
        list(cases.values()),
        _edits(config, folder, model, cases, scoring, text),
    )


def _table(
    every: Sequence[Place], records: Sequence[Mapping[str, Any]], field: str
) -> "np.ndarray":
    import numpy as np

    rows = [record.get(field, {}) for record in records]
    numbers = [[row.get(place.name) for place in every] for row in rows]
    return np.array(numbers, dtype=float)  # None becomes NaN


def _edits(
    config: "Config",
    folder: RunFolder,
    model: "HookedTransformer",
    cases: "Mapping[EditCase, EditScore]",
    scoring: "Scoring",
    text: "Baseline",
) -> dict[Place, list[Outcome]]:
    """Each case edited at every site; one key position at a time, for moments take memory."""
    told = {
        place: place.told(config.settings) for place in places(config, model) if place.head is None
    }
    for where in positions(list(told)):
        missing = [
            editor
            for place, editor in told.items()
            if place.where == where
            and any(edit_key(case, "relation", editor) not in folder.records for case in cases)
        ]
        if missing:
            arms = prepared(model, ",".join(missing), ["relation"], config)
            edit_cases(folder, model, cases, arms, scoring, text)
    return {
        place: [
            Outcome.from_record(folder.records[edit_key(case, "relation", editor)])
            for case in cases
        ]
        for place, editor in told.items()
    }
