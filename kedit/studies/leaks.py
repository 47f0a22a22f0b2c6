"""Predicts, from keys alone, how much of an edit other prompts would get.

An edit at one place maps a key to a value. At any other key, the same edit writes a known share of
this value (`kedit.editing.inserted`). So before a value is trained, the keys of a place tell how
far an edit there can reach paraphrases, and how far it must reach neighbours and the subject's
other relations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

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
    # by place and group, each case's mean share
    found: dict[Place, dict[str, list[float]]] = {
        place: {group: [] for group in GROUPS} for place in places
    }
    wheres: dict[KeyPosition, None] = dict.fromkeys(place.where for place in places)
    for where in wheres:
        at_token = [place for place in places if place.where == where]
        inserts_of = replace(editor, places=tuple(at_token), clamps=()).inserter(model)
        with progress("cases") as bars:
            for case in bars.track(cases, description=f"reading keys at {where}"):
                inserts = inserts_of(case.entity)
                for group, texts in _texts(model, case, where).items():
                    lowest = min(place.layer for place in at_token)
                    keys = LastTokens(model, texts, lowest).keys([*inserts])
                    for place in at_token:
                        shares = keys[place.site] @ inserts[place.site].shares
                        found[place][group].append(float(shares.mean()))
    return Leaks(
        source_of(model),
        len(cases),
        seed,
        tuple(_of_place(place, by_group, seed) for place, by_group in found.items()),
    )


def _of_place(place: Place, by_group: Mapping[str, Sequence[float]], seed: int) -> PlaceLeaks:
    """The mean shares of a place, for the groups of which any case has a prompt."""
    there = {group: means for group, means in by_group.items() if means}
    shares = {
        group: bootstrap_groups([[mean] for mean in means], seed=seed)
        for group, means in there.items()
    }
    return PlaceLeaks(*place, shares, {group: len(means) for group, means in there.items()})


def _texts(model: HookedTransformer, case: EditCase, where: KeyPosition) -> dict[str, list[Tokens]]:
    """Returns the tokens up to the key position of the entity side's test prompts, by group."""
    found: dict[str, list[Tokens]] = {}
    for probe in case.probes:
        if probe.perspective != "entity" or probe.group not in GROUPS:
            continue
        if where == "last":
            found.setdefault(probe.group, []).append(prompt_ids(model, probe.prompt))
        elif fact := _with_subject(case.entity, probe):
            tokens, pos = located(model, fact, where)
            found.setdefault(probe.group, []).append(tokens[: pos + 1])
    return found


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
