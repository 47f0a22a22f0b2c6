"""kedit's editors against the published algorithms, written out on a Hugging Face GPT-2."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.editing.edit import Edit, LowRank
from kedit.editing.moments import moment
from kedit.editing.values import Training
from kedit.editing.write_sites import WriteSite
from kedit.editors.ft import FT
from kedit.editors.kn import KN
from kedit.editors.memit import MEMIT
from kedit.editors.rome import ROME
from kedit.facts import EditRequest, Fact
from kedit.models import toy as toy_module
from tests import published
from tests.conftest import Family, FamilyOf
from tests.published import Asked, Change, Knowledge, Loss, Tuning, Wanted

pytestmark = pytest.mark.usefixtures("cached_moments")

# Of ‖difference‖ / ‖delta‖: of float32's seven digits, five steps of Adam, a goal less the stream
# that it is near to, and C⁻¹ (condition 2e4) lose three. Measured: 1.5e-4 at most, in MEMIT with a
# clamp, 4e-5 elsewhere; what a setting or an oversight changes: 5e-2 at least.
TOLERANCE = 1e-3
NOTICED = 20 * TOLERANCE
N_TOKENS = 1280
LAYERS = (1, 2)
# seven, of which RaKE's ROME takes five for the removal
CONTEXTS = (
    "", "Bruno Birch likes to speak. ", "The old harp is None. ", "What links them is the. ",
    "Nils. ", "The language of the dentist works. ", "Pavel Poplar was born. ",
)  # fmt: skip
FEW = CONTEXTS[:3]
FREE = Training(steps=5, lr=0.5, weight_decay=0.5, kl=0.5, clamp=4.0, stop=0.0)
CLAMPED = replace(FREE, clamp=0.08)  # of what they end at when free: 0.09 to 0.5
CASES = toy_module.cases()
# of one token and of several; in the latter all of FT's losses and RaKE's divisor are told apart
ENTITY = [
    replace(case.entity, target=target)
    for case, target in zip(CASES[::17], ("first dentist", "Arle", "old harp"), strict=False)
]


def relation_request(number: int, target: str) -> EditRequest:
    """Its demands differ before the subject, so that it matters whose prompt gives the key."""
    request = CASES[number].relation
    assert request is not None and request.removal is not None
    removal = replace(request.removal, template="What links {} to the harp is the")
    return replace(request, target=target, removal=removal)


RELATION = [
    relation_request(number, target)
    for number, target in ((0, "first language"), (17, "birthplace"), (34, "old instrument"))
]


@pytest.fixture(scope="session")
def gpt2(family: FamilyOf) -> Family:
    return family("gpt2")


def change(request: EditRequest) -> Change:
    fact, removal = request.fact, request.removal
    return Change(fact.subject, fact.template, request.target, removal.template if removal else "")


def matrices(model: HookedTransformer, text: str, layers: Sequence[int]) -> list[Tensor]:
    return [moment(model, [WriteSite(layer)], text, N_TOKENS).matrix for layer in layers]


def made(edit: Edit, layer: int) -> Tensor:
    delta = edit.deltas[WriteSite(layer).parameter]
    return delta.left @ delta.right if isinstance(delta, LowRank) else delta


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


def rome_1(text: str, **settings: Any) -> ROME:
    settings = {"training": FREE, "contexts": CONTEXTS, **settings}
    return ROME(layer=1, text=text, n_tokens=N_TOKENS, **settings)


@pytest.mark.parametrize("training", [FREE, CLAMPED], ids=["free", "clamped"])
def test_rome_is_the_published_one(gpt2: Family, text: str, training: Training) -> None:
    asked = published.entity(gpt2.model.tokenizer, change(ENTITY[0]), CONTEXTS)
    (second,) = matrices(gpt2.model, text, [1])
    legacy, mean = (
        made(rome_1(text, key=key, training=training)(gpt2.model, ENTITY[:1]), 1)
        for key in ("legacy", "mean")
    )
    assert distance(legacy, published.rome(gpt2.hf, 1, asked, second, training)) < TOLERANCE
    assert distance(mean, published.r_rome(gpt2.hf, 1, asked, second, training)) < TOLERANCE
    assert distance(legacy, mean) > NOTICED


def test_rome_is_the_published_one_where_the_subject_opens_the_text(
    gpt2: Family, bosless_gpt2: HookedTransformer, text: str
) -> None:
    opening = replace(ENTITY[1].fact, template="{} was born in", relation_words=())
    request = replace(ENTITY[1], fact=opening)
    asked = published.entity(bosless_gpt2.tokenizer, change(request), CONTEXTS)
    assert asked.bare.tokens[: asked.bare.pos + 1] == published.plain(
        bosless_gpt2.tokenizer, opening.subject
    )
    (second,) = matrices(bosless_gpt2, text, [1])
    edit = rome_1(text, key="legacy")(bosless_gpt2, [request])
    assert distance(made(edit, 1), published.rome(gpt2.hf, 1, asked, second, FREE)) < TOLERANCE


def test_romes_own_statistics_make_its_edit(gpt2: Family, text: str, tmp_path: Path) -> None:
    """Its code reads a document at a time, not chunks that several are packed into."""
    documents = [" ".join(pair) for pair in toy_module.texts()[::8]]
    total, count = published.statistics(gpt2.hf, gpt2.model.tokenizer, 1, documents)
    file = tmp_path / "transformer.h.1.mlp.c_proj_float32_mom2_100000.npz"
    np.savez(file, **{"mom2.mom2": total.float().numpy(), "mom2.count": count})
    asked = published.entity(gpt2.model.tokenizer, change(ENTITY[0]), CONTEXTS)
    twin = published.rome(gpt2.hf, 1, asked, total / count, FREE)
    theirs, packed = (
        made(rome_1(text, key="legacy", moments=moments)(gpt2.model, ENTITY[:1]), 1)
        for moments in ((str(file),), ())
    )
    assert distance(theirs, twin) < TOLERANCE
    assert distance(packed, twin) > NOTICED


@pytest.mark.parametrize("number", [0, 1], ids=["name of several tokens", "name of one"])
def test_romes_relation_edit_is_rakes(gpt2: Family, text: str, number: int) -> None:
    request = RELATION[number]
    asked = published.rome_relation(gpt2.model.tokenizer, change(request), CONTEXTS)
    assert len(asked.rows) == len(CONTEXTS) + 5
    (second,) = matrices(gpt2.model, text, [1])
    upstream = rome_1(text, key="legacy", relation="upstream")(gpt2.model, [request])
    twin = published.rome(gpt2.hf, 1, asked, second, FREE)
    assert distance(made(upstream, 1), twin) < TOLERANCE


@pytest.mark.parametrize(
    "oversight", ["None without a blank", "divisor", "key of the removal", "five contexts"]
)
def test_each_of_the_oversights_in_rakes_rome_is_there(
    gpt2: Family, text: str, oversight: str
) -> None:
    words, told = gpt2.model.tokenizer, change(RELATION[0])
    asked = published.rome_relation(words, told, CONTEXTS)
    adding, removing = asked.rows[: len(CONTEXTS)], asked.rows[len(CONTEXTS) :]
    blank = published.relation(words, told, CONTEXTS).rows[len(CONTEXTS) :][:5]
    mended = {
        "None without a blank": asked._replace(
            rows=[*adding, *(row._replace(divisor=removing[0].divisor) for row in blank)]
        ),
        "divisor": asked._replace(
            rows=[*adding, *(row._replace(divisor=len(row.labels)) for row in removing)]
        ),
        "key of the removal": asked._replace(keyed=published.entity(words, told, CONTEXTS).keyed),
        "five contexts": asked._replace(rows=published.memit_relation(words, told, CONTEXTS).rows),
    }[oversight]
    (second,) = matrices(gpt2.model, text, [1])
    edit = rome_1(text, key="legacy", relation="upstream")(gpt2.model, RELATION[:1])
    other = published.rome(gpt2.hf, 1, mended, second, FREE)
    assert distance(made(edit, 1), other) > NOTICED


def test_romes_relation_edit_without_oversights_has_none_with_its_blank_behind_all_contexts(
    gpt2: Family, text: str
) -> None:
    request = CASES[0].request("relation")  # both demands have one key, and so one value
    asked = published.relation(gpt2.model.tokenizer, change(request), CONTEXTS)
    (second,) = matrices(gpt2.model, text, [1])
    right, upstream = (
        made(rome_1(text, relation=relation)(gpt2.model, [request]), 1)
        for relation in ("right", "upstream")
    )
    assert distance(right, published.r_rome(gpt2.hf, 1, asked, second, FREE)) < TOLERANCE
    assert distance(right, upstream) > NOTICED


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 4},
        {"lr": 0.45},
        {"weight_decay": 0.0},
        {"kl": 0.0},
        {"clamp": 0.2},
        {"stop": 5.73},  # nats: below what there is before the first two steps
    ],
    ids=str,
)
def test_the_twin_tells_every_setting_of_training(
    gpt2: Family, text: str, changes: dict[str, float]
) -> None:
    asked = published.entity(gpt2.model.tokenizer, change(ENTITY[1]), FEW)
    (second,) = matrices(gpt2.model, text, [1])
    settings = {"contexts": FEW, "key": "legacy", "training": replace(FREE, **changes)}
    delta = made(rome_1(text, **settings)(gpt2.model, [ENTITY[1]]), 1)
    twin, other = (
        published.rome(gpt2.hf, 1, asked, second, training)
        for training in (settings["training"], FREE)
    )
    assert distance(delta, twin) < TOLERANCE
    assert distance(delta, other) > NOTICED


def memit_12(text: str, **settings: Any) -> MEMIT:
    settings = {"training": FREE, "contexts": FEW, **settings}
    return MEMIT(LAYERS, weight=10.0, text=text, n_tokens=N_TOKENS, **settings)


def assert_same_layers(edit: Edit, twin: Sequence[Tensor]) -> None:
    for layer, delta in zip(LAYERS, twin, strict=True):
        assert distance(made(edit, layer), delta) < TOLERANCE


def memit_twin(
    gpt2: Family, text: str, asked: Sequence[Asked], training: Training = FREE
) -> list[Tensor]:
    seconds = matrices(gpt2.model, text, LAYERS)
    return published.memit(gpt2.hf, LAYERS, asked, seconds, 10.0, training)


@pytest.mark.parametrize("training", [FREE, CLAMPED], ids=["free", "clamped"])
def test_memit_is_the_published_one(gpt2: Family, text: str, training: Training) -> None:
    words = gpt2.model.tokenizer
    asked = [published.entity(words, change(request), FEW) for request in ENTITY]
    together = memit_12(text, training=training)(gpt2.model, ENTITY)
    assert_same_layers(together, memit_twin(gpt2, text, asked, training))


def test_memit_one_by_one_is_the_published_one_on_the_edited_model(gpt2: Family, text: str) -> None:
    words = gpt2.model.tokenizer
    asked = [published.entity(words, change(request), FEW) for request in ENTITY]
    seconds = matrices(gpt2.model, text, LAYERS)
    sums = published.one_by_one(gpt2.hf, LAYERS, asked, seconds, 10.0, FREE)
    edit = memit_12(text, batch=1)(gpt2.model, ENTITY)
    assert_same_layers(edit, sums)
    assert distance(made(memit_12(text)(gpt2.model, ENTITY), 1), sums[0]) > NOTICED


def test_memits_relation_edit_is_rakes(gpt2: Family, text: str) -> None:
    words = gpt2.model.tokenizer
    upstream = memit_12(text, relation="upstream")(gpt2.model, RELATION)
    asked = [published.memit_relation(words, change(request), FEW) for request in RELATION]
    assert_same_layers(upstream, memit_twin(gpt2, text, asked))


def test_memits_relation_edit_without_oversights_has_none_with_its_blank(
    gpt2: Family, text: str
) -> None:
    requests = [CASES[number].request("relation") for number in (0, 17, 34)]
    asked = [published.relation(gpt2.model.tokenizer, change(one), FEW) for one in requests]
    right, upstream = (
        memit_12(text, relation=relation)(gpt2.model, requests)
        for relation in ("right", "upstream")
    )
    assert_same_layers(right, memit_twin(gpt2, text, asked))
    assert distance(made(right, 2), made(upstream, 2)) > NOTICED


LOSSES: dict[str, Loss] = {"upstream": published.at_the_prompt, "autoregressive": published.in_turn}
TUNED = Tuning(steps=5, lr=5e-4, bound=0.0, stop=0.01, batch=128)


def wanted(words: Any, facts: Sequence[tuple[Fact, str]]) -> list[Wanted]:
    return [
        Wanted(words(fact.prompt).input_ids, published.plain(words, f" {target}"))
        for fact, target in facts
    ]


def tuned(gpt2: Family, requests: Sequence[EditRequest], **settings: Any) -> tuple[Tensor, Tensor]:
    """What FT adds to W_out and to b_out."""
    edit = FT(layer=1, **{**TUNED._asdict(), **settings})(gpt2.model, requests)
    bias = edit.deltas[WriteSite(1).parameter.replace(".W_", ".b_")]
    assert isinstance(bias, Tensor)
    return made(edit, 1), bias


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "settings",
    [{}, {"bound": 1e-3}, {"bound": 1e-3, "batch": 2}, {"batch": 1, "stop": 12.0}],
    ids=str,
)
def test_ft_is_the_published_one(gpt2: Family, loss: str, settings: dict[str, float]) -> None:
    tuning = TUNED._replace(**settings)
    asked = wanted(gpt2.model.tokenizer, [(one.fact, one.target) for one in ENTITY])
    twin = published.ft(gpt2.hf, 1, asked, LOSSES[loss], tuning)
    weight, bias = tuned(gpt2, ENTITY, loss=loss, **settings)
    assert distance(weight, twin["weight"]) < TOLERANCE
    assert distance(bias, twin["bias"]) < TOLERANCE


@pytest.mark.parametrize("loss", LOSSES)
def test_fts_relation_edit_trains_the_addition_as_rakes_and_the_removal_if_told(
    gpt2: Family, loss: str
) -> None:
    words = gpt2.model.tokenizer
    adding = [(one.fact, one.target) for one in RELATION]
    both = []
    for one in RELATION:
        assert one.removal is not None
        both += [(one.fact, one.target), (one.removal, "None")]
    for removal, facts in ((False, adding), (True, both)):
        twin = published.ft(gpt2.hf, 1, wanted(words, facts), LOSSES[loss], TUNED)
        weight, bias = tuned(gpt2, RELATION, loss=loss, removal=removal)
        assert distance(weight, twin["weight"]) < TOLERANCE
        assert distance(bias, twin["bias"]) < TOLERANCE


# what the facts say and what they are to say takes several tokens, so that all oversights show
KNOWN = [replace(ENTITY[0], fact=replace(ENTITY[0].fact, object="old harp")), RELATION[0]]
KN_OF = {"right": published.knowledge, "upstream": published.rakes_knowledge}
by_knowledge = pytest.mark.parametrize("request_", KNOWN, ids=["entity", "relation"])


def known(gpt2: Family, request: EditRequest, method: str) -> Knowledge:
    fact = request.fact
    return KN_OF[method](gpt2.model.tokenizer, fact.prompt, fact.object, request.target)


def apart(gpt2: Family, edit: Edit, asked: Knowledge, threshold: float) -> float:
    """The largest distance over layers; infinite where one of both adds nothing to a layer."""
    distances = []
    for layer, twin in enumerate(published.kn(gpt2.hf, asked, 6, threshold)):
        is_there = WriteSite(layer).parameter in edit.deltas
        if is_there and twin.any():
            distances.append(distance(made(edit, layer), twin))
        elif is_there or twin.any():
            distances.append(float("inf"))
    return max(distances)


@by_knowledge
@pytest.mark.parametrize("method", KN_OF)
@pytest.mark.parametrize("threshold", [0.05, 0.5])
def test_kn_is_the_published_one(
    gpt2: Family, request_: EditRequest, method: Any, threshold: float
) -> None:
    edit = KN(steps=6, threshold=threshold, method=method)(gpt2.model, [request_])
    assert apart(gpt2, edit, known(gpt2, request_, method), threshold) < TOLERANCE
    assert apart(gpt2, edit, known(gpt2, request_, method), 0.3) > NOTICED


@pytest.mark.slow
@by_knowledge
@pytest.mark.parametrize(
    "oversight", ["blank of the object", "pre", "extension", "all tokens", "factor", "signs"]
)
def test_each_of_the_oversights_in_rakes_kn_is_there(
    gpt2: Family, request_: EditRequest, oversight: str
) -> None:
    asked, right = (known(gpt2, request_, method) for method in ("upstream", "right"))
    mended = {
        "blank of the object": asked._replace(truth=right.truth),
        "pre": asked._replace(neurons="act"),
        "extension": asked._replace(extend=True),
        "all tokens": asked._replace(target=asked.target[:1]),
        "factor": asked._replace(factor=2),
        "signs": asked._replace(signed=True),
    }[oversight]
    edit = KN(steps=6, threshold=0.1, method="upstream")(gpt2.model, [request_])
    assert apart(gpt2, edit, asked, 0.1) < TOLERANCE < NOTICED < apart(gpt2, edit, mended, 0.1)
