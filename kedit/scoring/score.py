"""Scores a model on edit cases: every probe of both sides, by RaKE's measures and stricter ones.

The same function scores the unedited and the edited model; a score does not know which it is of.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

from transformer_lens import HookedTransformer

from kedit.errors import InputError
from kedit.facts import EditCase, Probe
from kedit.forward.generation import greedy, ngram_entropy, sampled
from kedit.forward.kept import KeptStates
from kedit.forward.likelihood import Query, QueryAnswers, likelihoods
from kedit.forward.metrics import last_logits
from kedit.forward.reading import batches, read
from kedit.forward.saying import opens_with_answer
from kedit.models.prompts import answers_ids, decoded, prompt_ids, require_room
from kedit.models.sites import require_no_hooks_left
from kedit.results.scores import EditScore, ProbeScore

SAID_TOKENS = (
    6  # tokens of greedy text per prompt: enough for an article, quotation marks and a name
)
# groups of probes after which the model generates greedy text
GENERATED = ("efficacy", "paraphrase", "removal", "removal paraphrase", "portability")
# groups of probes whose label is ranked: not the neighbours, which are so many that their ranks
# would take longer than everything else
RANKED = ("efficacy", "paraphrase", "removal", "removal paraphrase", "other relations")
# of texts for fluency: sampled from the 5 likeliest tokens, 100 tokens with the prompt (ROME)
TOP_K, TEXT_TOKENS = 5, 100
OWN_WORD_TOP_K = 20  # likeliest tokens among which a model's own word is searched (RETS)
LOGIT_ROWS = 20  # prompts whose logits over the vocabulary are in memory at once
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
    """What to measure besides the likelihoods, which are always measured.

    Args:
        labels: names of the relations among which a probe's label is ranked; empty for no ranks.
        say: whether to generate greedy text after the probes in the groups GENERATED.
        texts: whether to generate a text for fluency from each generation prompt of a case. A
            prompt that a case lists several times, as in CounterFact, gets that many texts.
        seed: seed of these texts.
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
    kept: KeptStates | None = None,
) -> list[EditScore]:
    """Scores `cases`, in order. One call with many cases is faster than many calls.

    Args:
        own_words: by prompt, the unedited model's own word as a token id, for probes that name no
            answer. The function `own_words` returns it, and `EditScore.own_words` keeps it.
        kept: states of the prompts in the layers below the lowest edited one, so that an edited
            model reads prompts from this layer on. The scores are the same.

    Raises:
        InputError: a prompt with its answer is longer than the model's context, or `own_words`
            lacks a prompt; the message names the prompt.
    """
    require_no_hooks_left(model)
    probes = [probe for case in cases for probe in case.probes]
    own_words = own_words or {}
    for probe in probes:
        # not computed here: `model` may be edited, and must be compared with the unedited one
        if not probe.answer and probe.prompt not in own_words:
            raise InputError(
                f"{probe.prompt!r}: the right answer is the unedited model's own word: pass it as "
                "score(..., own_words=own_words(model, cases)), computed before the edit"
            )
    queries = [_query(model, probe, scoring.labels, own_words) for probe in probes]
    answers = likelihoods(model, queries, kept)
    said = _said(model, probes, queries, kept) if scoring.say else [None] * len(probes)
    scores = iter(
        [_probe_score(model, *parts) for parts in zip(probes, queries, answers, said, strict=True)]
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


def _query(
    model: HookedTransformer, probe: Probe, labels: Sequence[str], own_words: Mapping[str, int]
) -> Query:
    """Builds the query for a probe: its answer, its rival, and the competitors of its label."""
    texts = list(dict.fromkeys(filter(None, (probe.answer, probe.rival, probe.label))))
    is_ranked = bool(probe.label and labels and probe.group in RANKED)
    other_labels = [label for label in labels if label != probe.label] if is_ranked else []
    ids = answers_ids(model, probe.prompt, [*texts, *other_labels])
    answers, competitors = ids[: len(texts)], tuple(ids[len(texts) :])
    if not probe.answer:
        answers.insert(0, (own_words[probe.prompt],))
    ranked = answers.index(ids[texts.index(probe.label)]) if is_ranked else 0
    query = Query(prompt_ids(model, probe.prompt), tuple(answers), competitors, ranked)
    longest = max(map(len, query.answers + competitors))
    require_room(model, probe.prompt, len(query.prompt) + longest)
    return query


def _probe_score(
    model: HookedTransformer,
    probe: Probe,
    query: Query,
    answers: QueryAnswers,
    said: str | None,
) -> ProbeScore:
    answer, *others = answers.answers
    return ProbeScore(
        perspective=probe.perspective,
        group=probe.group,
        prompt=probe.prompt,
        answer=probe.answer or decoded(model, *query.answers[0]),
        rival=probe.rival,
        logprob=answer.logprob,
        rival_logprob=others[0].logprob if probe.rival else None,
        exact=answer.exact,
        rank=answers.rank,
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
    """Returns the other names of a relation, if `text` (answer or rival) is its name."""
    return probe.aliases if text == (probe.label or probe.answer) else ()


def _said(
    model: HookedTransformer,
    probes: Sequence[Probe],
    queries: Sequence[Query],
    kept: KeptStates | None,
) -> list[str | None]:
    """Generates greedy text after the probes in the groups GENERATED; None for other probes."""
    pairs = list(zip(probes, queries, strict=True))
    prompts = list(
        dict.fromkeys(query.prompt for probe, query in pairs if probe.group in GENERATED)
    )
    said = greedy(model, prompts, SAID_TOKENS, kept)
    texts = {prompt: decoded(model, *tokens) for prompt, tokens in zip(prompts, said, strict=True)}
    return [texts[query.prompt] if probe.group in GENERATED else None for probe, query in pairs]


def own_words(model: HookedTransformer, cases: Sequence[EditCase]) -> dict[str, int]:
    """Returns the own word of the unedited model for each prompt whose probe names no answer.

    The own word is the likeliest token that is a word with a meaning (RETS).

    Args:
        model: the unedited model.

    Returns:
        By prompt, the id of the token.

    Raises:
        InputError: a prompt is longer than the model's context.
    """
    probes = [probe for case in cases for probe in case.probes]
    prompts = list(dict.fromkeys(probe.prompt for probe in probes if not probe.answer))
    ids = [prompt_ids(model, prompt) for prompt in prompts]
    for prompt, tokens in zip(prompts, ids, strict=True):
        require_room(model, prompt, len(tokens) + 1)
    words: dict[str, int] = {}
    for batch in batches(model, [len(tokens) for tokens in ids]):
        reading = read(model, [ids[index] for index in batch])
        likeliest: list[list[int]] = []
        for part in reading.last.split(LOGIT_ROWS):
            likeliest += last_logits(model, part).topk(OWN_WORD_TOP_K).indices.tolist()
        for index, tokens in zip(batch, likeliest, strict=True):
            meaningful = (token for token in tokens if _has_meaning(decoded(model, token)))
            words[prompts[index]] = next(meaningful, tokens[0])
    return words


def _has_meaning(word: str) -> bool:
    """Whether a token is a word of at least two letters and not one of FUNCTION_WORDS."""
    word = word.strip()
    return word.isalpha() and len(word) > 1 and word.casefold() not in FUNCTION_WORDS


def _fluencies(
    model: HookedTransformer, cases: Sequence[EditCase], seed: int
) -> list[float | None]:
    """Computes the mean n-gram entropy of each case's texts, with prompts, as ROME's code does.

    Cases that share a prompt share its texts, in order: a case that lists the prompt n times gets
    the first n of them.
    """
    counts = [Counter(case.generation) for case in cases]
    # how many texts each prompt needs: the largest count in any case
    most = reduce(or_, counts, Counter[str]())
    prompts = list(most.elements())
    ids = [prompt_ids(model, prompt) for prompt in prompts]
    entropy: dict[str, list[float]] = {prompt: [] for prompt in most}
    for prompt, tokens in zip(prompts, sampled(model, ids, TEXT_TOKENS, TOP_K, seed), strict=True):
        entropy[prompt].append(ngram_entropy(prompt + decoded(model, *tokens)))
    found = [
        [value for prompt, n in count.items() for value in entropy[prompt][:n]] for count in counts
    ]
    return [sum(values) / len(values) if values else None for values in found]
