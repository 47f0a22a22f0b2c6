"""The worked example of edit_fact, which fills in the options that are not given."""

from dataclasses import dataclass, replace
from typing import Any

# options that describe a single fact; a file of facts replaces them
ONE_FACT_OPTIONS = ("subject", "prompt", "target", "old", "paraphrases", "neighbours", "relation")


@dataclass(frozen=True)
class Example:
    """A fact to edit, with other wordings of its prompt and with neighbours."""

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
    """Fills in what a configuration of edit_fact leaves out, from the example as far as it fits.

    Raises:
        InputError: a prompt has no gap for the subject or several, the relation's name is missing
            for an edit from the relation side, or options of one fact come with a file of facts.
    """
    from kedit.errors import InputError

    if config.facts:
        given = [name for name in ONE_FACT_OPTIONS if getattr(config, name)]
        if given:
            raise InputError(
                f"--facts {config.facts} already gives the facts to edit: leave out --{given[0]}"
            )
        return config
    example = example_of(config.model)
    subject = config.subject.strip() or example.subject
    prompt = template_of(config.prompt or example.prompt, subject, "--prompt")
    if prompt != example.prompt:
        example = replace(example, paraphrases=(), neighbours=(), relation="")
    relation = config.relation.strip()
    if config.perspective == "relation" and not relation:
        relation = example.relation
        if not relation:
            raise InputError(
                "--perspective relation needs the relation's name, such as --relation location"
            )
    names = dict.fromkeys(name.strip() for name in config.neighbours or example.neighbours)
    return replace(
        config,
        subject=subject,
        prompt=prompt,
        target=config.target.strip() or example.target,
        old=config.old.strip(),
        paraphrases=[
            template_of(text, subject, "--paraphrases")
            for text in config.paraphrases or example.paraphrases
        ],
        neighbours=[name for name in names if name not in ("", subject)],
        relation=relation,
    )


def example_of(model: str) -> Example:
    """Returns the example for a model; the toy's is of its world, with people as neighbours."""
    if model != "toy":
        return EXAMPLE
    from kedit.models import toy

    fact, target = (case := toy.cases()[0]).entity.fact, case.entity.target
    wordings = (template for template, _ in toy.WORLD[fact.relation][1])
    paraphrases = tuple(text for text in wordings if text != fact.template)
    neighbours = tuple(person for person in toy.PEOPLE if person != fact.subject)[:4]
    return Example(fact.subject, fact.template, target, paraphrases, neighbours, fact.relation.name)


def template_of(text: str, subject: str, option: str) -> str:
    """Returns `text` with one {} in place of the subject.

    Raises:
        InputError: `text` has several {}, or neither {} nor the subject.
    """
    from kedit.data.known import with_gap
    from kedit.errors import InputError, RecordError
    from kedit.spacing import without_end_blanks

    text = without_end_blanks(text)
    if text.count("{}") > 1:
        raise InputError(f"{option}: must have one {{}}, in place of the subject, got {text!r}")
    if "{}" in text:
        return text
    try:
        return with_gap(text, subject)
    except RecordError as error:
        message = f"{option}: {error}; put {{}} in place of the subject, or give another --subject"
        raise InputError(message) from None
