"""From single cases to tables: means, intervals, lifts and Scores, by hand and by invariants."""

import math
from dataclasses import replace
from statistics import harmonic_mean
from typing import Any

import numpy as np
import pytest

from kedit import stats
from kedit.results.scores import EditScore, ProbeScore
from kedit.scoring.summary import (
    BY_ALL,
    BY_MAGNITUDE,
    HARMONIC,
    LIFTS,
    STEADINESS,
    Key,
    Measure,
    by_relation,
    changes,
    measures,
    part_name,
    shares,
)  # fmt: skip
from kedit.stats import Interval


def probe(
    perspective: str, group: str, prob: float, rival: float | None, **more: Any
) -> ProbeScore:
    return ProbeScore(
        perspective, group, "a prompt", "an answer", "a rival" if rival else "", math.log(prob),
        math.log(rival) if rival else None, exact=prob > 0.5, **more,
    )  # fmt: skip


def edit_score(id: str, *probes: ProbeScore, fluency: float | None = None) -> EditScore:
    return EditScore(id, "owner" if id < "c" else "capital", "asymmetric", probes, fluency, {})


def found(all_of_them: list[Measure], *key: str) -> Measure:
    (one,) = [measure for measure in all_of_them if measure.key == Key(*key)]
    return one


def mean(interval: Interval | None) -> float:
    assert interval is not None
    return float(interval.mean)


SIDES = [
    ("entity", "efficacy"), ("entity", "paraphrase"), ("entity", "neighborhood"),
    ("relation", "efficacy"), ("relation", "paraphrase"),
]  # fmt: skip


def whole_cases(share: dict[tuple[str, str], float], n: int = 20) -> list[EditScore]:
    """Cases whose success rates are `share`."""
    return [
        edit_score(
            f"{number}",
            *(
                probe(*side, *((0.6, 0.2) if number < round(share[side] * n) else (0.1, 0.3)))
                for side in SIDES
            ),
        )
        for number in range(n)
    ]


def test_prompts_are_averaged_within_a_case_and_cases_after() -> None:
    cases = [
        edit_score("a", *[probe("entity", "neighborhood", 0.6, 0.2)] * 3),
        edit_score(
            "b",
            probe("entity", "neighborhood", 0.6, 0.1),
            probe("entity", "neighborhood", 0.1, 0.3),
        ),
        edit_score("c", probe("entity", "efficacy", 0.2, None)),
    ]
    all_of_them = measures(cases)
    success = found(all_of_them, "entity", "neighborhood", "success")
    assert mean(success.before) == pytest.approx((1 + 0.5) / 2)  # not 4 of 5
    assert (success.n_cases, success.n_prompts) == (2, 5)
    magnitude = found(all_of_them, "entity", "neighborhood", "magnitude")
    assert mean(magnitude.before) == pytest.approx((0.4 + (0.5 - 0.2) / 2) / 2)
    assert mean(found(all_of_them, "entity", "efficacy", "probability").before) == pytest.approx(
        0.2
    )
    assert not [m for m in all_of_them if m.key == Key("entity", "efficacy", "success")]


def test_every_statistic_by_hand() -> None:
    one = probe("relation", "removal", 0.7, 0.1, rank=4, said="x", says=True, says_rival=False)
    all_of_them = measures([edit_score("a", one)])
    expected = {
        "success": 1, "magnitude": 0.6, "probability": 0.7, "rival's probability": 0.1,
        "exact match": 1, "says it": 1, "says the rival": 0, "reciprocal rank": 0.25,
        "ranks first": 0,
    }  # fmt: skip
    assert {m.key.statistic: round(mean(m.before), 6) for m in all_of_them} == expected


def test_the_score_is_the_harmonic_mean_of_the_five_success_rates() -> None:
    share = dict(zip(SIDES, (0.9, 0.75, 0.8, 0.5, 0.25), strict=True))
    all_of_them = measures(whole_cases(share))
    score = found(all_of_them, "both", "Score", "harmonic mean")
    assert mean(score.before) == pytest.approx(harmonic_mean(share.values()))
    entity = found(all_of_them, "entity", "Score", "harmonic mean")
    assert mean(entity.before) == pytest.approx(harmonic_mean(list(share.values())[:3]))
    pair = found(all_of_them, "both", "efficacy", "harmonic mean")
    assert mean(pair.before) == pytest.approx(harmonic_mean([0.9, 0.5]))
    for measure in all_of_them:
        assert measure.before is not None
        assert measure.before.low <= measure.before.mean <= measure.before.high


def test_without_a_relation_side_the_score_is_of_three() -> None:
    cases = [
        edit_score("a", *(probe(*side, 0.6, 0.2) for side in SIDES[:3])),
        edit_score("b", *(probe(*side, 0.6, 0.2) for side in SIDES[:3])),
    ]
    there = {measure.key for measure in measures(cases)} & set(HARMONIC)
    assert there == {Key("entity", "Score", "harmonic mean")}


def test_a_score_is_nothing_where_one_of_its_parts_is_nothing() -> None:
    share = dict(zip(SIDES, (0.9, 0.75, 0.8, 0.0, 0.25), strict=True))
    assert mean(found(measures(whole_cases(share)), "both", "Score", "harmonic mean").before) == 0


def test_lifts_are_taken_case_by_case() -> None:
    before = whole_cases(dict.fromkeys(SIDES, 0.5))
    after = whole_cases(dict.fromkeys(SIDES, 0.75))
    lift = found(changes(before, after), "entity", "efficacy", "success")
    assert mean(lift.lift) == pytest.approx(0.25)
    # paired: nobody got worse, so the lift is surer than the two means are
    assert lift.lift is not None and lift.before is not None
    assert lift.lift.high - lift.lift.low < lift.before.high - lift.before.low
    same = found(changes(before, before), "entity", "efficacy", "success")
    assert same.lift == Interval(*(np.zeros(()),) * 3)


def test_the_score_on_lifts_asks_what_was_gained_and_what_was_kept() -> None:
    before = whole_cases(dict(zip(SIDES, (0.2, 0.2, 0.8, 0.9, 0.5), strict=True)))
    after = whole_cases(dict(zip(SIDES, (1.0, 0.6, 0.6, 0.95, 0.75), strict=True)))
    all_of_them = changes(before, after, "entity")
    score = found(all_of_them, "both", "Score", "lifts")
    assert mean(score.after) == pytest.approx(harmonic_mean([1, 0.5, 0.75, 0.5, 0.5]))
    entity = found(all_of_them, "entity", "Score", "lifts")
    assert mean(entity.after) == pytest.approx(harmonic_mean([1, 0.5, 0.75]))
    transfer = found(all_of_them, "relation", "transfer", "gain")
    assert mean(transfer.after) == pytest.approx(0.5)
    assert not [m for m in all_of_them if m.key == Key("entity", "transfer", "gain")]
    nothing = found(changes(before, before), "both", "Score", "lifts")
    assert mean(nothing.after) == 0  # success alone would have given much


def test_intervals_are_the_same_for_the_same_seed_and_cover_the_truth() -> None:
    cases = whole_cases(dict.fromkeys(SIDES, 0.5), n=40)
    one, again, other = (measures(cases, seed=seed) for seed in (1, 1, 2))
    assert [m.to_record() for m in one] == [m.to_record() for m in again]
    assert [m.to_record() for m in one] != [m.to_record() for m in other]
    interval = found(one, "entity", "efficacy", "success").before
    assert interval is not None
    # 1.96 * sqrt(0.25 / 40) = 0.155
    assert interval.high - interval.mean == pytest.approx(0.155, abs=0.03)


def test_rates_have_wilsons_interval_and_lifts_the_bootstraps() -> None:
    before = whole_cases(dict.fromkeys(SIDES, 0.0), n=51)
    after = whole_cases(dict.fromkeys(SIDES, 1.0), n=51)
    rate = found(changes(before, after), "entity", "efficacy", "success")
    assert rate.before and rate.after and rate.lift
    assert rate.before.floats() == pytest.approx((0, 0, 0.07), abs=1e-3)
    assert rate.after.floats() == pytest.approx((1, 0.93, 1), abs=1e-3)
    assert rate.lift.floats() == (1, 1, 1)
    assert found(changes(before, after), "entity", "efficacy", "exact match").after == rate.after
    magnitude = found(changes(before, after), "entity", "efficacy", "magnitude")
    assert magnitude.after and magnitude.after.floats() == pytest.approx((0.4, 0.4, 0.4))


def test_names_that_all_rank_first_are_a_rate() -> None:
    def cases(*ranks: int) -> list[EditScore]:
        return [
            edit_score(str(n), probe("relation", "efficacy", 0.6, 0.2, rank=rank))
            for n, rank in enumerate(ranks)
        ]

    def of(scores: list[EditScore], statistic: str) -> Interval | None:
        return found(measures(scores), "relation", "efficacy", statistic).before

    assert of(cases(*[1] * 9), "reciprocal rank") == of(cases(*[1] * 9), "ranks first")
    some = of(cases(*[1] * 8, 2), "reciprocal rank")
    assert some and some.floats()[::2] == pytest.approx((8.5 / 9, 1))


def test_a_single_case_has_no_intervals() -> None:
    one, two = (whole_cases(dict.fromkeys(SIDES, 1.0), n=n) for n in (1, 2))
    for cases, wanted in ((one, False), (two, True)):
        for measure in changes(cases, cases):
            for interval in (measure.before, measure.after, measure.lift):
                if interval is not None:
                    assert np.isfinite(interval.mean)
                    assert np.isfinite(interval[1:]).all() == wanted, measure.key
    record = measures(one)[0].to_record()
    assert record["before"] == 1 and record["before low"] is None


def test_cases_with_their_own_prompt_alone_keep_and_gain_nothing_else() -> None:
    before = [edit_score(n, probe("entity", "efficacy", 0.1, 0.3)) for n in "abc"]
    after = [edit_score(n, probe("entity", "efficacy", 0.6, 0.2)) for n in "abc"]
    entity, other = shares(
        before, after, [Key(side, "Score", "lifts") for side in ("entity", "relation")]
    )
    assert entity.generalisation[0] == 1 and entity.score[0] == 1
    assert np.isnan(entity.locality).all()  # no prompt asks what should stay
    for row in (other.generalisation, other.locality, other.score, other.mean):
        assert np.isnan(row).all()
    kept = [replace(one, probes=(*one.probes, probe("entity", "neighborhood", 0.6, 0.2)))
            for one in before]  # fmt: skip
    (with_neighbours,) = shares(kept, kept, [Key("entity", "Score", "lifts")])
    assert with_neighbours.locality[0] == 1


def test_fluency_is_over_the_cases_that_have_texts() -> None:
    one = probe("entity", "efficacy", 0.2, 0.3)
    cases = [edit_score("a", one, fluency=5.0), edit_score("b", one), edit_score("c", one)]
    entropy = found(measures(cases), "both", "generated text", "n-gram entropy")
    assert mean(entropy.before) == 5 and entropy.n_cases == 1


def test_cases_are_put_together_by_relation() -> None:
    one = probe("entity", "efficacy", 0.2, 0.3)
    cases = [edit_score("d", one), edit_score("a", one), edit_score("b", one)]
    grouped = by_relation(cases)
    assert {name: [case.id for case in own] for name, own in grouped.items()} == {
        "capital": ["d"],
        "owner": ["a", "b"],
    }


def test_different_cases_are_not_compared() -> None:
    one = probe("entity", "efficacy", 0.2, 0.3)
    with pytest.raises(AssertionError):
        changes([edit_score("a", one)], [edit_score("b", one)])


def test_a_record_has_plain_numbers() -> None:
    record = measures(whole_cases(dict.fromkeys(SIDES, 0.5)))[0].to_record()
    assert set(record) == {
        "perspective", "group", "statistic", "before", "before low", "before high",
        "n_cases", "n_prompts",
    }  # fmt: skip
    assert all(isinstance(value, (str, float, int)) for value in record.values())


def test_the_score_on_lifts_is_the_harmonic_mean_of_its_shares() -> None:
    groups = ("efficacy", "paraphrase", "removal", "neighborhood")

    def cases(*rates: float) -> list[EditScore]:
        return [
            edit_score(
                str(number),
                *(
                    probe("relation", group, *((0.6, 0.2) if number < 10 * rate else (0.1, 0.3)))
                    for group, rate in zip(groups, rates, strict=True)
                ),
            )
            for number in range(10)
        ]

    before, after = cases(0.5, 0.2, 0.0, 0.8), cases(0.9, 0.6, 0.7, 0.4)
    key = Key("relation", "Score", "lifts")
    (parts,) = shares(before, after, [key])
    assert [part.group for part in parts.gained] == list(groups[:3])
    assert [part.group for part in parts.kept] == list(groups[3:])
    wanted = [0.4 / 0.5, 0.4 / 0.8, 0.7, 0.4 / 0.8]  # three gained, one kept
    assert [float(row[0]) for row in parts.parts.values()] == pytest.approx(wanted)
    assert parts.generalisation[0] == pytest.approx(sum(wanted[:3]) / 3)
    assert parts.locality[0] == pytest.approx(wanted[3])
    assert parts.mean[0] == pytest.approx(sum(wanted) / 4)
    (score,) = [one for one in changes(before, after) if one.key == key]
    assert mean(score.after) == pytest.approx(harmonic_mean(wanted))
    drawn = stats.harmonic_mean(np.stack(list(parts.parts.values())))[1:]
    assert np.array_equal(parts.score[1:], drawn)
    assert score.after and score.after[1:] == pytest.approx(np.nanquantile(drawn, [0.025, 0.975]))


def test_what_lacks_next_to_nothing_counts_as_it_is() -> None:
    """One case of a hundred to gain, and two lost: a share of -1 would make every Score zero."""

    def cases(n_right: int) -> list[EditScore]:
        return [
            edit_score(
                str(number),
                probe("relation", "paraphrase", *((0.6, 0.2) if number < n_right else (0.1, 0.3))),
                probe("relation", "efficacy", 0.6, 0.2),
            )
            for number in range(100)
        ]

    def share(before: int, after: int) -> float:
        (parts,) = shares(cases(before), cases(after), [Key("relation", "Score", "lifts")])
        (row,) = [row for key, row in parts.gained.items() if key.group == "paraphrase"]
        assert np.isfinite(row).all() and (before < 95 or row.min() > 0.9)
        return float(row[0])

    assert share(99, 98) == pytest.approx(0.98)
    assert share(96, 100) == pytest.approx(1)
    assert share(90, 95) == pytest.approx(0.5)  # here a tenth was to gain
    assert share(90, 85) == pytest.approx(-0.5)


def test_faint_edits_score_by_success_and_not_by_magnitude() -> None:
    """Both answers improbable: who is ahead changes, and next to nothing happens."""
    gained, kept = ("efficacy", "paraphrase", "removal"), ("neighborhood", "other objects")

    def cases(ahead: float, behind: float, near: float) -> list[EditScore]:
        own = [probe("relation", group, ahead, behind) for group in gained]
        own += [probe("relation", group, near, 1e-4) for group in kept]
        return [edit_score(str(number), *own) for number in range(4)]

    before = cases(1e-4, 2e-4, 3e-4)
    faint, loud = cases(2e-4, 1e-4, 2e-4), cases(0.9, 1e-4, 0.6)
    scores = [Key("relation", "Score", way) for way in LIFTS]
    found = [shares(before, after, scores) for after in (faint, loud)]
    of = {
        way: [float(one.score[0]) for one in own]
        for way, own in zip(LIFTS, zip(*found, strict=True), strict=True)
    }
    assert of["lifts"] == pytest.approx([1, 1])
    assert of[BY_MAGNITUDE][0] < 1e-3
    wanted = [*[0.9] * 3, *[1 - 0.6] * 2]  # what was 0 is a neighbour's loss, though it is ahead
    assert of[BY_MAGNITUDE][1] == pytest.approx(harmonic_mean(wanted), abs=1e-3)
    # of all parts: between the two, and nearer to the worse
    both = harmonic_mean([of["lifts"][1], of[BY_MAGNITUDE][1]])
    assert of[BY_ALL][1] == pytest.approx(both, abs=1e-3)


def test_steadiness_is_taken_prompt_by_prompt() -> None:
    """One up and one down are two changes, not none."""
    old = [edit_score("a", *(probe("relation", "neighborhood", p, 0.2) for p in (0.4, 0.6)))]
    new = [edit_score("a", *(probe("relation", "neighborhood", p, 0.2) for p in (0.6, 0.4)))]
    (one,) = [m for m in changes(old, new) if m.key.statistic == STEADINESS]
    assert mean(one.before) == 1 and mean(one.after) == pytest.approx(0.8)
    (magnitude,) = [m for m in changes(old, new) if m.key.statistic == "magnitude"]
    assert mean(magnitude.lift) == pytest.approx(0)
    assert part_name(one.key) == "neighbours kept, magnitude"
