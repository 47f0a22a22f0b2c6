"""Facts: what is refused, and where subject and relation stand in the prompt."""

import dataclasses

import pytest

from kedit.errors import RecordError
from kedit.facts import EditRequest, Fact, Probe, Relation

CAPITAL = Relation("P36", "capital", "asymmetric", "country")
FRANCE = Fact("France", CAPITAL, "Paris", "The capital of {} is", ("capital of",))


def words(fact: Fact) -> list[str]:
    return [fact.prompt[start:end] for start, end in fact.relation_spans]


def subject(fact: Fact) -> str:
    start, end = fact.subject_span
    return fact.prompt[start:end]


def test_a_fact_knows_its_prompt_its_subject_and_its_relation():
    assert FRANCE.prompt == "The capital of France is"
    assert FRANCE.subject_span == (15, 21)
    assert FRANCE.relation_spans == ((4, 14),)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"subject": ""}, "subject: must be a text that is not empty, got ''"),
        ({"subject": " \t"}, "subject: must be a text that is not empty"),
        ({"object": ""}, "object: must be a text that is not empty, got ''"),
        ({"template": ""}, "template: must be a text that is not empty"),
        ({"template": "The capital is"}, "template: must have exactly one {}"),
        ({"template": "The capital of {} and {} is"}, "template: must have exactly one {}"),
        ({"template": "{}", "relation_words": ()}, "template: '{}' has no words for the relation"),
        ({"template": " {}", "relation_words": ()}, "has no words for the relation"),
        ({"relation_words": ("mayor of",)}, "relation_words: 'mayor of' is not in"),
        ({"relation_words": ("",)}, "relation_words: '' is not in"),
        ({"relation_words": (" ",)}, "relation_words: ' ' is not in"),
        ({"relation_words": ("is", "capital")}, "relation_words: 'capital' is not in"),
        ({"relation_words": ("capital", "capital")}, "relation_words: 'capital' is not in"),
        ({"relation_words": ("of {} is",)}, "relation_words: 'of {} is' is not in"),
        ({"relation_words": ("of {",)}, "relation_words: 'of {' is not in"),
        ({"relation_words": ("} is",)}, "relation_words: '} is' is not in"),
    ],
)
def test_a_fact_that_cannot_be_used_is_refused_with_its_field(changes: dict, message: str):
    with pytest.raises(RecordError) as caught:
        dataclasses.replace(FRANCE, **changes)
    assert message in str(caught.value)


def test_relation_words_are_found_in_order_on_both_sides_of_the_subject():
    template = "The city that {} has for its capital is the city of"
    fact = Fact("Peru", CAPITAL, "Lima", template, ("The city", "capital", "the city of"))
    assert words(fact) == ["The city", "capital", "the city of"]
    assert [start for start, _ in fact.relation_spans] == [0, 31, 42]


def test_relation_words_are_taken_once_each_from_left_to_right():
    fact = Fact("Peru", CAPITAL, "Lima", "of all of {} one is of", ("of", "of", "of"))
    assert [start for start, _ in fact.relation_spans] == [0, 7, 22]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("The capital of {} is", ["The capital of", "is"]),
        ("{} has its capital in", ["has its capital in"]),
        ("The capital of {}", ["The capital of"]),
        ("In {}, the capital is", ["In", ", the capital is"]),
        ("{}'s capital is", ["'s capital is"]),
        ("  The capital of   {}   is", ["The capital of", "is"]),
    ],
)
@pytest.mark.parametrize("name", ["France", "I", "São Tomé and Príncipe", "東京", "{", "🇫🇷"])
def test_without_relation_words_all_but_the_subject_is_the_relation(
    template: str, expected: list[str], name: str
):
    fact = Fact(name, CAPITAL, "Paris", template)
    assert words(fact) == expected
    assert subject(fact) == name


def test_a_subject_inside_another_word_of_the_template_is_not_mistaken():
    fact = Fact("art", CAPITAL, "x", "In party and heart, {} is of art", ("party", "art"))
    assert fact.prompt == "In party and heart, art is of art"
    assert fact.subject_span == (20, 23)
    assert words(fact) == ["party", "art"]
    assert fact.relation_spans[1] == (15, 18)  # in "heart": the first place behind "party"


def test_a_subject_with_braces_is_a_text_like_any_other():
    fact = dataclasses.replace(FRANCE, subject="set {} of")
    assert fact.prompt == "The capital of set {} of is"
    assert subject(fact) == "set {} of"


def test_facts_are_values():
    assert dataclasses.replace(FRANCE) == FRANCE
    assert len({FRANCE, dataclasses.replace(FRANCE)}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        FRANCE.subject = "Spain"  # pyright: ignore[reportAttributeAccessIssue]


def test_blanks_at_the_ends_of_a_record_are_no_part_of_it():
    spaced = Fact(" Peru ", CAPITAL, " Lima\t", "The capital of {} is ")
    assert (spaced.subject, spaced.object) == ("Peru", "Lima")
    assert spaced.prompt == "The capital of Peru is"
    assert Fact("Peru", CAPITAL, "Lima", "Capital of {}?\n").prompt == "Capital of Peru?\n"
    assert EditRequest(spaced, " Rome ").target == "Rome"
    with pytest.raises(RecordError, match="'Lima' is what the fact says already"):
        EditRequest(spaced, " Lima")
    probe = Probe("entity", "efficacy", "The capital of Peru is ", " Rome", "Lima ", label=" x")
    assert (probe.prompt, probe.answer, probe.rival, probe.label) == (
        spaced.prompt, "Rome", "Lima", "x",
    )  # fmt: skip
