"""Defines facts, edit requests and edit cases as plain text, without tokens or a model."""

from dataclasses import dataclass, replace
from typing import Literal

from kedit.errors import RecordError
from kedit.spacing import without_end_blanks

Kind = Literal["symmetric", "asymmetric", "hierarchical", ""]  # "": unknown
Perspective = Literal["entity", "relation"]
Group = Literal[
    "efficacy", "paraphrase", "neighborhood", "other relations", "portability",
    "removal", "removal paraphrase", "other objects",
]  # fmt: skip
CharSpan = tuple[int, int]  # [start, end) in characters of the prompt
MASK = "[MASK]"  # stands for the object in a prompt that goes on after it
NO_RELATION = "None"  # RaKE's answer for a pair of subject and object without a relation


def _strip(record: object, *fields: str) -> None:
    """Strips blanks from both ends of these fields of a frozen dataclass.

    The blank between a prompt and its answer is added when they are joined. A second blank in the
    answer would change the answer's tokens.
    """
    for field in fields:
        object.__setattr__(record, field, getattr(record, field).strip())


@dataclass(frozen=True)
class Relation:
    """A Wikidata property: its id, the noun phrase that names it, its kind and its domain."""

    id: str
    name: str
    kind: Kind = ""
    # what its subjects are, such as "country"; relations of one domain can replace each other
    domain: str = ""
    aliases: tuple[str, ...] = ()  # other noun phrases for it

    def __post_init__(self) -> None:
        _strip(self, "name")  # the name is an answer in requests of the relation side


@dataclass(frozen=True)
class Fact:
    """A subject, a relation, an object, and a template whose completion is the object.

    Blanks around subject and object and at the end of the template are dropped; a new line at its
    end stays. The end of the prompt decides whether a blank joins the object to it
    (`kedit.spacing.separator`).

    Args:
        template: text with one `{}` for the subject, ending where the object begins.
        relation_words: the substrings of `template` that carry the relation, from left to right;
            empty: all of the template except the subject.
        rival: another object of the relation, "" for none. The traced token must distinguish
            `object` from it: tokens with which both begin are moved to the end of the prompt
            (`kedit.models.prompts.encode`).
        ending: text that follows the object. Only masked models (BERT, T5) read it.

    Raises:
        RecordError: a field is empty, the template does not have exactly one `{}`, or the relation
            words are not in it.
    """

    subject: str
    relation: Relation
    object: str
    template: str
    relation_words: tuple[str, ...] = ()
    rival: str = ""
    ending: str = "."

    def __post_init__(self) -> None:
        for field in ("subject", "object", "template"):
            text = getattr(self, field)
            if not isinstance(text, str) or not text.strip():
                raise RecordError(f"{field}: must be a text that is not empty, got {text!r}")
        _strip(self, "subject", "object", "rival")
        object.__setattr__(self, "template", without_end_blanks(self.template))
        if self.template.count("{}") != 1:
            raise RecordError(f"template: must have exactly one {{}}, got {self.template!r}")
        _ = self.relation_spans  # raises if the words are not found

    @classmethod
    def of(cls, prompt: str, subject: str, object: str, relation: str = "") -> "Fact":
        """Makes a fact from a prompt and words.

        For example: kedit.Fact.of("The capital of {} is", "Japan", "Tokyo", "capital").

        Args:
            prompt: text that ends where the object begins, with {} in place of the subject or with
                the subject itself, once. For masked models the text may go on: [MASK] is then in
                place of the object ("{} was born in [MASK], a city."), and what follows is the
                fact's ending.
            relation: the noun phrase that names the relation; edits of the relation side need it.

        Raises:
            RecordError: as for `Fact`, or the prompt contains the subject not at all or repeatedly.
        """
        prompt, *after = prompt.split(MASK)
        if len(after) > 1:
            raise RecordError(f"prompt: must have {MASK} at most once, got {prompt!r}")
        if "{}" not in prompt:
            if prompt.count(subject) != 1:
                raise RecordError(
                    f"prompt: must have {{}} or the subject {subject!r} once, got {prompt!r}"
                )
            prompt = prompt.replace(subject, "{}")
        fact = cls(subject, Relation(relation, relation), object, prompt)
        return replace(fact, ending=after[0]) if after else fact

    @property
    def prompt(self) -> str:
        return self.template.replace("{}", self.subject)

    @property
    def subject_span(self) -> CharSpan:
        start = self.template.index("{}")
        return start, start + len(self.subject)

    @property
    def relation_spans(self) -> tuple[CharSpan, ...]:
        """The spans of the relation's words in the prompt, in characters, from left to right."""
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
                        f"relation_words: {words!r} is not in {self.template!r}; the words must "
                        "be parts of the template outside of {}, in their order"
                    )
                spans.append((start, after))
        if not spans:
            raise RecordError(f"template: {self.template!r} has no words for the relation")
        return tuple(
            (start + grown, end + grown) if start > gap else (start, end) for start, end in spans
        )


@dataclass(frozen=True)
class EditRequest:
    """A requested change: after `fact.prompt` the model should say `target`, not `fact.object`.

    On the entity side, the object changes: after "The mother tongue of S is" from the true object
    to another one. On the relation side, the relation changes: after "The relation between S and
    O* is" from NO_RELATION to the relation's name, and after the prompt of `removal`, which names
    the old object, from the relation's name to NO_RELATION.

    Args:
        mentioned: the object that the prompt spells out (relation side), else "".
        removal: the fact that should cease to hold, so that its prompt is answered by NO_RELATION
            (relation side).
        mentioned_by_removal: the object that the prompt of `removal` spells out.

    Raises:
        RecordError: the target is empty, or is the fact's object already.
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
            raise RecordError("target: must be a text that is not empty")
        if self.target == self.fact.object:
            raise RecordError(f"target: {self.target!r} is what the fact says already")

    @property
    def demands(self) -> tuple["Demand", ...]:
        """The prompts with their targets: the change itself, then the removal if there is one."""
        demands = [Demand(self.fact, self.target, self.mentioned)]
        if self.removal:
            demands.append(Demand(self.removal, NO_RELATION, self.mentioned_by_removal))
        return tuple(demands)


def seen_from_relation(entity: EditRequest, adding: str, removing: str) -> EditRequest:
    """Builds the relation-side request for the same change as `entity`.

    It requests that the subject and the new object have the relation, and that the subject and the
    old object no longer have it.

    Args:
        adding: a template for the subject that spells out the new object.
        removing: a template for the subject that spells out the old object.
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
    """One prompt of a request: after `fact.prompt` the model should say `target`.

    Args:
        mentioned: the object that the prompt spells out, "" for none.
    """

    fact: Fact
    target: str
    mentioned: str = ""


@dataclass(frozen=True)
class Probe:
    """A test prompt that is scored before and after an edit.

    Args:
        perspective, group: the side and the measure that the prompt counts for.
        answer: the right answer after a successful edit. "" means the word that the unedited model
            says (R-Specificity of RETS, where no data set has the true object).
        rival: the answer that should be less probable than `answer`; "" for none.
        aliases: other wordings of `label` (of `answer` if there is no label), which also count as
            right in generated text.
        label: the relation's name that is ranked among the names of all relations; "" for none.
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
            raise RecordError(f"prompt: must be a text that is not empty, got {self.prompt!r}")
        if not (self.answer or self.rival):
            raise RecordError(f"{self.prompt!r}: must have an answer or a rival")


@dataclass(frozen=True)
class EditCase:
    """A record of a benchmark: one change as requests of both sides, and the prompts that test it.

    Args:
        id: the record's name, unique in its file.
        entity, relation: the two requests; `relation` is None if the data has no relation side.
        probes: all test prompts, of both sides.
        generation: prompts from which text is generated to measure its fluency.
        lacks: what the record does not have, in words ("paraphrases", "relation neighbours").
        others: further requests of either side that are edited together with these two (a
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
        """Returns all requests of one side.

        Raises:
            RecordError: the relation side is requested, and the record has none.
        """
        further = (request for request in self.others if request.perspective == perspective)
        return (self.request(perspective), *further)

    def request(self, perspective: Perspective) -> EditRequest:
        """Returns the request of one side, or the first one if there are several.

        Raises:
            RecordError: the relation side is requested, and the record has none.
        """
        if perspective == "entity":
            return self.entity
        if self.relation is None:
            raise RecordError(f"record {self.id} has no relation side: build it with build_rake")
        return self.relation
