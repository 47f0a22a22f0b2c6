"""Makes matrices write trained outputs, layer by layer from below.

Each layer's keys are read with the layers below it written, so it sees what they now add. This is
the second half of `Joint` and `Separate`; `kedit.editing.targets` is the first.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.editing.closed_form import Solve, sparing
from kedit.editing.edit import Delta, Edit, LowRank, combined
from kedit.editing.keys import LastTokens
from kedit.editing.neighbours import neighbours
from kedit.editing.provenance import Provenance
from kedit.editing.stacked import Residuals, Stack
from kedit.editing.targets import Goal
from kedit.editing.wordings import questions
from kedit.editing.write_sites import WriteSite
from kedit.errors import InputError
from kedit.facts import EditRequest
from kedit.forward.reading import Tokens
from kedit.models.prompts import KeyPosition, located, prompt_ids

Insert = Callable[[Tensor, Tensor, Solve], LowRank]  # keys, residuals, x -> C⁻¹x: the delta


def write_layers(
    model: HookedTransformer,
    stacks: Sequence[Stack],
    goals: Sequence[Goal],
    spared: Sequence[Tokens],
    insert: Insert,
    keep: float,
    made: Provenance,
) -> Edit:
    """Makes each stack of sites write what the goals say, in the order of the stacks.

    Args:
        stacks: from below.
        goals: texts with what the sites should write at their last tokens.
        spared: texts at whose last tokens the outputs should stay the same.
        insert: `exact_insert`, or `ridge_insert` with its weight.
        keep: weight of each key of `spared` against C.
        made: provenance of the edit.
    """
    texts = LastTokens(model, [*(goal.text for goal in goals), *spared], stacks[0].sites[0].layer)
    deltas: dict[str, Delta] = {}
    with contextlib.ExitStack() as below:
        for stack in stacks:
            texts.advance(stack.sites[0].layer)
            step = _step(model, stack, goals, texts, partial(_inserted, insert, keep), made)
            deltas |= step.deltas
            below.enter_context(step.applied(model))
    return Edit(deltas, made)


def spared_texts(
    model: HookedTransformer,
    requests: Sequence[EditRequest],
    goals: Sequence[Goal],
    where: KeyPosition,
    n_neighbours: int,
    n_questions: int = 0,
    seed: int = 0,
) -> list[Tokens]:
    """Returns texts whose last tokens' keys should be spared, except texts that are edited.

    They are each request's neighbour prompts up to the key position, and every beginning of the
    questions for a relation request's object. An edit of the relation would change the answers to
    these questions at any of their tokens, since they name the same subject.

    An edited text cannot be spared: with the key at the subject, (S, another object) has the very
    key that gets a new value.
    """
    found: dict[Tokens, None] = {}
    for request in requests:
        for demand in neighbours(request, n_neighbours, seed):
            with contextlib.suppress(InputError):  # longer than the context: left out
                tokens, pos = located(model, demand.fact, where, demand.mentioned)
                found[tokens[: pos + 1]] = None
        for fact in questions(request, n_questions):
            tokens = prompt_ids(model, fact.prompt)
            found |= dict.fromkeys(tokens[:end] for end in range(1, len(tokens) + 1))
    return [text for text in found if text not in {goal.text for goal in goals}]


_Inserted = Callable[[Stack, Mapping[WriteSite, Tensor], Residuals], dict[str, LowRank]]


def _step(
    model: HookedTransformer,
    stack: Stack,
    goals: Sequence[Goal],
    texts: LastTokens,
    inserted: _Inserted,
    made: Provenance,
) -> Edit:
    """Solves for the deltas of one stack, in the model's present state.

    If the stack has `moved`, there are two solves. W_O is written first. This shifts W_out's keys,
    so W_out is solved again for the shifted keys with the old target: the output that the first
    solve gives at the old keys. The first solve's delta of W_out is dropped, not corrected. It maps
    keys that no longer occur at the edited texts, but that resemble keys of other texts, so keeping
    it would change those.

    Args:
        texts: those of the goals, then those whose outputs should stay the same.
    """
    read, n_goals = texts.keys(stack.sites), len(goals)
    lacking = {
        site: torch.stack([goal.of(site) for goal in goals]) - site.raw(model, keys[:n_goals])
        for site, keys in read.items()
    }
    deltas = inserted(stack, read, lacking)
    if stack.moved is None:
        return Edit(deltas, made)
    # The second solve. Biases cancel, so targets and outputs leave them out.
    old_targets = {}
    for site in stack.moved.sites:
        keys, first_solve = read[site][:n_goals], deltas.pop(site.parameter)
        old_targets[site] = keys @ site.weight(model) + keys @ first_solve.left @ first_solve.right
    step = Edit(deltas, made)
    with step.applied(model):
        shifted = texts.keys(stack.moved.sites)
    lacking = {
        site: old_targets[site] - keys[:n_goals] @ site.weight(model)
        for site, keys in shifted.items()
    }
    return combined([step, Edit(inserted(stack.moved, shifted, lacking), made)])


def _inserted(
    insert: Insert,
    keep: float,
    stack: Stack,
    read: Mapping[WriteSite, Tensor],
    lacking: Residuals,
) -> dict[str, LowRank]:
    """Returns deltas that add what is lacking at the first keys and spare the others."""
    n_goals = len(next(iter(lacking.values())))
    keys = {site: site_keys[:n_goals] for site, site_keys in read.items()}
    spared = stack.spared({site: site_keys[n_goals:] for site, site_keys in read.items()})
    solve = sparing(stack.solve, spared, keep)
    deltas = stack.inserted(keys, lacking, lambda k, residuals: insert(k, residuals, solve))
    return {site.parameter: delta for site, delta in deltas.items()}
