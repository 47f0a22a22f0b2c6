"""What the figures of several models share: a colour and a name for each model, and checks."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from itertools import cycle
from typing import Protocol, TypeVar

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures.compare import COLOURS, SHAPES
from figures.score import Dots
from figures.style import last_part, legend_above, readable
from kedit.errors import InputError
from kedit.tables import plural

MORE = "#444444"  # colour of a model after those of COLOURS
NAME_WIDTH = 40  # characters shown of a model's name
OWN_FACTS = " Each model has facts of its own: those that it answers."


class OfModel(Protocol):
    """A result that knows the name of its model."""

    @property
    def model(self) -> str: ...


Found = TypeVar("Found", bound=OfModel)


def looks(models: Iterable[str]) -> dict[str, Dots]:
    """The label, colour and mark of each model, by its name, in the order in which they are given.

    Labels of models with equal names, such as two folders of different places, get a number.
    """
    names = list(dict.fromkeys(models))
    short = [readable(last_part(name), NAME_WIDTH) for name in names]
    labels = [
        label if short.count(label) == 1 else f"{label} ({short[:index].count(label) + 1})"
        for index, label in enumerate(short)
    ]
    series = zip(labels, cycle((*COLOURS, MORE)), cycle(SHAPES), strict=False)
    return {name: Dots(*look) for name, look in zip(names, series, strict=True)}


def model_legend(figure: Figure, shown: Mapping[str, Dots], notes: Mapping[str, str]) -> None:
    """Adds a legend of the models below the title, with a note on each, such as its n."""
    handles = [
        Line2D([], [], color=colour, marker=shape, markersize=3.6)
        for _, colour, shape in shown.values()
    ]
    labels = [f"{look.name}: {notes[model]}" for model, look in shown.items()]
    legend_above(figure, handles, labels)


def of_models(title: str, models: Iterable[str]) -> str:
    """A title that ends with the number of models."""
    return f"{title}, {plural(len(set(models)), 'model')}"


def require_alike(
    found: Sequence[Found], settings: Mapping[str, Callable[[Found], object]]
) -> None:
    """Checks that the runs differ in nothing but the model.

    Args:
        found: the results.
        settings: how to read each setting that must be the same, by what it is.

    Raises:
        InputError: there are no results, or a setting differs.
    """
    if not found:
        raise InputError("there are no results to draw: give at least one")
    for name, read in settings.items():
        values = [read(one) for one in found]
        if len(set(map(str, values))) > 1:
            told = "; ".join(f"{one.model}: {read(one)}" for one in found)
            raise InputError(
                f"the runs differ in the {name} ({told}). Only runs of the same study with the "
                "same settings can be drawn side by side"
            )


def require_once(cells: Iterable[tuple[Hashable, ...]]) -> None:
    """Checks that no number of a model is given by two runs.

    Args:
        cells: what each number is of; the first entry is the model.

    Raises:
        InputError: two numbers are of the same model and of the same thing.
    """
    for (model, *of_what), n in Counter(cells).items():
        if n > 1:
            raise InputError(
                f"{n} runs of {model} have {', '.join(map(str, of_what))}: give only one of them"
            )


def listed(values: Iterable[object]) -> str:
    """Different values as a phrase: "0", or "0 and 1"."""
    *others, last = dict.fromkeys(map(str, values))
    return f"{', '.join(others)} and {last}" if others else last
