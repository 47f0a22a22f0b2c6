"""Families and other wordings: which texts, whose keys, and what an edit makes of them."""

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer

from kedit.data import builtin, relations
from kedit.editing import moments as moments_module
from kedit.editing.keys import last_keys
from kedit.editing.reference_prompts import family, skeletons
from kedit.editing.values import Training
from kedit.editing.wordings import QUESTIONS, WORDINGS, reworded
from kedit.editing.write_sites import WriteSite
from kedit.editors import joint as joint_module
from kedit.editors.joint import Joint
from kedit.errors import InputError
from kedit.models import toy as toy_module
from kedit.models.prompts import located

CASES = toy_module.cases()
REQUEST = CASES[0].request("relation")
OTHER = CASES[17].request("relation")
SITES = [WriteSite(1, half) for half in ("attn", "mlp")]
TRAINING = Training(steps=6, lr=0.1, weight_decay=0.05, clamp=1.0)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path_factory.getbasetemp() / "family"
    monkeypatch.setattr(moments_module, "cache_dir", lambda: Path(place))


def joint(**settings: Any) -> Joint:
    return Joint((1,), **{"training": TRAINING, "contexts": ("",), "n_tokens": 2000, **settings})


def test_wordings_are_none_that_anything_is_scored_with() -> None:
    scored = json.loads(relations.FILE.read_text(encoding="utf-8"))
    texts = set(scored["generic"])
    for entry in scored["relations"]:
        texts |= {*entry["add"], *entry["questions"]}
    own = {*WORDINGS, *QUESTIONS}
    assert len(own) == len(WORDINGS) + len(QUESTIONS) and not texts & own
    assert all(text.count("{s}") == 1 and text.count("{o}") == 1 for text in WORDINGS)
    assert all(text.count("{s}") == 1 and text.count("{r}") == 1 for text in QUESTIONS)


def test_a_relation_request_is_reworded_with_its_own_targets_and_pairs() -> None:
    request = next(case for case in builtin.cases() if case.id == "P36 France").request("relation")
    found = reworded(request, 2)
    assert [one.target for one in found] == [request.target, "None"] * 2
    assert found[0].fact.prompt == "Seen from France, Tokyo is the"
    assert found[3].fact.prompt == "In one or two words, what Paris is to France:"
    assert reworded(CASES[0].entity, 2) == ()


def test_requests_in_one_wording_have_one_family() -> None:
    statements = skeletons(REQUEST.demands)
    assert statements == skeletons(OTHER.demands) and len(statements) == 1
    assert len(skeletons([*REQUEST.demands, *reworded(REQUEST, 2)])) == 3


def test_a_family_has_keys_of_other_pairs_in_each_wording(toy: HookedTransformer) -> None:
    demands = [*REQUEST.demands, *reworded(REQUEST, 1)]
    found = family(toy, demands, SITES, "last", 40)
    assert 20 < len(found.pairs) <= 80 and len(set(found.pairs)) > 20
    facts = {(fact.subject, fact.object) for fact in builtin.load()}
    true = sum(pair in facts for pair in found.pairs) / len(found.pairs)
    assert 0.3 < true < 0.7
    subject, object = found.pairs[0]
    statement = dataclasses.replace(
        REQUEST.fact,
        subject=subject,
        template=REQUEST.fact.template.replace(REQUEST.mentioned, object),
        relation_words=(),
    )
    tokens, _ = located(toy, statement, "last", object)
    for site in SITES:
        own = last_keys(toy, [site], [tokens])[site]
        torch.testing.assert_close(found.keys[site][:1], own, atol=1e-5, rtol=1e-4)


def test_who_is_mentioned_is_no_stranger(toy: HookedTransformer) -> None:
    found = family(toy, REQUEST.demands, SITES, "last", 40)
    subject, object = found.pairs[3]
    known = found.mentioning(dataclasses.replace(REQUEST, mentioned=object))
    assert known[3] and not known.all()
    assert [object in pair for pair in found.pairs] == known.tolist()


def test_a_family_that_cannot_be_read_is_refused(toy: HookedTransformer) -> None:
    long = dataclasses.replace(
        REQUEST.fact, template="word " * 100 + REQUEST.fact.template, relation_words=()
    )
    demand = dataclasses.replace(REQUEST.demands[0], fact=long)
    with pytest.raises(InputError, match="the template .* cannot be read with any other pair"):
        family(toy, [demand], SITES, "last", 4)


def test_a_family_is_read_once_and_its_outputs_move_less(
    toy: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, made = [], joint_module.family
    monkeypatch.setattr(joint_module, "family", lambda *a: read.append(1) or made(*a))
    strangers = family(toy, REQUEST.demands, SITES, "last", 200).keys
    moved = []
    for n in (0, 200):
        edits = joint(family=n, keep=10.0).on(toy)
        edit = edits([REQUEST])
        assert not n or edits([OTHER]).deltas
        deltas = {site: edit.deltas[site.parameter] for site in SITES}
        each = [strangers[site] @ one.left @ one.right for site, one in deltas.items()]  # pyright: ignore
        moved.append(float(torch.stack(each).sum(0).norm()))
    assert len(read) == 1
    assert moved[1] < 0.5 * moved[0]


def test_an_edit_in_other_words_says_so_in_them(toy: HookedTransformer) -> None:
    told = joint(wordings=2, weight=1e-9)
    goals = told._goals(toy, [REQUEST], ("",))
    assert len(goals) == 2 * (1 + 2)
    edit = told(toy, [REQUEST])
    texts = [goal.text for goal in goals]
    each = [torch.stack([goal.of(site) for site in SITES]).sum(0) for goal in goals]
    wanted = torch.stack(each)
    for rewritten, least, most in ((False, 0.05, 1e9), (True, 0, 2e-3)):
        with edit.applied(toy) if rewritten else contextlib.nullcontext():
            keys = last_keys(toy, SITES, texts)
            written = sum(site.raw(toy, keys[site]) for site in SITES)
        missing = (wanted - written).norm(dim=1) / wanted.norm(dim=1)
        assert least <= float(missing.max()) < most
