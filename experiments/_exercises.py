"""What MEND practises on: every case of a benchmark, from both sides, as prompts in words."""

import itertools
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

    from experiments.train_mend import Config
    from kedit.editing.metalearning import Exercise
    from kedit.editing.teaching import Staying
    from kedit.facts import EditCase, EditRequest, Perspective
    from kedit.forward.reading import Tokens

WORDINGS, NEIGHBOURS = 3, 6  # of each case at most, drawn once
NEAR = 2  # neighbours in an exercise
AS_IT_STANDS = 0.25  # of the exercises want the request's own prompt
EXCERPT = 24  # tokens of running text at most, the last two of which are looked at
CHUNKS, OWN_CHUNKS = 2000, 128  # of running text; the model takes its time to say its own


class Said(NamedTuple):
    """A prompt and what follows it."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class Material:
    """What one request can be practised with.

    Args:
        wordings: of the request in other words, with its target.
        neighbours: where everything is to stay; "" for an answer that nobody knows.
    """

    id: str
    request: "EditRequest"
    wordings: tuple[Said, ...]
    neighbours: tuple[Said, ...]


def materials(
    cases: "Sequence[EditCase]", sides: "Sequence[Perspective]", seed: int
) -> list[Material]:
    """Of every case and side that has other wordings or neighbours, in the order of the cases.

    Where a file holds edits alone, the templates of other edits of the relation are the other
    wordings, and other edits of the same relation and object the neighbours. Of records with
    several edits, whose probes are of all of them, none is made.
    """
    draw = random.Random(seed)
    pool: dict[tuple[str, str], list[EditCase]] = {}
    templates: dict[str, list[str]] = {}
    for case in cases:
        fact = case.entity.fact
        if fact.relation.id:
            pool.setdefault((fact.relation.id, fact.object), []).append(case)
            texts = templates.setdefault(fact.relation.id, [])
            if fact.template not in texts:
                texts.append(fact.template)
    found = []
    for case in cases:
        if case.others:
            continue
        fact = case.entity.fact
        for side in sides:
            if side == "relation" and case.relation is None:
                continue
            request = case.request(side)
            wordings = _said(case, side, ("paraphrase",))
            if not wordings and side == "entity":
                others = [
                    text for text in templates.get(fact.relation.id, ()) if text != fact.template
                ]
                wordings = [
                    Said(replace(fact, template=text, relation_words=()).prompt, request.target)
                    for text in draw.sample(others, min(WORDINGS, len(others)))
                ]
            neighbours = _said(case, side, ("neighborhood", "other relations"))
            if side == "entity":
                near = pool.get((fact.relation.id, fact.object), ())
                for other in draw.sample(near, min(WORDINGS, len(near))):
                    if other.entity.fact.subject != fact.subject:
                        neighbours.append(Said(other.entity.fact.prompt, other.entity.fact.object))
            draw.shuffle(neighbours)
            if wordings and neighbours:
                found.append(
                    Material(
                        f"{case.id} {side}", request, tuple(wordings[:WORDINGS]),
                        tuple(neighbours[:NEIGHBOURS]),
                    )
                )  # fmt: skip
    return found


def split(
    found: Sequence[Material], but: "Iterable[EditCase]", n_held_out: int, seed: int
) -> tuple[list[Material], list[Material]]:
    """To train on, and `n_held_out` to validate with; no subject is in both, and none of `but` is
    in either.
    """
    scored = {case.entity.fact.subject for case in but}
    by_subject: dict[str, list[Material]] = {}
    for one in found:
        if one.request.fact.subject not in scored:
            by_subject.setdefault(one.request.fact.subject, []).append(one)
    subjects = list(by_subject)
    random.Random(seed).shuffle(subjects)
    train: list[Material] = []
    held_out: list[Material] = []
    for subject in subjects:
        (held_out if len(held_out) < n_held_out else train).extend(by_subject[subject])
    return train, held_out


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
    text: "Sequence[Tokens]"
    removal: bool
    seed: int
    skipped: Mapping[str, str]

    def batch(self, model: "HookedTransformer", size: int, key: str) -> "list[Exercise]":
        """Drawn from the materials to train on; the same for the same key and seed."""
        draw = random.Random(f"{self.seed} {key}")
        return [self._exercise(model, draw.choice(self.train), draw) for _ in range(size)]

    def validation(self, model: "HookedTransformer") -> "dict[Perspective, list[Exercise]]":
        """One exercise of everything held out, by side; always the same ones."""
        draw = random.Random(f"{self.seed} validation")
        found: dict[Perspective, list[Exercise]] = {}
        for one in self.held_out:
            found.setdefault(one.request.perspective, []).append(self._exercise(model, one, draw))
        return found

    def _exercise(
        self, model: "HookedTransformer", material: Material, draw: random.Random
    ) -> "Exercise":
        """The request's edit; its prompt or a wording, two neighbours, and some running text."""
        from kedit.editing.metalearning import Exercise
        from kedit.editing.teaching import Staying, Wanted, demanded
        from kedit.models.prompts import answer_ids, prompt_ids

        edits = tuple(demanded(model, [material.request], self.removal))
        wording = draw.choice(material.wordings)
        other = Wanted(
            prompt_ids(model, wording.prompt), answer_ids(model, wording.prompt, wording.answer)
        )
        # the request as it stands may not be forgotten over its wordings
        wanted = edits if draw.random() < AS_IT_STANDS else (other,)
        staying = []
        for near in draw.sample(material.neighbours, min(NEAR, len(material.neighbours))):
            prompt = prompt_ids(model, near.prompt)
            answer = answer_ids(model, near.prompt, near.answer)[:-1] if near.answer else ()
            staying.append(Staying((*prompt, *answer), len(prompt) - 1))
        return Exercise(edits, wanted, (*staying, self._excerpt(draw)))

    def _excerpt(self, draw: random.Random) -> "Staying":
        from kedit.editing.teaching import Staying

        chunk = draw.choice(self.text)
        tokens = chunk[: draw.randint(EXCERPT // 2, EXCERPT)]
        return Staying(tokens, len(tokens) - 2)


class Requests(NamedTuple):
    """What is trained on, what is validated with, and why other records cannot be used."""

    train: list[Material]
    held_out: list[Material]
    skipped: dict[str, str]


def requests_for(config: "Config") -> Requests:
    """What the configuration names, without the subjects that are scored elsewhere.

    Raises:
        InputError: a file cannot be read, or nothing is left to train on or to validate with.
    """
    from experiments._score import benchmark, chosen
    from kedit.errors import InputError

    cases: list[EditCase] = []
    skipped: dict[str, str] = {}
    for source in config.cases.split(","):
        own, unused = benchmark(chosen(source, config.model))
        cases, skipped = cases + own, skipped | unused
    scored = [case for source in config.but.split(",") if source for case in benchmark(source)[0]]
    sides: list[Perspective] = [
        side for side in ("entity", "relation") if config.perspective in ("both", side)
    ]
    found = materials(cases, sides, config.seed)
    n_held_out = min(config.held_out, len(found) // 4)
    train, held_out = split(found, scored, n_held_out, config.seed)
    if not train or not held_out:
        raise InputError(
            f"{config.cases}: {len(found)} edits with other wordings and neighbours, {len(train)} "
            f"to train on and {len(held_out)} held out: at least one of each is wanted"
        )
    return Requests(train, held_out, skipped)


def practice_of(config: "Config", model: "HookedTransformer", requests: Requests) -> Practice:
    """The requests, and running text beside them.

    Raises:
        InputError: the text cannot be read, or the model can read none of the requests.
    """
    from kedit.data.corpus import SELF, corpus_of
    from kedit.errors import InputError

    corpus = corpus_of(config.model, config.text, config.seed)
    window = min(EXCERPT, model.cfg.n_ctx - 1)
    n_chunks = OWN_CHUNKS if corpus.source == SELF else CHUNKS
    text = list(itertools.islice(corpus.chunks(model, window), n_chunks))
    skipped = dict(requests.skipped)
    train, held_out = (
        _readable(model, some, skipped) for some in (requests.train, requests.held_out)
    )
    if not train or not held_out:
        raise InputError(f"{config.cases}: no request that the model can read: {skipped}")
    return Practice(train, held_out, text, config.removal, config.seed, skipped)


def _readable(
    model: "HookedTransformer", some: Sequence[Material], skipped: dict[str, str]
) -> list[Material]:
    """What the model can read whole; `skipped` gets the others, with the reason."""
    from kedit.editing.teaching import demanded
    from kedit.errors import InputError
    from kedit.models.prompts import answer_ids, prompt_ids, require_room

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


def _said(case: "EditCase", side: "Perspective", groups: tuple[str, ...]) -> list[Said]:
    return [
        Said(probe.prompt, probe.answer)
        for probe in case.probes
        if probe.perspective == side and probe.group in groups
    ]
