"""Many edits in one model: what editors gain, keep and forget as edits add up."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from kedit.results.base import Result
from kedit.stats import Interval
from kedit.tables import Table, number, percent, plural

Order = Literal["batch", "sequential"]  # one edit of all facts, or one edit after the other
ORDERS: tuple[Order, ...] = ("batch", "sequential")
PART = 5  # the first and the last edits of a model are a fifth of its edits, and at least one


@dataclass(frozen=True)
class EditedModels:
    """What one editor did in models that each have the same number of edits.

    Intervals are over cases, and those of perplexity, kl, norm and seconds over models.

    Args:
        editor: name of the editor.
        order: how the edits of a model were made.
        edits: number of edits in one model, of cases that are divided evenly: some models may have
            one edit less.
        models: number of edited models.
        failed: number of cases without an edit; they enter with the unedited model's scores.
        scores: the Score by success ("lifts"), by magnitude, and by both ("all lifts").
        gained, kept: means of the shares gained and kept, by success and by magnitude.
        first, last: the share gained of the first and of the last fifth of each model's edits.
        perplexity: perplexity of held-out text; NaN if no edited model has a finite one.
        kl: KL(before ‖ after) of the next token on held-out text, in nats per token.
        norm: the largest ‖delta‖ / ‖weight‖ of the edited parameters.
        seconds: time per edit.
    """

    editor: str
    order: Order
    edits: int
    models: int
    failed: int
    scores: Mapping[str, Interval]
    gained: Interval
    kept: Interval
    first: Interval
    last: Interval
    perplexity: Interval
    kl: Interval
    norm: Interval
    seconds: Interval


def _known(value: Interval) -> str:
    """A mean over models; "-" if no model has one."""
    return number(float(value.mean)) if np.isfinite(value.mean) else "-"


@dataclass(frozen=True)
class ManyEdits(Result):
    """What editors do to the same cases with one edit, or with many edits, in a model.

    Args:
        model: name of the model.
        perspective: the side that was edited.
        n_cases: number of cases; all of them are edited at each number of edits per model.
        seed: seed of contexts and bootstrap.
        held_out: name of the text on which perplexity and KL were measured.
        perplexity: of the unedited model on this text.
        points: one entry for each editor, order and number of edits.
    """

    FILE: ClassVar[str] = "many_edits.json"

    model: str
    perspective: str
    n_cases: int
    seed: int
    held_out: str
    perplexity: float
    points: tuple[EditedModels, ...]

    @property
    def editors(self) -> list[str]:
        """Returns the editors' names, in their order."""
        return list(dict.fromkeys(point.editor for point in self.points))

    def curve(self, editor: str, order: Order) -> list[EditedModels]:
        """Returns the points of one editor and order, by the number of edits.

        A model with a single edit belongs to both orders.
        """
        points = [
            point
            for point in self.points
            if point.editor == editor and (point.order == order or point.edits == 1)
        ]
        return sorted(points, key=lambda point: point.edits)

    def table(self) -> Table:
        """Returns a row for each editor, order and number of edits."""
        rows = [
            (
                point.editor, "" if point.edits == 1 else point.order, str(point.edits),
                percent(point.scores["all lifts"]), percent(point.gained), percent(point.first),
                percent(point.last), percent(point.kept), _known(point.perplexity),
                _known(point.kl), str(point.failed), _known(point.seconds),
            )
            for editor in self.editors
            for point in sorted(
                (point for point in self.points if point.editor == editor),
                key=lambda point: (ORDERS.index(point.order), point.edits),
            )
        ]  # fmt: skip
        return Table(
            f"Many edits in one model, {self.perspective} side: {self.model}",
            (
                "editor", "order", "edits per model", "Score by both", "gained", "first fifth",
                "last fifth", "kept", "perplexity", "KL", "failed", "s per edit",
            ),
            tuple(rows),
            f"n = {plural(self.n_cases, 'case')}, all edited at each number of edits per model; "
            f"seed {self.seed}. Percent with 95 % bootstrap intervals over cases. Gained and kept: "
            "means of the shares gained and kept, by success and by magnitude. First and last "
            "fifth: the shares gained by the first and the last edits of each model. Perplexity "
            f"before: {self.perplexity:.4g} ({self.held_out}).",
        )  # fmt: skip

    def rows(self) -> list[dict[str, Any]]:
        """Returns a row for each editor, order and number of edits, with all numbers."""
        return [
            {
                "editor": point.editor, "order": point.order, "edits per model": point.edits,
                "models": point.models, "failed": point.failed,
                **{
                    name: value
                    for way, score in point.scores.items()
                    for name, value in score.named(f"Score, {way}").items()
                },
                **{
                    column: value
                    for name in (
                        "gained", "first", "last", "kept", "perplexity", "kl", "norm", "seconds",
                    )
                    for column, value in getattr(point, name).named(name).items()
                },
            }
            for point in self.points
        ]  # fmt: skip
