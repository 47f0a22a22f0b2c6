"""Parses known_1000.json: facts that GPT-2 XL completes, for causal tracing (ROME)."""

from kedit.data.fields import Record, field, with_location
from kedit.errors import RecordError
from kedit.facts import Fact, Relation
from kedit.spacing import may_touch, standing

NEEDS = "subject, attribute, prompt, relation_id"


def parse_fact(location: str, record: Record) -> Fact:
    """Parses a fact from `prompt`, since `template` is cut short in some records.

    Raises:
        RecordError: a field is missing or unusable; the message names location and field.
    """
    subject, prompt = field(location, record, "subject"), field(location, record, "prompt")
    relation = field(location, record, "relation_id")
    try:
        return Fact(
            subject, Relation(relation, relation), field(location, record, "attribute"),
            cut_out(prompt, subject),
        )  # fmt: skip
    except RecordError as error:
        raise with_location(location, error) from None


def cut_out(prompt: str, subject: str, name: str = "prompt") -> str:
    """Applies `with_gap` to a field of a record, and names the field in errors.

    Args:
        name: name of the field that holds the prompt.

    Raises:
        RecordError: as `with_gap`.
    """
    try:
        return with_gap(prompt, subject)
    except RecordError as error:
        raise RecordError(f"field {name!r}: {error}") from None


def with_gap(prompt: str, subject: str) -> str:
    """Returns `prompt` with `{}` for the first `subject` that is not part of a longer word.

    Raises:
        RecordError: the prompt does not contain the subject as a separate word; or it contains the
            subject several times in a script without spaces between words, where each of these
            may be part of a longer word.
    """
    subject = subject.strip()
    found = standing(subject, prompt) if subject else []
    if not found:
        where = "only inside a longer word of" if subject and subject in prompt else "not in"
        raise RecordError(f"the subject {subject!r} is {where} {prompt!r}")
    if len(found) > 1 and may_touch(subject):
        raise RecordError(
            f"the subject {subject!r} is in {prompt!r} {len(found)} times: without spaces "
            "between words, kedit cannot tell which of them is meant"
        )
    return f"{prompt[: found[0].start()]}{{}}{prompt[found[0].end() :]}"
