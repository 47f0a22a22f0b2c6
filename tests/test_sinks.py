"""A key at the first token of a text, which a model without BOS uses as an attention sink."""

import copy
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from transformer_lens import HookedTransformer

from kedit.editing.keys import first_is_sink, groups
from kedit.editing.second_moment import Moment
from kedit.editors.presets import PRESETS
from kedit.errors import InputError
from kedit.facts import EditRequest, Fact, Relation
from kedit.models.prompts import prompt_ids
from kedit.studies.before_after import edit_and_ask

PLAYS = Relation("P1303", "instrument", "asymmetric", "person")
REQUEST = EditRequest(Fact("Ada", PLAYS, "harp", "{} plays the old"), "cello")
LATER = EditRequest(Fact("Ada", PLAYS, "harp", "The instrument of {} is"), "cello")


@pytest.fixture
def with_sink(bosless_gpt2: HookedTransformer) -> HookedTransformer:
    """The tiny GPT-2 without BOS, whose first token gets a long residual whatever it is."""
    model = copy.deepcopy(bosless_gpt2)
    with torch.no_grad():
        model.pos_embed.W_pos[0] *= 1e4
    return model


def test_a_first_token_is_a_sink_if_its_residual_is_far_longer_than_others(
    bosless_gpt2: HookedTransformer, with_sink: HookedTransformer
) -> None:
    prompt = prompt_ids(with_sink, REQUEST.fact.prompt)
    assert first_is_sink(with_sink, prompt)
    assert not first_is_sink(bosless_gpt2, prompt)
    assert not first_is_sink(with_sink, prompt[:1])  # nothing to compare it with


def test_the_hooks_of_others_are_left_in_place(with_sink: HookedTransformer) -> None:
    calls: list[str] = []
    point = "blocks.0.hook_resid_post"
    with with_sink.hooks(fwd_hooks=[(point, lambda act, hook: calls.append("once"))]):
        first_is_sink(with_sink, prompt_ids(with_sink, REQUEST.fact.prompt))
        n_calls = len(calls)
        with_sink(torch.tensor([prompt_ids(with_sink, "Ada plays")]))
    assert len(calls) == n_calls + 1
    assert not with_sink.blocks[0].hook_resid_post.fwd_hooks


def test_a_key_at_a_sink_is_refused_and_one_elsewhere_is_not(
    bosless_gpt2: HookedTransformer, with_sink: HookedTransformer
) -> None:
    with pytest.raises(InputError, match="^'Ada plays the old': .* attention sink.*where=last"):
        groups(with_sink, REQUEST, "subject_last")
    assert groups(with_sink, REQUEST, "last") == (0,)
    assert groups(with_sink, LATER, "subject_last") == (0,)
    assert groups(bosless_gpt2, REQUEST, "subject_last") == (0,)


@pytest.mark.parametrize("name", ["rome", "memit", "joint", "separate", "cues"])
def test_no_editor_writes_at_a_sink(name: str, with_sink: HookedTransformer) -> None:
    plain: Any = PRESETS["toy"][name]
    where = {} if name == "cues" else {"where": "subject_last"}
    unit = tuple(
        Moment(sites, widths, torch.eye(sum(widths), dtype=torch.float64), 1000, "made up")
        for sites in map(tuple, plain.groups)
        for widths in [tuple(site.d_key(with_sink) for site in sites)]
    )
    edits = replace(plain, contexts=("", "So "), moments=unit, **where).on(with_sink)
    with pytest.raises(InputError, match="attention sink"):
        edits([REQUEST])
    assert edits([LATER]).deltas


@pytest.mark.parametrize("name", ["rome", "cues"])
def test_an_edit_of_one_fact_is_refused_before_any_text_is_read(
    name: str, with_sink: HookedTransformer
) -> None:
    where = {} if name == "cues" else {"where": "subject_last"}
    editor = replace(cast(Any, PRESETS["toy"][name]), text="missing.txt", **where)
    with pytest.raises(InputError, match="attention sink"):
        edit_and_ask(with_sink, REQUEST, editor, questions=[], held_out=None)
    with pytest.raises(InputError, match="missing.txt"):
        edit_and_ask(with_sink, LATER, editor, questions=[], held_out=None)
