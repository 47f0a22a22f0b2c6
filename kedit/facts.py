"""What a fact is, what an edit asks for, and what it is tested with: words only, no tokens."""

from dataclasses import dataclass
from typing import Literal

from kedit.errors import RecordError
from kedit.spacing import without_end_blanks

Kind = Literal["symmetric", "asymmetric", "hierarchical", ""]  # "": not known
Perspective = Literal["entity", "relation"]
Group = Literal[
    "efficacy", "paraphrase", "neighborhood", "other relations", "portability",
    "removal", "removal paraphrase", "other objects",
]  # fmt: skip
CharSpan = tuple[int, int]  # [start, end) in characters of the prompt
NO_RELATION = "None"  # RaKE's word for a pair without a relation


def _strip(record: object, *fields: str) -> None:
    """Takes the blanks off both ends of these fields of a frozen dataclass.

    An answer's blank belongs to its prompt; one of its own would make other tokens of it.
    """
    for field in fields:
        object.__setattr__(record, field, getattr(record, field).strip())


@dataclass(frozen=True)
class Relation:
    """A Wikidata property: its id, the noun phrase that names it, and how it behaves."""

    id: str
    name: str
    kind: Kind = ""
    domain: str = ""  # what its subjects are ("country"); relations of one domain can be exchanged
    aliases: tuple[str, ...] = ()  # other noun phrases for it

    def __post_init__(self) -> None:
        _strip(self, "name")  # it is an answer on the relation side


@dataclass(frozen=True)
class Fact:
    """(subject, relation, object) and a template whose completion is the object.

    Blanks around subject and object and at the template's end are dropped; a new line at its end
    stays. What joins the object to the prompt is told by the prompt (`kedit.spacing.separator`).

    Args:
        template: text with one `{}` for the subject, ending where the object begins.
        relation_words: the substrings of `template` that carry the relation, left to right; when
            empty, all of it but the subject does.
        rival: another object of the relation, which the traced token has to tell `object` from:
            tokens that both begin with are put into the prompt (`kedit.models.prompts.encode`); ""
            for none.

    Raises:
        RecordError: an empty field, not exactly one `{}`, words not found.
    """

    subject: str
    relation: Relation
    object: str
    template: str
    relation_words: tuple[str, ...] = ()
    rival: str = ""

    def __post_init__(self) -> None:
        for field in ("subject", "object", "template"):
            text = getattr(self, field)
            if not isinstance(text, str) or not text.strip():
                raise RecordError(f"{field}: a text is wanted, got {text!r}")
        _strip(self, "subject", "object", "rival")
        object.__setattr__(self, "template", without_end_blanks(self.template))
        if self.template.count("{}") != 1:
            raise RecordError(f"template: exactly one {{}} is wanted, got {self.template!r}")
        _ = self.relation_spans  # raises where the words are not found

    @classmethod
    def of(cls, prompt: str, subject: str, object: str, relation: str = "") -> "Fact":
        """A fact of one's own: kedit.Fact.of("The capital of {} is", "Japan", "Tokyo", "capital").

        Args:
            prompt: what ends where the object begins; {} stands for the subject, or the subject
                itself stands in it once.
            relation: the noun phrase that names the relation; edits of its side need it.

        Raises:
            RecordError: as `Fact`, or the prompt has no place for the subject, or several.
        """
        if "{}" not in prompt:
            if prompt.count(subject) != 1:
                raise RecordError(
                    f"prompt: {{}} or the subject {subject!r} is wanted in it once, got {prompt!r}"
                )
            prompt = prompt.replace(subject, "{}")
        return cls(subject, Relation(relation, relation), object, prompt)

    @property
    def prompt(self) -> str:
        return self.template.replace("{}", self.subject)

    @property
    def subject_span(self) -> CharSpan:
        start = self.template.index("{}")
        return start, start + len(self.subject)

    @property
    def relation_spans(self) -> tuple[CharSpan, ...]:
        """Where the relation's words stand in the prompt, left to right: one span or several."""
        gap = self.template.index("{}")
        grown = len(self.subject) - len("{}")
        spans: list[CharSpan] = []
        if not self.relation_words:
            sides = ((0, gap), (gap + len("{}"), len(self.template)))
            for start, end in sides:
                text = self.template[start:end]
                start, end = end - len(text.lstrip()), start + len(text.rstrip())
                if start < end:
                    spans.append((start, end))
        else:
            after = 0
            for words in self.relation_words:
                start = self.template.find(words, after)
                after = start + len(words)
                over_gap = start < gap + len("{}") and after > gap
                if start < 0 or not words.strip() or over_gap:
                    raise RecordError(
                        f"relation_words: {words!r} is not in {self.template!r}, "
                        "in order and beside {}"
                    )
                spans.append((start, after))
        if not spans:
            raise RecordError(f"template: {self.template!r} has no words for the relation")
        return tuple(
            (start + grown, end + grown) if start > gap else (start, end) for start, end in spans
        )


@dataclass(frozen=True)
class EditRequest:
    """A wanted change: after `fact.prompt` the model shall say `target`, not `fact.object`.

    entity: "The mother tongue of S is", from the true object to another. relation: "The relation
    between S and O* is", from NO_RELATION to the relation's name, and `removal` back from it.

    Args:
        mentioned: the object that the prompt spells out (relation side), else "".
        removal: a fact that shall end, its object replaced by NO_RELATION (relation side).
        mentioned_by_removal: the object that its prompt spells out.

    Raises:
        RecordError: an empty target, or one that is said already.
    """

    fact: Fact
    target: str
    perspective: Perspective = "entity"
    mentioned: str = ""
    removal: Fact | None = None
    mentioned_by_removal: str = ""

    def __post_init__(self) -> None:
        _strip(self, "target", "mentioned", "mentioned_by_removal")
        if not self.target:
            raise RecordError("target: a text is wanted, got none")
        if self.target == self.fact.object:
            raise RecordError(f"target: {self.target!r} is what the fact says already")

    @property
    def demands(self) -> tuple["Demand", ...]:
        """What is to be said after which prompt: the change itself, then the removal, if any."""
        asked = [Demand(self.fact, self.target, self.mentioned)]
        if self.removal:
            asked.append(Demand(self.removal, NO_RELATION, self.mentioned_by_removal))
        return tuple(asked)


def seen_from_relation(entity: EditRequest, adding: str, removing: str) -> EditRequest:
    """The same change from the other side: subject and new object come to have the relation, and
    subject and old object lose it.

    Args:
        adding, removing: templates that spell out the new object, and the old one.
    """
    fact, name = entity.fact, entity.fact.relation.name
    return EditRequest(
        Fact(fact.subject, fact.relation, NO_RELATION, adding),
        name,
        "relation",
        mentioned=entity.target,
        removal=Fact(fact.subject, fact.relation, name, removing),
        mentioned_by_removal=fact.object,
    )


@dataclass(frozen=True)
class Demand:
    """After `fact.prompt`, which spells out `mentioned` (or nothing), `target` is to be said."""

    fact: Fact
    target: str
    mentioned: str = ""


@dataclass(frozen=True)
class Probe:
    """A prompt that is put to the model before and after an edit.

    Args:
        perspective, group: which metric it counts for.
        answer: what an edit that works leaves the model saying; "" stands for the word that the
            unedited model says (R-Specificity of RETS, where no dataset knows the true object).
        rival: what must be less probable than `answer`; "" if nothing is weighed against it.
        aliases: other wordings of `label` (of `answer` where there is none), counted as such in
            generated text.
        label: the relation's name whose rank among all relations' names is asked; "" for none.
    """

    perspective: Perspective
    group: Group
    prompt: str
    answer: str
    rival: str = ""
    aliases: tuple[str, ...] = ()
    label: str = ""

    def __post_init__(self) -> None:
        _strip(self, "answer", "rival", "label")
        object.__setattr__(self, "prompt", without_end_blanks(self.prompt))
        if not self.prompt.strip():
            raise RecordError(f"prompt: a text is wanted, got {self.prompt!r}")
        if not (self.answer or self.rival):
            raise RecordError(f"{self.prompt!r}: neither an answer nor a rival to it")


@dataclass(frozen=True)
class EditCase:
    """A record of a benchmark: one change, seen from both sides, and what it is tested with.

    Args:
        id: of the record, unique in its file.
        entity, relation: the two requests; `relation` is None where the data has no relation side.
        probes: all prompts that are scored, of both sides.
        generation: prompts that text is generated from, for its fluency.
        lacks: what the record does not have, in words ("paraphrases", "relation neighbours").
        others: further requests of either side, which are made together with the first two (a
            record of MQuAKE has several edits).
    """

    id: str
    entity: EditRequest
    relation: EditRequest | None
    probes: tuple[Probe, ...]
    generation: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    others: tuple[EditRequest, ...] = ()

    def requests(self, perspective: Perspective) -> tuple[EditRequest, ...]:
        """All requests of one side.

        Raises:
            RecordError: the record has no relation side.
        """
        further = (one for one in self.others if one.perspective == perspective)
        return (self.request(perspective), *further)

    def request(self, perspective: Perspective) -> EditRequest:
        """The request of one side; the first one where there are several.

        Raises:
            RecordError: the record has no relation side.
        """
        if perspective == "entity":
            return self.entity
        if self.relation is None:
            raise RecordError(f"record {self.id} has no relation side: build it with build_rake")
        return self.relation
