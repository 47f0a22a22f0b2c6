"""An edit case under a model: every probe of both sides, as RaKE measures it and more strictly.

A score says nothing of before or after: the same call measures the unedited and the edited model.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

import torch
from transformer_lens import HookedTransformer

from kedit.errors import InputError
from kedit.facts import EditCase, Probe
from kedit.forward.generation import greedy, ngram_entropy, sampled
from kedit.forward.likelihood import Query, QueryAnswers, likelihoods
from kedit.forward.metrics import last_logits
from kedit.forward.reading import batches, read
from kedit.forward.saying import opens_with_answer
from kedit.models.prompts import answers_ids, decoded, prompt_ids, require_room
from kedit.models.sites import require_no_hooks_left
from kedit.results.scores import EditScore, ProbeScore

SAID_TOKENS = 6  # enough for an article, quotation marks and a name
GENERATED = ("efficacy", "paraphrase", "removal", "removal paraphrase", "portability")
# all but the neighbours, which are many: their rank would cost more than all else
RANKED = ("efficacy", "paraphrase", "removal", "removal paraphrase", "other relations")
TOP_K, TEXT_TOKENS = 5, 100  # of generated texts, prompt included (Meng et al. 2022)
LOOKED_AT = 20  # likeliest tokens among which a model's own word is looked for (RETS)
_FUNCTION_WORDS = """
a about after all also although an and any are as at be because been before being both but by
can could did do does each either even ever every few for from had has have he her here hers him
his how i if in into is it its itself just like made many may me might more most much must my
neither no nor not now of often on once one only or other our out over own same several she
should since so some still such than that the their them then there these they this those
through to too under until up upon us very was we were what when where whether which while who
whom whose why will with within would yet you your
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())


@dataclass(frozen=True)
class Scoring:
    """What is measured beside the likelihoods, which always are.

    Args:
        labels: the relations' names among which a label's rank is taken; none: no ranks.
        say: let the model speak, greedily, after the probes of GENERATED.
        texts: generate a text for fluency from each of a case's generation prompts; from one that
            stands there several times, as in CounterFact, as many texts.
        seed: of these texts.
    """

    labels: tuple[str, ...] = ()
    say: bool = True
    texts: bool = False
    seed: int = 0


def score(
    model: HookedTransformer,
    cases: Sequence[EditCase],
    scoring: Scoring,
    own_words: Mapping[str, int] | None = None,
) -> list[EditScore]:
    """Scores of `cases`, in order; many cases at once are faster than one by one.

    Args:
        own_words: by prompt, the word of the unedited model where a probe leaves its answer to it:
            what the function `own_words` gives, or EditScore.own_words.

    Raises:
        InputError: a prompt and its answer are longer than the model's context, or there is no word
            for it in `own_words`; names the prompt.
    """
    require_no_hooks_left(model)
    probes = [probe for case in cases for probe in case.probes]
    own_words = own_words or {}
    for probe in probes:
        # not taken from `model`: it may be edited, and would be measured by its own words
        if not probe.answer and probe.prompt not in own_words:
            raise InputError(
                f"{probe.prompt!r} is to be answered as the unedited model answers it: give "
                "score(..., own_words=own_words(model, cases)), read before the edit"
            )
    asked = [_asked(model, probe, scoring.labels, own_words) for probe in probes]
    answered = likelihoods(model, asked)
    said = _said(model, probes, asked) if scoring.say else [None] * len(probes)
    scores = iter(
        [_probe_score(model, *one) for one in zip(probes, asked, answered, said, strict=True)]
    )
    fluencies = _fluencies(model, cases, scoring.seed) if scoring.texts else [None] * len(cases)
    return [
        EditScore(
            id=case.id,
            relation=case.entity.fact.relation.name,
            kind=case.entity.fact.relation.kind,
            probes=tuple(next(scores) for _ in case.probes),
            fluency=fluency,
            own_words={
                probe.prompt: own_words[probe.prompt] for probe in case.probes if not probe.answer
            },
        )
        for case, fluency in zip(cases, fluencies, strict=True)
    ]


def _asked(
    model: HookedTransformer, probe: Probe, labels: Sequence[str], own_words: Mapping[str, int]
) -> Query:
    """The answer, its rival, and the label's rank where the probe has a label."""
    told = [text for text in (probe.answer, probe.rival, probe.label) if text]
    ranks = bool(probe.label and labels and probe.group in RANKED)
    among = [label for label in labels if label != probe.label] if ranks else []
    texts = list(dict.fromkeys(told))
    ids = answers_ids(model, probe.prompt, [*texts, *among])
    answers, field = ids[: len(texts)], tuple(ids[len(texts) :])
    if not probe.answer:
        answers.insert(0, (own_words[probe.prompt],))
    ranked = answers.index(ids[texts.index(probe.label)]) if ranks else 0
    asked = Query(prompt_ids(model, probe.prompt), tuple(answers), field, ranked)
    require_room(model, probe.prompt, len(asked.prompt) + max(map(len, asked.answers + field)))
    return asked


def _probe_score(
    model: HookedTransformer,
    probe: Probe,
    asked: Query,
    answered: QueryAnswers,
    said: str | None,
) -> ProbeScore:
    answer, *others = answered.answers
    return ProbeScore(
        perspective=probe.perspective,
        group=probe.group,
        prompt=probe.prompt,
        answer=probe.answer or decoded(model, *asked.answers[0]),
        rival=probe.rival,
        logprob=answer.logprob,
        rival_logprob=others[0].logprob if probe.rival else None,
        exact=answer.exact,
        rank=answered.rank,
        said=said,
        says=None
        if said is None
        else opens_with_answer(said, [probe.answer, *_aliases(probe, probe.answer)]),
        says_rival=(
            opens_with_answer(said, [probe.rival, *_aliases(probe, probe.rival)])
            if said is not None and probe.rival
            else None
        ),
    )


def _aliases(probe: Probe, text: str) -> tuple[str, ...]:
    """A relation's other names count for its label, whether that is the answer or the rival."""
    return probe.aliases if text == (probe.label or probe.answer) else ()


def _said(
    model: HookedTransformer, probes: Sequence[Probe], asked: Sequence[Query]
) -> list[str | None]:
    """What the model says by itself after the probes whose groups are GENERATED."""
    spoken = list(
        dict.fromkeys(
            one.prompt for probe, one in zip(probes, asked, strict=True) if probe.group in GENERATED
        )
    )
    said = greedy(model, spoken, SAID_TOKENS)
    texts = {prompt: decoded(model, *tokens) for prompt, tokens in zip(spoken, said, strict=True)}
    return [
        texts[one.prompt] if probe.group in GENERATED else None
        for probe, one in zip(probes, asked, strict=True)
    ]


def own_words(model: HookedTransformer, cases: Sequence[EditCase]) -> dict[str, int]:
    """By prompt, `model`'s likeliest token that is a word with a meaning (as RETS measures it).

    Of the probes whose answer is left to the unedited model, which `model` has to be.

    Raises:
        InputError: a prompt is longer than the model's context.
    """
    probes = [probe for case in cases for probe in case.probes]
    prompts = list(dict.fromkeys(probe.prompt for probe in probes if not probe.answer))
    ids = [prompt_ids(model, prompt) for prompt in prompts]
    for prompt, own in zip(prompts, ids, strict=True):
        require_room(model, prompt, len(own) + 1)
    words: dict[str, int] = {}
    for batch in batches(model, [len(own) for own in ids]):
        reading = read(model, [ids[index] for index in batch])
        for part in torch.arange(len(batch)).split(LOOKED_AT):
            likeliest = last_logits(model, reading.last[part]).topk(LOOKED_AT).indices.tolist()
            for row, tokens in zip(part.tolist(), likeliest, strict=True):
                meant = (token for token in tokens if _has_meaning(decoded(model, token)))
                words[prompts[batch[row]]] = next(meant, tokens[0])
    return words


def _has_meaning(word: str) -> bool:
    word = word.strip()
    return word.isalpha() and len(word) > 1 and word.casefold() not in FUNCTION_WORDS


def _fluencies(
    model: HookedTransformer, cases: Sequence[EditCase], seed: int
) -> list[float | None]:
    """Mean n-gram entropy of each case's texts, prompts included (as the published code does).

    The first text from a prompt is the same in all cases that have it, and so is the second.
    """
    times = [Counter(case.generation) for case in cases]
    most = reduce(or_, times, Counter[str]())  # of each prompt, how often a case has it at most
    prompts = list(most.elements())
    ids = [prompt_ids(model, prompt) for prompt in prompts]
    entropy: dict[str, list[float]] = {prompt: [] for prompt in most}
    for prompt, tokens in zip(prompts, sampled(model, ids, TEXT_TOKENS, TOP_K, seed), strict=True):
        entropy[prompt].append(ngram_entropy(prompt + decoded(model, *tokens)))
    found = [[value for prompt, n in own.items() for value in entropy[prompt][:n]] for own in times]
    return [sum(values) / len(values) if values else None for values in found]
