"""Three verdicts on an edit: each number that damage shows in turns success into one at a price."""

import math
from typing import Any

import pytest

from kedit.results.verdict import Price, Verdict, judged

FINE: dict[str, Any] = {
    "perplexity": (10.0, 10.9), "variety": (0.8, 0.7), "norm": 0.5, "kept": 0.5,
}  # fmt: skip


def test_an_edit_that_says_its_target_within_all_limits_works() -> None:
    assert judged(True, **FINE) == Verdict("works", ())
    assert judged(True) == Verdict("works", ())  # nothing was measured


@pytest.mark.parametrize(
    ("measured", "price"),
    [
        ({"perplexity": (10.0, 11.5)}, Price("perplexity", 1.15, 1.1)),
        ({"variety": (0.8, 0.4)}, Price("repetition", 0.5, 0.7)),
        ({"norm": 1.1}, Price("norm", 1.1, 0.5)),
        ({"kept": 2 / 6}, Price("neighbours", 2 / 6, 0.5)),
        ({"said": 0.75}, Price("targets", 0.75, 1.0)),
    ],
)
def test_each_price_alone_is_one(measured: dict[str, Any], price: Price) -> None:
    assert judged(True, **{**FINE, **measured}) == Verdict("at a price", (price,))
    # what was not measured does not hide it, and failing has its price too
    assert judged(True, **measured).prices == (price,)
    assert judged(False, **{**FINE, **measured}) == Verdict("fails", (price,))


def test_all_prices_are_named() -> None:
    found = judged(True, perplexity=(10.0, 40.0), variety=(0.9, 0.1), norm=2.0, kept=0.0)
    assert [one.name for one in found.prices] == ["perplexity", "repetition", "norm", "neighbours"]


@pytest.mark.parametrize(
    "measured",
    [
        {"perplexity": (10.0, math.nan)},
        {"perplexity": (math.nan, 10.0)},
        {"perplexity": (math.inf, math.inf)},
        {"perplexity": (10.0, math.inf)},
        {"variety": (0.8, math.nan)},
        {"variety": (0.0, math.nan)},
        {"norm": math.nan},
        {"norm": math.inf},
        {"kept": math.nan},
    ],
)
def test_what_is_not_a_number_never_passes_as_fine(measured: dict[str, Any]) -> None:
    found = judged(True, **{**FINE, **measured})
    assert found.outcome == "at a price" and len(found.prices) == 1


def test_text_without_variety_has_none_to_lose() -> None:
    assert judged(True, variety=(0.0, 0.0)).outcome == "works"
    assert judged(True, variety=(0.0, 0.5)).outcome == "works"


def test_an_edit_that_does_not_say_its_target_fails_whatever_it_costs() -> None:
    assert judged(False, **FINE) == Verdict("fails", ())
