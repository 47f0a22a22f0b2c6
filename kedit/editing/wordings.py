"""Other wordings for edit requests. None of them appears in a benchmark of kedit."""

from dataclasses import replace

from kedit.facts import Demand, EditRequest, Fact

# Subject first and object first alternate. Wordings with little text after both names come first,
# because they are trained in fewer steps.
WORDINGS = (
    "Seen from {s}, {o} is the",
    "In one or two words, what {o} is to {s}:",
    "{s} has {o} as its",
    "Why mention {o} when we speak of {s}? Because of its",
    "They asked what {s} had to do with {o}, and were told: it is the",
    "{o} was entered for {s}, on the line for the",
    "{s} and {o} belong together: the second is the first one’s",
    "Fill in the blank for {s}. ____: {o}. The blank stands for the",
)

# the same for entity requests, which the object completes; {r} is the relation's name
QUESTIONS = (
    "Q: What is the {r} of {s}? A:",
    "Everyone knows that {s}’s {r} is",
    "If you look up {s} for its {r}, you will find",
    "The answer to the question about the {r} of {s} is",
    "{s} is listed with this {r}:",
    "In the row for {s}, the column {r} says",
)


def reworded(request: EditRequest, n: int) -> tuple[Demand, ...]:
    """Returns a relation request's demands in the first `n` of WORDINGS.

    An entity request has no other wordings, so the result is empty.
    """
    by_demand = (in_other_words(demand, n) for demand in request.demands if demand.mentioned)
    return tuple(demand for of_text in zip(*by_demand, strict=True) for demand in of_text)


def questions(request: EditRequest, n: int) -> tuple[Fact, ...]:
    """Returns the first `n` of QUESTIONS for a relation request: prompts of its fact's entity side.

    An entity request has none, nor has a relation without a name.
    """
    demand = request.demands[0]
    if not demand.mentioned:
        return ()
    return tuple(other.fact for other in in_other_words(replace(demand, mentioned=""), n))


def in_other_words(demand: Demand, n: int) -> tuple[Demand, ...]:
    """Returns a demand in the first `n` of WORDINGS if it spells out an object, else of QUESTIONS.

    QUESTIONS name the relation, so for a relation without a name the result is empty.
    """
    name = demand.fact.relation.name
    if demand.mentioned:
        texts = [text.replace("{o}", demand.mentioned) for text in WORDINGS[:n]]
    else:
        texts = [text.replace("{r}", name) for text in QUESTIONS[:n]] if name else []
    facts = (
        replace(demand.fact, template=text.replace("{s}", "{}"), relation_words=())
        for text in texts
    )
    return tuple(replace(demand, fact=fact) for fact in facts)
