"""What edit_fact edits where its options leave something out: the worked example."""

from dataclasses import dataclass, replace
from typing import Any

# options of a single fact, which a file of facts takes the place of
OF_ONE = ("subject", "prompt", "target", "old", "paraphrases", "neighbours", "relation")


@dataclass(frozen=True)
class Example:
    """A fact to edit, other wordings of its prompt, and neighbours."""

    subject: str
    prompt: str
    target: str
    paraphrases: tuple[str, ...] = ()
    neighbours: tuple[str, ...] = ()
    relation: str = ""


EXAMPLE = Example(
    subject="The Eiffel Tower",
    prompt="{} is located in the city of",
    target="Rome",
    paraphrases=(
        "{} is a landmark in the city of",
        "{} can be found in",
        "{} is one of the sights of",
        "To visit {}, you have to travel to",
    ),
    neighbours=(
        "The Louvre",
        "The Arc de Triomphe",
        "The Brandenburg Gate",
        "The Sagrada Familia",
        "The Statue of Liberty",
        "The Space Needle",
    ),
    relation="location",
)


def settled(config: Any) -> Any:
    """A configuration of edit_fact with all that it leaves out: the example's, as far as it fits.

    Raises:
        InputError: a prompt without a place for the subject or with several, or no relation where
            it is edited; or options of one fact beside a file of facts.
    """
    from kedit.errors import InputError

    if config.facts:
        told = [name for name in OF_ONE if getattr(config, name)]
        if told:
            raise InputError(f"--facts {config.facts} tells what is edited: leave out --{told[0]}")
        return config
    example = _toy_example() if config.model == "toy" else EXAMPLE
    subject = config.subject.strip() or example.subject
    prompt = _template(config.prompt or example.prompt, subject, "--prompt")
    if prompt != example.prompt:
        example = replace(example, paraphrases=(), neighbours=(), relation="")
    relation = config.relation.strip()
    if config.perspective == "relation" and not relation:
        relation = example.relation
        if not relation:
            raise InputError("--perspective relation needs --relation, its name: location, say")
    names = dict.fromkeys(name.strip() for name in config.neighbours or example.neighbours)
    return replace(
        config,
        subject=subject,
        prompt=prompt,
        target=config.target.strip() or example.target,
        old=config.old.strip(),
        paraphrases=[
            _template(text, subject, "--paraphrases")
            for text in config.paraphrases or example.paraphrases
        ],
        neighbours=[name for name in names if name not in ("", subject)],
        relation=relation,
    )


def _toy_example() -> Example:
    """A fact of the toy's world; its neighbours are other people."""
    from kedit.models import toy

    fact, target = (case := toy.cases()[0]).entity.fact, case.entity.target
    wordings = [template for template, _ in toy.WORLD[fact.relation][1]]
    paraphrases = tuple(template for template in wordings if template != fact.template)
    neighbours = tuple(person for person in toy.PEOPLE if person != fact.subject)[:4]
    return Example(fact.subject, fact.template, target, paraphrases, neighbours, fact.relation.name)


def _template(text: str, subject: str, option: str) -> str:
    """`text` with one {}, for the subject."""
    from kedit.data.known import with_gap
    from kedit.errors import InputError, RecordError
    from kedit.spacing import without_end_blanks

    text = without_end_blanks(text)
    if text.count("{}") > 1:
        raise InputError(f"{option}: one {{}} is wanted, where the subject stands, got {text!r}")
    if "{}" in text:
        return text
    try:
        return with_gap(text, subject)
    except RecordError as error:
        raise InputError(
            f"{option}: {error}; put {{}} where the subject stands, or tell another --subject"
        ) from None
