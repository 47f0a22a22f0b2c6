"""What a fact is: words only, no tokens and no tensors."""

from dataclasses import dataclass
from typing import Literal

from kedit.errors import RecordError

Kind = Literal["symmetric", "hierarchical", "other"]
CharSpan = tuple[int, int]  # [start, end) in characters of the prompt


@dataclass(frozen=True)
class Relation:
    """A Wikidata property: its id, the noun phrase that names it, and how it behaves."""

    id: str
    name: str
    kind: Kind = "other"
    domain: str = ""  # what its subjects are ("country"); relations of one domain can be exchanged


@dataclass(frozen=True)
class Fact:
    """(subject, relation, object) and a template whose completion is the object.

    Args:
        template: text with one `{}` for the subject, ending where the object begins.
        relation_words: the substrings of `template` that carry the relation, left to right; when
            empty, all of it but the subject does.

    Raises:
        RecordError: an empty field, not exactly one `{}`, a blank at the end, words not found.
    """

    subject: str
    relation: Relation
    object: str
    template: str
    relation_words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in ("subject", "object", "template"):
            text = getattr(self, field)
            if not isinstance(text, str) or not text.strip():
                raise RecordError(f"{field}: a text is wanted, got {text!r}")
        if self.template.count("{}") != 1:
            raise RecordError(f"template: exactly one {{}} is wanted, got {self.template!r}")
        if self.template[-1].isspace():
            raise RecordError(f"template: it must not end in a blank, got {self.template!r}")
        _ = self.relation_spans  # raises where the words are not found

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
