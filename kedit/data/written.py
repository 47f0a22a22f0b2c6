"""Parses cases that kedit wrote, with all their prompts (split_cases writes those of builtin)."""

from kedit.data.fields import Record
from kedit.errors import InputError, RecordError
from kedit.facts import EditCase
from kedit.records import from_record, to_record

NEEDS = "the fields of an EditCase, as kedit writes them"


def record_of(case: EditCase) -> Record:
    """Returns a case as a record that `parse` reads back exactly."""
    return to_record(case)


def parse(location: str, record: Record) -> EditCase:
    """Parses a case.

    Raises:
        RecordError: the record is not what `record_of` returns for a case.
    """
    try:
        case = from_record(EditCase, record)
        is_whole = record_of(case) == record
    except (InputError, TypeError, ValueError, AttributeError, KeyError) as error:
        raise RecordError(f"{location}: {NEEDS} are needed: {error}") from None
    if not is_whole:
        raise RecordError(f"{location}: {NEEDS} are needed: a field is of another type or unknown")
    return case
