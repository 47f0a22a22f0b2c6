"""Predicts, from keys alone, how much of an edit other prompts would get.

An edit at one place maps a key to a value. At any other key, the same edit writes a known share of
this value (`kedit.editing.inserted`). So before a value is trained, the keys of a place tell how
far an edit there can reach paraphrases, and how far it must reach neighbours and the subject's
other relations.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from transformer_lens import HookedTransformer

from kedit.editing.keys import LastTokens
from kedit.editors.cues import Cues, Place
from kedit.errors import InputError
from kedit.facts import EditCase, EditRequest, Fact, Probe
from kedit.forward.reading import Tokens
from kedit.models.load import source_of
from kedit.models.prompts import KeyPosition, located, prompt_ids
from kedit.progress import progress
from kedit.results.leaks import GROUPS, Leaks, PlaceLeaks
from kedit.stats import bootstrap_groups


def predict_leaks(
    model: HookedTransformer, cases: Sequence[EditCase], editor: Cues, seed: int = 0
) -> Leaks:
    """Computes the share of an inserted value at each case's test prompts, for every place.

    Each place is taken by itself, as if the edit wrote nowhere else. Only entity edits are
    predicted. At the subject's token, a neighbour counts only if its prompt is the edit's template
    with another subject, because otherwise nothing tells where its subject is.

    Args:
        editor: its `places`, and its settings of what is inserted and spared.
        seed: seed of the bootstrap.

    Raises:
        InputError: there are no cases, or see `Cues.on`.
    """
    if not cases:
        raise InputError("cases: no case is given")
    places = sorted({Place(*place) for place in editor.places})
    # by place and group, the shares of each case's prompts
    found: dict[tuple[Place, str], list[list[float]]] = {
        (place, group): [] for place in places for group in GROUPS
    }
    wheres: dict[KeyPosition, None] = dict.fromkeys(place.where for place in places)
    for where in wheres:
        at_token = [place for place in places if place.where == where]
        inserts_of = replace(editor, places=tuple(at_token), clamps=()).inserter(model)
        with progress("cases") as bars:
            for case in bars.track(cases, description=f"reading keys at {where}"):
                inserts = inserts_of(case.entity)
                read = [*_texts(model, case, where)]
                if not read:
                    continue
                lowest = min(place.layer for place in at_token)
                keys = LastTokens(model, [text for _, text in read], lowest).keys([*inserts])
                for place in at_token:
                    shares = (keys[place.site] @ inserts[place.site].shares)[:, 0].tolist()
                    for group in GROUPS:
                        own = [
                            share
                            for share, (of_group, _) in zip(shares, read, strict=True)
                            if of_group == group
                        ]
                        found[place, group] += [own] if own else []
    return Leaks(
        source_of(model),
        len(cases),
        seed,
        tuple(
            PlaceLeaks(
                *place,
                {
                    group: bootstrap_groups([[float(np.mean(own))] for own in of_cases], seed=seed)
                    for group in GROUPS
                    if (of_cases := found[place, group])
                },
                {group: len(found[place, group]) for group in GROUPS if found[place, group]},
            )
            for place in places
        ),
    )


def _texts(
    model: HookedTransformer, case: EditCase, where: KeyPosition
) -> Iterator[tuple[str, Tokens]]:
    """Yields the group and the tokens up to the key position of the entity side's test prompts."""
    for probe in case.probes:
        if probe.perspective != "entity" or probe.group not in GROUPS:
            continue
        if where == "last":
            yield probe.group, prompt_ids(model, probe.prompt)
        elif fact := _with_subject(case.entity, probe):
            tokens, pos = located(model, fact, where)
            yield probe.group, tokens[: pos + 1]


def _with_subject(request: EditRequest, probe: Probe) -> Fact | None:
    """Returns a fact with the probe's prompt; None if its subject cannot be told."""
    before, after = request.fact.template.split("{}")
    subject = request.fact.subject
    if probe.group == "neighborhood":
        end = len(probe.prompt) - len(after)
        subject = probe.prompt[len(before) : end]
        if not subject.strip() or probe.prompt != before + subject + after:
            return None
        template = request.fact.template
    else:
        start = probe.prompt.rfind(subject)
        if start < 0 or "{}" in probe.prompt:
            return None
        template = probe.prompt[:start] + "{}" + probe.prompt[start + len(subject) :]
    return Fact(subject, request.fact.relation, request.fact.object, template)
