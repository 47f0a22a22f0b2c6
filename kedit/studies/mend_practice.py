"""What MEND practises: exercises drawn from requests, with running text beside them."""

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transformer_lens import HookedTransformer

from kedit.data.corpus import SELF, corpus_of
from kedit.editing.metalearning import Exercise
from kedit.editing.teaching import Staying, TargetText, demanded
from kedit.errors import InputError
from kedit.facts import Perspective
from kedit.forward.reading import Tokens
from kedit.models.prompts import answer_ids, prompt_ids, require_room
from kedit.studies.mend_requests import Material, Requests

NEAR = 2  # neighbours in an exercise
OWN_PROMPT_SHARE = 0.25  # of the exercises want the request's own prompt
EXCERPT = 24  # tokens of running text at most, the last two of which are looked at
CHUNKS, OWN_CHUNKS = 2000, 128  # of running text; the model takes its time to say its own


@dataclass(frozen=True)
class Practice:
    """What is trained on and validated with; no subject is in both.

    Args:
        text: chunks of running text, which is to stay.
        removal: relation edits ask for their removal too.
        skipped: records that could not be used, with the reason.
    """

    train: Sequence[Material]
    held_out: Sequence[Material]
    text: Sequence[Tokens]
    removal: bool
    seed: int
    skipped: Mapping[str, str]

    def batch(self, model: HookedTransformer, size: int, key: str) -> list[Exercise]:
        """Drawn from the materials to train on; the same for the same key and seed."""
        draw = random.Random(f"{self.seed} {key}")
        return [self._exercise(model, draw.choice(self.train), draw) for _ in range(size)]

    def validation(self, model: HookedTransformer) -> dict[Perspective, list[Exercise]]:
        """One exercise of everything held out, by side; always the same ones."""
        draw = random.Random(f"{self.seed} validation")
        found: dict[Perspective, list[Exercise]] = {}
        for one in self.held_out:
            found.setdefault(one.request.perspective, []).append(self._exercise(model, one, draw))
        return found

    def _exercise(
        self, model: HookedTransformer, material: Material, draw: random.Random
    ) -> Exercise:
        """The request's edit; its prompt or a wording, two neighbours, and some running text."""
        edits = tuple(demanded(model, [material.request], self.removal))
        wording = draw.choice(material.wordings)
        other = TargetText(
            prompt_ids(model, wording.prompt), answer_ids(model, wording.prompt, wording.answer)
        )
        # the request as it stands may not be forgotten over its wordings
        wanted = edits if draw.random() < OWN_PROMPT_SHARE else (other,)
        staying = []
        for near in draw.sample(material.neighbours, min(NEAR, len(material.neighbours))):
            prompt = prompt_ids(model, near.prompt)
            answer = answer_ids(model, near.prompt, near.answer)[:-1] if near.answer else ()
            staying.append(Staying((*prompt, *answer), len(prompt) - 1))
        return Exercise(edits, wanted, (*staying, self._excerpt(draw)))

    def _excerpt(self, draw: random.Random) -> Staying:

        chunk = draw.choice(self.text)
        tokens = chunk[: draw.randint(EXCERPT // 2, EXCERPT)]
        return Staying(tokens, len(tokens) - 2)


def practice_of(
    model: HookedTransformer,
    requests: Requests,
    *,
    text: str = "",
    removal: bool = False,
    seed: int = 0,
) -> Practice:
    """The requests, and running text beside them.

    Args:
        text: as `kedit.data.corpus.corpus_of` has it.
        removal: relation edits ask for their removal too.
        seed: of what is drawn.

    Raises:
        InputError: the text cannot be read, or the model can read none of the requests.
    """
    corpus = corpus_of(str(model.cfg.model_name), text, seed)
    window = min(EXCERPT, model.cfg.n_ctx - 1)
    n_chunks = OWN_CHUNKS if corpus.source == SELF else CHUNKS
    chunks = list(itertools.islice(corpus.chunks(model, window), n_chunks))
    skipped = dict(requests.skipped)
    train, held_out = (
        _readable(model, some, skipped) for some in (requests.train, requests.held_out)
    )
    if not train or not held_out:
        raise InputError(f"there is no request that the model can read: {skipped}")
    return Practice(train, held_out, chunks, removal, seed, skipped)


def _readable(
    model: HookedTransformer, some: Sequence[Material], skipped: dict[str, str]
) -> list[Material]:
    """What the model can read whole; `skipped` gets the others, with the reason."""

    found = []
    for one in some:
        try:
            demanded(model, [one.request], removal=True)
            for near in (*one.wordings, *one.neighbours):
                prompt = prompt_ids(model, near.prompt)
                answer = answer_ids(model, near.prompt, near.answer) if near.answer else ()
                require_room(model, near.prompt, len(prompt) + len(answer) - 1)
        except InputError as error:
            skipped[one.id] = str(error)
        else:
            found.append(one)
    return found
