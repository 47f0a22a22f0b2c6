"""What every result can do: be saved and loaded, become a data frame, show and plot itself."""

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
    """A frozen dataclass with what a study found: it has `table()` for people, `rows()` for code.

    FILE is its file in a run's folder; its CSV file has the same name.
    """

    FILE: ClassVar[str]

    def __init_subclass__(cls) -> None:
        # a dataclass makes no __repr__ where the class has one: a result is shown as its table
        if "__repr__" not in vars(cls):
            cls.__repr__ = Result.__repr__

    def __repr__(self) -> str:
        return str(self.table())

    def table(self) -> Table:
        """What a reader should see first."""
        raise NotImplementedError

    def rows(self) -> list[dict[str, Any]]:
        """Every number with what it is of, a row each."""
        raise NotImplementedError

    def to_pandas(self) -> "DataFrame":
        """`rows` as a data frame."""
        return frame(self.rows())

    def to_record(self) -> dict[str, Any]:
        """For a JSON file."""
        return to_record(self)

    @classmethod
    def from_record(cls: type[Loaded], record: Mapping[str, Any]) -> Loaded:
        """The inverse of `to_record`."""
        return from_record(cls, record)

    def save(self, folder: "RunFolder") -> None:
        """Writes FILE, from which `load` has it back, and the rows as CSV."""
        folder.write_json(self.FILE, self.to_record())
        folder.write(self.FILE.replace(".json", ".csv"), csv_text(self.rows()))

    @classmethod
    def load(cls: type[Loaded], folder: str | Path) -> Loaded:
        """The result that a run's folder holds; no model is loaded.

        Raises:
            InputError: there is none, or it cannot be read.
        """
        file = Path(folder) / cls.FILE
        try:
            return cls.from_record(json.loads(file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise InputError(f"{folder} holds no {cls.__name__}: there is no {cls.FILE}") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{file} cannot be read as a {cls.__name__}: {error!r}") from error

    def plot(self, *args: Any, **options: Any) -> "Figure":
        """Its figure, which shows itself in a notebook; what may be chosen is in kedit.show."""
        from kedit.show import plot

        return plot(self, *args, **options)

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()
