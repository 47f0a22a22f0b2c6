"""The result of `tune_editors`: Scores of all tried settings, the best of each editor first."""

import datetime
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kedit.errors import InputError
from kedit.models.outline import short_name
from kedit.results.base import Result
from kedit.results.frontier import FrontierPoint
from kedit.run_folder import RunFolder
from kedit.saved_settings import SavedEditor, save_settings
from kedit.stats import Interval
from kedit.tables import Table, csv_text, percent, plural


@dataclass(frozen=True)
class Try:
    """One tried setting of an editor, with the Scores of its edits.

    Args:
        spec: spec of the editor with these settings (`kedit.editors.registry.make_editor`).
        score: the Score.
        by_magnitude: the Score by magnitude only.
        mean: the mean of the shares.
        point: locality and generalisation.
        shares: the shares of which the Score is the harmonic mean, by name.
        n_failed: number of edits in trouble.
        settings: all settings that are not the editor's defaults, as `label_of` writes them; "" in
            results of an earlier version.
    """

    spec: str
    score: Interval
    by_magnitude: Interval
    mean: Interval
    point: FrontierPoint
    shares: Mapping[str, Interval]
    n_failed: int
    settings: str = ""

    def row(self) -> dict[str, Any]:
        """All numbers, one column each."""
        named = {
            "Score": self.score, "Score by magnitude": self.by_magnitude, "mean share": self.mean,
            **self.shares,
        }  # fmt: skip
        return {
            "spec": self.spec,
            "failed": self.n_failed,
            **{
                column: value
                for name, interval in named.items()
                for column, value in interval.named(name).items()
            },
        }


@dataclass(frozen=True)
class TunedEditor:
    """An editor, as named on the command line, and its tried settings, the best ones first."""

    name: str
    tries: tuple[Try, ...]

    @property
    def best(self) -> Try:
        """The try with the highest Score."""
        return self.tries[0]


@dataclass(frozen=True)
class Tuning(Result):
    """The same number of settings of each editor, all tried on the same cases.

    Args:
        model: name of the model.
        perspective: the side that was edited; only its probes were scored.
        n_cases: number of cases.
        seed: seed of the choice of settings and of the bootstrap.
        tuned: the editors, in the order of the command line.
    """

    FILE = "tuned.json"

    model: str
    perspective: str
    n_cases: int
    seed: int
    tuned: tuple[TunedEditor, ...]

    @property
    def best(self) -> dict[str, str]:
        """The spec of each editor's best settings, by the editor's name."""
        return {editor.name: editor.best.spec for editor in self.tuned}

    @property
    def edits(self) -> str:
        """The side and the number of cases, as a phrase."""
        return f"{self.perspective} edits of {plural(self.n_cases, 'case')}"

    def table(self) -> Table:
        """The best setting of each editor."""
        n_tries = len(self.tuned[0].tries)
        rows = []
        for best in (editor.best for editor in self.tuned):
            numbers = (best.score, best.by_magnitude, best.mean, *reversed(best.point))
            rows.append((best.spec, *map(percent, numbers), str(best.n_failed)))
        return Table(
            f"The best of {n_tries} settings of each editor: {self.model}, {self.edits}",
            ("editor", "Score", "by magnitude", "mean share", "gained", "kept", "failed"),
            tuple(rows),
            "Percent, with 95 % bootstrap intervals over cases. The settings are chosen and "
            "measured on the same cases, so the values of the best ones are likely too high.",
        )

    def rows(self) -> list[dict[str, Any]]:
        """A row for each try, the best of each editor first."""
        return [
            {"editor": editor.name, "rank": rank, **tried.row()}
            for editor in self.tuned
            for rank, tried in enumerate(editor.tries, 1)
        ]

    def to_record(self) -> dict[str, Any]:
        """The record for JSON; `read_tuned` of kedit.editors reads the specs in "editors"."""
        return {"editors": self.best, **super().to_record()}

    def save(self, folder: RunFolder) -> None:
        """Writes tuned.json, which `load` reads, and tries.csv."""
        folder.write_json(self.FILE, self.to_record())
        folder.write("tries.csv", csv_text(self.rows()))

    def save_settings(self) -> Path:
        """Saves the best settings of each editor for the model, and returns the file.

        From then on, `make_editor` uses them for this model and side, under the editor's plain
        name. If an editor was tuned twice, say as "rome" and as "rome:where=last", the one with the
        higher Score is saved.

        Raises:
            InputError: the settings are not known, or the file cannot be written.
        """
        found: dict[str, SavedEditor] = {}
        for editor in sorted(
            self.tuned, key=lambda tuned: np.nan_to_num(float(tuned.best.score.mean))
        ):
            best, name = editor.best, editor.name.partition(":")[0]
            if not best.settings:
                raise InputError(
                    f"{editor.name}: this result of an earlier version of kedit lacks the settings "
                    "that were not tried: tune again"
                )
            found[f"{name} {self.perspective}"] = SavedEditor(
                settings=best.settings,
                tried=best.spec,
                score=float(best.score.mean),
                n_cases=self.n_cases,
                seed=self.seed,
                saved=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
                version=importlib.metadata.version("kedit"),
            )
        return save_settings(short_name(self.model), found)
