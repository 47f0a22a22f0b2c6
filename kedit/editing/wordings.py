"""Other wordings for relation requests. None of them appears in a benchmark of kedit."""

from dataclasses import replace

from kedit.facts import Demand, EditRequest

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


def reworded(request: EditRequest, n: int) -> tuple[Demand, ...]:
    """Returns a relation request's demands in the first `n` of WORDINGS.

    An entity request has no other wordings, so the result is empty.
    """
    found = []
    for text in WORDINGS[:n]:
        for demand in request.demands:
            if demand.mentioned:
                template = text.replace("{s}", "{}").replace("{o}", demand.mentioned)
                fact = replace(demand.fact, template=template, relation_words=())
                found.append(replace(demand, fact=fact))
    return tuple(found)
