"""Draws the exercises of a MEND's training from requests and running text.

An exercise is an edit, with a prompt that should say the target after it, and with prompts and text
whose predictions should stay.
"""

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
from kedit.progress import progress
from kedit.studies.mend_requests import Material, Requests

N_NEIGHBOURS = 2  # neighbours per exercise
OWN_PROMPT_SHARE = 0.25  # share of exercises with the request's own prompt instead of a wording
EXCERPT = 24  # largest number of tokens of running text; predictions at the last two are compared
N_CHUNKS = 2000  # chunks of running text
N_OWN_CHUNKS = 128  # the same for text that the model writes itself, which is slow


@dataclass(frozen=True)
class Practice:
    """Everything that exercises are drawn from. No subject is in both `train` and `held_out`.

    Args:
        train: requests to train on.
        held_out: requests to validate with.
        text: chunks of running text, whose predictions should stay.
        removal: whether relation edits also make their removals.
        seed: seed of the drawn exercises.
        skipped: requests that cannot be used, with the reasons.
    """

    train: Sequence[Material]
    held_out: Sequence[Material]
    text: Sequence[Tokens]
    removal: bool
    seed: int
    skipped: Mapping[str, str]

    def batch(self, model: HookedTransformer, size: int, key: str) -> list[Exercise]:
        """Draws `size` exercises to train on.

        The draw depends on the seed and on `key` only, so that a training that is resumed at some
        step draws what it would have drawn without the interruption.
        """
        draw = random.Random(f"{self.seed} {key}")
        return [self._exercise(model, draw.choice(self.train), draw) for _ in range(size)]

    def validation(self, model: HookedTransformer) -> dict[Perspective, list[Exercise]]:
        """Draws one exercise per held-out request, by side; each call gives the same exercises."""
        draw = random.Random(f"{self.seed} validation")
        found: dict[Perspective, list[Exercise]] = {}
        for material in self.held_out:
            exercise = self._exercise(model, material, draw)
            found.setdefault(material.request.perspective, []).append(exercise)
        return found

    def _exercise(
        self, model: HookedTransformer, material: Material, draw: random.Random
    ) -> Exercise:
        """Draws an exercise: a prompt to change, two neighbours, and some running text."""
        edits = tuple(demanded(model, [material.request], self.removal))
        wording = draw.choice(material.wordings)
        other = TargetText(
            prompt_ids(model, wording.prompt), answer_ids(model, wording.prompt, wording.answer)
        )
        # some exercises have the request's own prompt, because otherwise edits would be trained to
        # work for other wordings only
        wanted = edits if draw.random() < OWN_PROMPT_SHARE else (other,)
        staying = []
        n_neighbours = min(N_NEIGHBOURS, len(material.neighbours))
        for neighbour in draw.sample(material.neighbours, n_neighbours):
            prompt = prompt_ids(model, neighbour.prompt)
            # without the answer's last token, after which nothing is compared
            answer = (
                answer_ids(model, neighbour.prompt, neighbour.answer)[:-1]
                if neighbour.answer
                else ()
            )
            # predictions are compared from the prompt's last token on
            staying.append(Staying((*prompt, *answer), len(prompt) - 1))
        return Exercise(edits, wanted, (*staying, self._excerpt(draw)))

    def _excerpt(self, draw: random.Random) -> Staying:
        """Draws some running text, whose predictions at its last two tokens should stay."""
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
    """Collects what exercises are drawn from: the requests that the model can read, and text.

    Args:
        text: running text; see `kedit.data.corpus.corpus_of`.
        removal: whether relation edits also make their removals.
        seed: seed of the drawn exercises, and of text that the model writes.

    Raises:
        InputError: the text cannot be read, or the model can read no request to train on or none to
            validate with.
    """
    corpus = corpus_of(str(model.cfg.model_name), text, seed)
    window = min(EXCERPT, model.cfg.n_ctx - 1)
    n_chunks = N_OWN_CHUNKS if corpus.source == SELF else N_CHUNKS
    chunks = list(itertools.islice(corpus.chunks(model, window), n_chunks))
    skipped = dict(requests.skipped)
    train, held_out = (
        _readable(model, part, skipped) for part in (requests.train, requests.held_out)
    )
    if not train or not held_out:
        raise InputError(
            "requests: the model can read none to train on, or none to validate with. The reasons: "
            f"{skipped}"
        )
    return Practice(train, held_out, chunks, removal, seed, skipped)


def _readable(
    model: HookedTransformer, materials: Sequence[Material], skipped: dict[str, str]
) -> list[Material]:
    """Returns the materials whose prompts and answers fit into the model's context.

    Args:
        skipped: the others are added here, with the reasons.
    """
    found = []
    with progress("requests") as bars:
        for material in bars.track(materials, description="checking"):
            try:
                demanded(model, [material.request], removal=True)
                for text, answer in (*material.wordings, *material.neighbours):
                    prompt = prompt_ids(model, text)
                    continuation = answer_ids(model, text, answer) if answer else ()
                    require_room(model, text, len(prompt) + len(continuation) - 1)
            except InputError as error:
                skipped[material.id] = str(error)
            else:
                found.append(material)
    return found
