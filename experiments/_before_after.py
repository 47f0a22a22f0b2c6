"""Questions that show what the edit of one fact does, and a model's replies before and after it."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

    from kedit.forward.reading import Tokens

Role = Literal["edited", "removed", "paraphrase", "other side", "neighbour"]
LIKELIEST = 5  # next tokens that are kept
SAID = 20  # tokens that the model goes on for
NAME = 4  # words of a name at most


@dataclass(frozen=True)
class Question:
    """A prompt, and two answers to it.

    Args:
        new: what an edit that works makes the model say; after a neighbour's prompt, what it must
            not come to say.
        old: the fact's answer before the edit; a neighbour's is what the model says by itself.
    """

    role: Role
    prompt: str
    new: str
    old: str

    @property
    def changes(self) -> bool:
        """Whether the edit should change the reply."""
        return self.role != "neighbour"


@dataclass(frozen=True)
class Reply:
    """What a model makes of a question.

    Args:
        likeliest: next tokens with their probabilities, the likeliest first.
        new, old: of the two answers, exp of the mean log-probability of their tokens.
        said: greedily, to the end of the line at most.
        answer: what that opens with.
        variety: `kedit.forward.generation.variety` of what is said, markup aside.
    """

    likeliest: tuple[tuple[str, float], ...]
    new: float
    old: float
    said: str
    answer: str
    variety: float


class Row(NamedTuple):
    """A question, with the replies of the unedited and of the edited model."""

    question: Question
    before: Reply
    after: Reply

    @property
    def works(self) -> bool:
        """Whether the edited model's text opens with what is wanted."""
        from kedit.forward.generation import says

        asked = self.question
        return says(self.after.said, [asked.new if asked.changes else asked.old])


def replies(model: "HookedTransformer", asked: Sequence[Question]) -> list[Reply]:
    """What the model makes of each question.

    Raises:
        InputError: a prompt and its answers are longer than the model's context.
    """
    from kedit.forward.likelihood import Asked, likelihoods
    from kedit.models.prompts import answers_ids, prompt_ids, require_room

    weighed = []
    for one in asked:
        prompt = prompt_ids(model, one.prompt)
        both = tuple(answers_ids(model, one.prompt, (one.new, one.old)))
        require_room(model, one.prompt, len(prompt) + max(map(len, both)))
        weighed.append(Asked(prompt, both))
    prompts = [one.prompt for one in asked]
    texts = said(model, prompts)
    found = []
    for one, answered, text, answer in zip(
        weighed, likelihoods(model, weighed), texts, answers(model, prompts, texts), strict=True
    ):
        new, old = (math.exp(each.logprob) for each in answered.answers)
        varied = _variety(model, text)
        found.append(Reply(_likeliest(model, one.prompt), new, old, text, answer, varied))
    return found


def said(model: "HookedTransformer", prompts: Sequence[str]) -> list[str]:
    """What the model goes on with after each prompt, greedily.

    Raises:
        InputError: a prompt fills the model's context.
    """
    from kedit.forward.generation import greedy
    from kedit.models.prompts import decoded, prompt_ids, require_room

    ids = [prompt_ids(model, text) for text in prompts]
    for text, own in zip(prompts, ids, strict=True):
        require_room(model, text, len(own) + 1)
    return [decoded(model, *tokens).strip() for tokens in greedy(model, ids, SAID)]


def answers(model: "HookedTransformer", prompts: Sequence[str], texts: Sequence[str]) -> list[str]:
    """The answer that each text opens with behind its prompt; "" where there is none.

    Of a word (with its article) and what may follow of a name, the part of which the model is
    surest, token by token: "New York" of "New York, and it", "Rome" of "Rome Italy Rome".
    """
    from kedit.forward.likelihood import Asked, likelihoods
    from kedit.models.prompts import answers_ids, prompt_ids

    found = [""] * len(texts)
    options = {number: own for number, text in enumerate(texts) if (own := _openings(text))}
    asked = [
        Asked(prompt_ids(model, prompts[number]), tuple(answers_ids(model, prompts[number], own)))
        for number, own in options.items()
    ]
    for (number, own), weighed in zip(options.items(), likelihoods(model, asked), strict=True):
        sureness = [answer.logprob for answer in weighed.answers]
        found[number] = own[sureness.index(max(sureness))]
    return found


def _openings(text: str) -> list[str]:
    """A word with its article, then with one more word each, as long as they are capitalised."""
    from kedit.forward.generation import ARTICLES

    found: list[str] = []
    for word in re.findall(r"\w[\w'’-]*|[^\w\s]", text):
        is_word = word[0].isalnum()
        if not found or found[-1].casefold() in ARTICLES:
            if is_word:
                found.append(word)
        elif is_word and word[0].isupper() and found[-1][0].isupper():
            found.append(word)
        else:
            break
    parts = [found[: end + 1] for end in range(len(found))][:NAME]
    # an article alone answers nothing
    return [" ".join(part) for part in parts if part[-1].casefold() not in ARTICLES]


def shown(probability: float) -> str:
    """Two significant digits, as the figure has them."""
    return f"{probability:.2g}".replace("e-0", "e-")


def _variety(model: "HookedTransformer", text: str) -> float:
    from kedit.forward.generation import variety
    from kedit.models.prompts import markup_ids, plain_ids

    markup = markup_ids(model)
    return variety(tuple(token for token in plain_ids(model, text) if token not in markup))


def _likeliest(model: "HookedTransformer", prompt: "Tokens") -> tuple[tuple[str, float], ...]:
    from kedit.forward.metrics import last_logits
    from kedit.forward.reading import read
    from kedit.models.prompts import decoded

    values, tokens = last_logits(model, read(model, [prompt]).last)[0].softmax(-1).topk(LIKELIEST)
    return tuple(
        (decoded(model, token), value)
        for token, value in zip(tokens.tolist(), values.tolist(), strict=True)
    )
