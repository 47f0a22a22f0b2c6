"""Answers of heads that nobody asked: one number, everywhere."""

from collections.abc import Mapping, Sequence
from typing import Any

from kedit.heads import Head
from kedit.results.fact_answers import Ablated, FactAnswers, HeadAnswer, MetricScores
from kedit.results.head_answers import HeadAnswers


def scores(prob: float) -> MetricScores:
    return MetricScores(prob, 2 * prob, 3 * prob)


def fact_of(
    heads: Sequence[Head],
    value: float = -0.1,
    knockout: Mapping[str, tuple[float, ...]] | None = None,
    receivers: Sequence[str] = ("logits",),
) -> FactAnswers:
    """Effects of `value` at every head, those through receivers ever smaller ones."""
    ablated = Ablated(scores(value), scores(value))
    paths = {to: scores((-1) ** n * value / (n + 1)) for n, to in enumerate(receivers)}
    answers = tuple(HeadAnswer(head, value, 3, (" a", "\n"), ablated, paths) for head in heads)
    cuts = {"last to subject": (value, 0.0)} if knockout is None else knockout
    return FactAnswers("Oslo is in", "country", scores(0.9), answers, ablated, ablated, cuts)


def found_of(facts: Sequence[FactAnswers], **fields: Any) -> HeadAnswers:
    made: dict[str, Any] = {
        "model": "toy", "metric": "prob", "corrupt": "relation", "window": 1, "seed": 0,
        "decoded": {}, "n_decoded": 40,
    }  # fmt: skip
    return HeadAnswers(**made | fields, facts=tuple(facts))
