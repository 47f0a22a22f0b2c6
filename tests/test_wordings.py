"""Other wordings: which texts, and what an edit makes of them."""

import contextlib
import json
from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer

from kedit.data import builtin, relations
from kedit.editing.keys import last_keys
from kedit.editing.targets import goals
from kedit.editing.values import Training
from kedit.editing.wordings import QUESTIONS, WORDINGS, reworded
from kedit.editing.write_sites import WriteSite
from kedit.editors.joint import Joint
from kedit.models import toy as toy_module

pytestmark = pytest.mark.usefixtures("cached_moments")

CASES = toy_module.cases()
REQUEST = CASES[0].request("relation")
SITES = [WriteSite(1, half) for half in ("attn", "mlp")]
TRAINING = Training(steps=6, lr=0.1, weight_decay=0.05, clamp=1.0)


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


def test_an_edit_in_other_words_says_so_in_them(toy: HookedTransformer) -> None:
    told = joint(wordings=2, weight=1e-9)
    found = goals(toy, [REQUEST], ("",), "last", SITES, TRAINING, wordings=2)
    assert len(found) == 2 * (1 + 2)
    edit = told(toy, [REQUEST])
    texts = [goal.text for goal in found]
    each = [torch.stack([goal.of(site) for site in SITES]).sum(0) for goal in found]
    wanted = torch.stack(each)
    for rewritten, least, most in ((False, 0.05, 1e9), (True, 0, 2e-3)):
        with edit.applied(toy) if rewritten else contextlib.nullcontext():
            keys = last_keys(toy, SITES, texts)
            written = sum(site.raw(toy, keys[site]) for site in SITES)
        missing = (wanted - written).norm(dim=1) / wanted.norm(dim=1)
        assert least <= float(missing.max()) < most
