"""The base class of results: saving, loading, tables, data frames and plots."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from kedit.errors import InputError
from kedit.records import from_record, to_record
from kedit.tables import Table, csv_text, frame

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from kedit.run_folder import RunFolder

Loaded = TypeVar("Loaded", bound="Result")


class Result:
    """The result of a study: a frozen dataclass with a `table` to read and `rows` to compute with.

    FILE is the name of its JSON file in a run folder; its CSV file has the same stem.
    """

    FILE: ClassVar[str]

    def __init_subclass__(cls) -> None:
        # `dataclass` generates no __repr__ for a class that defines one, so that this shows a
        # result as its table
        if "__repr__" not in vars(cls):
            cls.__repr__ = Result.__repr__

    def __repr__(self) -> str:
        return str(self.table())

    def table(self) -> Table:
        """The main table, which a notebook or a terminal shows."""
        raise NotImplementedError

    def rows(self) -> list[dict[str, Any]]:
        """All numbers, one row each, with columns that say what the number is."""
        raise NotImplementedError

    def to_pandas(self) -> "DataFrame":
        """`rows` as a data frame."""
        return frame(self.rows())

    def to_record(self) -> dict[str, Any]:
        """The result as plain values, for a JSON file."""
        return to_record(self)

    @classmethod
    def from_record(cls: type[Loaded], record: Mapping[str, Any]) -> Loaded:
        """The inverse of `to_record`."""
        return from_record(cls, record)

    def save(self, folder: "RunFolder") -> None:
        """Writes FILE, which `load` reads, and the rows as a CSV file."""
        folder.write_json(self.FILE, self.to_record())
        folder.write(self.FILE.replace(".json", ".csv"), csv_text(self.rows()))

    @classmethod
    def load(cls: type[Loaded], folder: str | Path) -> Loaded:
        """Reads the result from a run folder; no model is loaded.

        Raises:
            InputError: the folder has no such result, or its file cannot be read.
        """
        file = Path(folder) / cls.FILE
        try:
            return cls.from_record(json.loads(file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise InputError(
                f"{folder} has no {cls.__name__}: there is no file {cls.FILE}"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{file} cannot be read as a {cls.__name__}: {error!r}") from error

    def plot(self, *args: Any, **options: Any) -> "Figure":
        """Draws the result's figure, which a notebook displays; see `kedit.show`."""
        from kedit.show import plot

        return plot(self, *args, **options)

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()
