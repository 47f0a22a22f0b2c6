"""ROME's known_1000.json: facts that GPT-2 XL completes, for causal tracing (Meng et al. 2022)."""

from kedit.data.fields import Record, field, placed
from kedit.errors import RecordError
from kedit.facts import Fact, Relation
from kedit.spacing import standing

NEEDS = "subject, attribute, prompt, relation_id"


def parse_fact(place: str, record: Record) -> Fact:
    """The fact; `prompt` counts, since `template` is cut short in some records.

    Raises:
        RecordError: names place and field.
    """
    subject, prompt = field(place, record, "subject"), field(place, record, "prompt")
    relation = field(place, record, "relation_id")
    try:
        return Fact(
            subject, Relation(relation, relation), field(place, record, "attribute"),
            cut_out(prompt, subject),
        )  # fmt: skip
    except RecordError as error:
        raise placed(place, error) from None


def cut_out(prompt: str, subject: str, name: str = "prompt") -> str:
    """`prompt` with `{}` for its first `subject` that is not part of a longer word.

    Args:
        name: of the field that holds the prompt, for the message.

    Raises:
        RecordError: the subject is not in the prompt as a word of its own.
    """
    subject = subject.strip()
    found = standing(subject, prompt) if subject else None
    if not found:
        where = "only inside a longer word of" if subject in prompt else "not in"
        raise RecordError(f"field {name!r}: the subject {subject!r} is {where} {prompt!r}")
    return f"{prompt[: found.start()]}{{}}{prompt[found.end() :]}"
