"""Decoding relations: planted, random and memorised features, folds, and what the model has."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import get_args

import numpy as np
import pytest
import torch
from jaxtyping import Float
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.utilities.components_utils import get_act_name

from kedit.errors import InputError
from kedit.models import toy as toy_module
from kedit.models.prompts import encode
from kedit.stats import rate_interval
from probes import decoding
from probes.decoding import SITES, Decoded, Features, Split, decode, parts, read_features
from tests.conftest import FamilyOf

FACTS = toy_module.facts()  # 16 people, 4 relations in two wordings each
# made up: 8 people, 4 relations in four wordings each
RELATIONS, SUBJECTS, WORDINGS = (
    tuple(names)
    for names in zip(
        *((r, s, f"{r} {w}") for r, s, w in product("PQRS", "abcdefgh", "1234")), strict=True
    )
)
D = 100  # more than COMPONENTS, so that they are chosen
SPLITS = pytest.mark.parametrize("split", get_args(Split))


def one_hot(names: tuple[str, ...]) -> Float[Tensor, "fact d"]:
    kinds = list(dict.fromkeys(names))
    number = torch.tensor([kinds.index(name) for name in names])
    return torch.nn.functional.one_hot(number, D).float()


def noise(seed: int) -> Float[Tensor, "fact d"]:
    return torch.randn(len(RELATIONS), D, generator=torch.Generator().manual_seed(seed))


def features(resid_post: Tensor, mlp_out: Tensor, attn_out: Tensor, *heads: Tensor) -> Features:
    """Of the facts made up, in a model of one layer."""
    return Features(
        RELATIONS,
        SUBJECTS,
        WORDINGS,
        resid_post[:, None],
        mlp_out[:, None],
        attn_out[:, None],
        torch.stack(heads, 1)[:, None],
    )


PLANTED = noise(0) + 3 * one_hot(RELATIONS) @ noise(9)[:D]
KNOWN = features(PLANTED, noise(1), one_hot(WORDINGS), noise(2), PLANTED, one_hot(SUBJECTS))


@pytest.fixture(scope="module")
def decoded() -> dict[str, list[Decoded]]:
    return {split: decode(KNOWN, split) for split in get_args(Split)}


@pytest.mark.slow
@SPLITS
def test_planted_relations_are_decoded_wherever_they_are_and_nowhere_else(
    decoded: dict[str, list[Decoded]], split: Split
) -> None:
    found = decoded[split]
    places = [(one.site, one.layer, one.head) for one in found]
    assert places == [*((site, 0, None) for site in SITES[:3]), *(("z", 0, h) for h in range(3))]
    planted, random, _, random_head, planted_head, subjects = found
    for one in (planted, planted_head):
        assert one.accuracy.mean == one.accuracy.high == 1
        assert one.selectivity.low > 0.1  # the wordings of one relation look alike
        assert one.accuracy.low > one.chance == 0.25
    for one in (random, random_head, subjects):  # each subject has all relations
        assert one.accuracy.low <= one.chance <= one.accuracy.high
        assert one.accuracy.mean < 0.4
        assert one.selectivity.low <= 0 <= one.selectivity.high


def test_memorised_words_are_not_selective_and_are_of_no_use_in_other_words(
    decoded: dict[str, list[Decoded]],
) -> None:
    same, other = decoded["subject"][2], decoded["wording"][2]
    assert same.accuracy == same.control and same.selectivity == (0, 0, 0)
    # right of every subject; there are 8 of them, so not surer than Wilson's 8 of 8
    assert same.accuracy.floats() == pytest.approx((1, 8 / (8 + 1.96**2), 1), abs=1e-3)
    assert other.accuracy.mean <= other.chance
    assert decoded["wording"][0].accuracy.mean == 1  # what is there in all words is not lost


@SPLITS
def test_no_group_is_in_both_parts_and_each_fact_is_asked_about_once(split: Split) -> None:
    groups = np.array(KNOWN.groups(split))
    other = np.array(KNOWN.groups("wording" if split == "subject" else "subject"))
    cut = parts(KNOWN, split)
    assert len(cut) == 5
    for train, held_out in cut:
        assert len(held_out) and not set(groups[train]) & set(groups[held_out])
        assert set(other[held_out]) <= set(other[train])  # the control: these are in both
        assert set(np.array(RELATIONS)[held_out]) <= set(np.array(RELATIONS)[train])
    asked = np.concatenate([held_out for _, held_out in cut])
    assert sorted(asked) == list(range(len(RELATIONS)))
    assert all(len(train) + len(held_out) == len(RELATIONS) for train, held_out in cut)


def test_the_seed_decides_the_parts_and_a_rare_relation_is_no_matter() -> None:
    def asked(seed: int) -> list[list[int]]:
        return [held_out.tolist() for _, held_out in parts(KNOWN, "subject", seed=seed)]

    assert asked(0) == asked(0) != asked(1)
    rare = among(lambda r, s, w: r != "S" or (s < "c" and w == "S 1"))  # two facts of five folds
    assert len(parts(rare, "subject")) == 5


class AsOne(TransformerMixin, BaseEstimator):
    """Divides by the root mean square of all that it has been fitted to."""

    def fit(self, values: np.ndarray, labels: object = None) -> "AsOne":
        self.size_ = values.std()
        return self

    def transform(self, values: np.ndarray) -> np.ndarray:
        return values / self.size_


@pytest.mark.slow
@SPLITS
def test_a_probe_is_trained_on_its_part_alone(split: Split) -> None:
    faint = noise(3) + 0.3 * one_hot(RELATIONS) @ noise(9)[:D]  # neither easy nor hopeless
    made = features(faint, noise(1), noise(1), faint[:, :40], noise(1)[:, :40])
    whole, *_, head, _ = decode(made, split, seed=3, draws=500)
    labels, groups = np.array(RELATIONS), np.array(made.groups(split))
    for values, one in ((faint, whole), (faint[:, :40], head)):
        n_components = min(decoding.COMPONENTS, values.shape[1])
        pca = PCA(n_components, svd_solver="full")
        last = {"class_weight": "balanced", "tol": decoding.TOLERANCE, "max_iter": 1000}
        probe = make_pipeline(StandardScaler(), pca, AsOne(), LogisticRegression(**last))
        right = np.zeros(len(RELATIONS))
        for train, held_out in parts(made, split, seed=3):
            said = probe.fit(values[train], labels[train]).predict(values[held_out])
            right[held_out] = said == labels[held_out]
        own = [right[groups == group] for group in sorted(set(groups))]
        wanted = rate_interval(
            np.array([one.sum() for one in own]), np.array([float(len(one)) for one in own])
        )
        np.testing.assert_allclose(one.accuracy, wanted, atol=1e-12)
        assert 0.4 < one.accuracy.mean < 0.95
        gap = one.accuracy.mean - one.control.mean
        assert float(one.selectivity.mean) == pytest.approx(float(gap))


@pytest.mark.parametrize("role", ["bos", "subject", "relation", "last"])
@pytest.mark.parametrize("name", ["gpt2", "gptj", "llama", "gemma3", "olmo3"])
def test_features_are_what_the_model_has_there(family: FamilyOf, name: str, role: str) -> None:
    model = family(name).model
    facts = FACTS[::9]
    read = read_features(model, facts, role)
    assert read.subjects == tuple(fact.subject for fact in facts)
    for index, fact in enumerate(facts):
        prompt = encode(model, fact)
        last = len(prompt.labels) - 1
        pos = {
            "bos": 0,
            "subject": prompt.subject[1] - 1,
            "relation": max(pos for pos in prompt.positions("relation") if pos < last),
            "last": last,
        }[role]
        _, cache = model.run_with_cache(prompt.tokens[None])
        for site in SITES:
            for layer in range(model.cfg.n_layers):
                there = cache[get_act_name(site, layer)][0, pos]
                own = getattr(read, site)[index, layer]
                torch.testing.assert_close(own, there, atol=2e-5, rtol=1e-4)
    differ = (read.resid_post[0] - read.resid_post[-1]).abs().max() > 0.01
    assert differ == (role != "bos")  # all open with the same token
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_batches_do_not_matter(toy: HookedTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    together = read_features(toy, FACTS)
    monkeypatch.setattr(decoding, "ROWS_PER_BATCH", 3)
    few = read_features(toy, FACTS)
    for site in SITES:
        torch.testing.assert_close(getattr(few, site), getattr(together, site), atol=1e-5, rtol=0)
    assert together.resid_post.std(0).min() > 0  # there is something to mix up


@pytest.mark.slow
def test_the_toy_tells_relations_apart_at_the_last_token_and_not_before_they_are_named(
    toy: HookedTransformer,
) -> None:
    def top(role: str, facts: list) -> Decoded:
        read = read_features(toy, facts, role)
        some = {site: getattr(read, site)[:, -1:] for site in SITES[:3]}
        return decode(replace(read, **some, z=read.z[:, -1:, :0]), "subject", draws=10)[0]

    opened = [fact for fact in FACTS if fact.template.startswith("{}")]
    assert top("last", FACTS).accuracy.mean == 1
    assert top("last", opened).accuracy.mean == 1
    assert top("subject", opened).accuracy.mean <= 0.25  # one state for four relations
    assert top("bos", FACTS).accuracy.mean <= 0.25


def test_what_cannot_be_read_is_refused(
    toy: HookedTransformer, bosless_gpt2: HookedTransformer
) -> None:
    with pytest.raises(InputError, match="no facts: at least one"):
        read_features(toy, [])
    with pytest.raises(
        InputError, match="'The birth.* is' has no token of the role 'object': .* bos, last, "
    ):
        read_features(toy, FACTS, "object")
    with pytest.raises(InputError, match="no token of the role 'bos'"):
        read_features(bosless_gpt2, FACTS, "bos")


def among(kept: Callable[[str, str, str], bool]) -> Features:
    made_up = zip(RELATIONS, SUBJECTS, WORDINGS, strict=True)
    rows = [index for index, fact in enumerate(made_up) if kept(*fact)]
    names = {
        name: tuple(getattr(KNOWN, name)[row] for row in rows)
        for name in ("relations", "subjects", "wordings")
    }
    return replace(KNOWN, **names, **{site: getattr(KNOWN, site)[rows] for site in SITES})


@pytest.mark.parametrize(
    ("kept", "split", "folds", "message"),
    [
        (lambda r, s, w: r == "P", "subject", 5, "relations P: a probe needs at least two"),
        (lambda r, s, w: True, "wording", 17, "folds 17: must be 2 to 16"),
        (lambda r, s, w: True, "subject", 9, "folds 9: must be 2 to 8, .* subjects"),
        (lambda r, s, w: True, "subject", 1, "folds 1: must be 2 to 8"),
        (lambda r, s, w: s == "a", "wording", 5, "folds 5: must be 2 to 4"),  # four facts each
        (lambda r, s, w: r != "Q" or w == "Q 3", "wording", 5, "Q has a single wording"),
        (lambda r, s, w: r != "Q" or s == "c", "subject", 5, "Q has a single subject"),
    ],
)
def test_what_cannot_be_held_out_is_refused(
    kept: Callable[[str, str, str], bool], split: Split, folds: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        decode(among(kept), split, folds)
