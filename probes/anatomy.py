"""The anatomy of an edit: through which activations does an edited model get its new answer?

An edit changes weights at few places, but the answer is read at the end of the prompt. What lies
between is found by patching: each activation of the edited model is put into the unedited one, one
cell at a time, and what brings the new answer there carries the edit. The reverse, one head of the
unedited model in the edited one, shows which heads the edit needs.
"""

from collections.abc import Sequence
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.editing.edit import Edit
from kedit.errors import InputError
from kedit.facts import EditRequest, Fact
from kedit.forward.runs import Run
from kedit.models.prompts import ROLES, Prompt, decoded, encode
from kedit.progress import progress
from kedit.results.edit_traces import EditTrace, HeadChanges
from probes.attention import attention_to_roles
from probes.direct import direct_effects
from probes.patch import Patch, sweep
from probes.trace import question_of

SINGLE_LAYERS = tuple(Patch(site) for site in ("resid_post", "mlp_out", "attn_out", "z"))


def explain_edit(
    model: HookedTransformer,
    edit: Edit,
    request: EditRequest,
    patches: Sequence[Patch] = SINGLE_LAYERS,
) -> EditTrace:
    """Traces an edit at the prompt of its request; the model is left unedited.

        edit = kedit.make_editor("rome", model)(model, [case.entity])
        kedit.explain_edit(model, edit, case.entity).plot("attn_out")

    The answer is the target, up to its first token that distinguishes it from the old object. The
    foil is the token that the unedited model finds likeliest apart from it.

    Args:
        edit: the edit, which is not applied.
        request: what was edited; of a relation request, the addition is explained.
        patches: what is put into the unedited model.

    Raises:
        InputError: the edit is not of this model, the prompt cannot be read, or scores are not
            finite.
    """
    fact = _asked(request)
    prompt = encode(model, fact)
    run = Run(prompt.tokens[None])
    before, attention_before = run.states(model), _attention(model, prompt)
    question = question_of(model, prompt.answer_ids[0], before)
    direct_before = direct_effects(model, before, question)
    with edit.applied(model):
        after, attention_after = run.states(model), _attention(model, prompt)
        direct_after = direct_effects(model, after, question)
        undone = sweep(model, before, after, Patch("z"), question, other_weights=True)
    with progress("sweeps") as bars:
        swept = bars.track(patches, description="putting every cell in")
        grids = [sweep(model, after, before, one, question, other_weights=True) for one in swept]
    if not all(grid.is_finite for grid in (*grids, undone)):
        raise InputError(f"{fact.prompt!r}: scores are not finite; load the model in float32")
    return EditTrace(
        editor=edit.made.editor,
        prompt=fact.prompt,
        labels=prompt.labels,
        corrupted=prompt.positions("subject"),
        answer=decoded(model, question.answer),
        foil=decoded(model, question.foil),
        grids={grid.name: grid for grid in grids},
        undone=undone,
        heads=HeadChanges(
            direct_before.heads, direct_after.heads, attention_before, attention_after
        ),
        mlps_before=direct_before.mlps,
        mlps_after=direct_after.mlps,
        given=decoded(model, *prompt.given),
    )


def _asked(request: EditRequest) -> Fact:
    """Returns the request's fact with the target as its object.

    On the entity side the old object is its rival, from which the answer token distinguishes it.
    """
    demand = request.demands[0]
    rival = request.fact.object if request.perspective == "entity" else ""
    return replace(demand.fact, object=demand.target, rival=rival)


def _attention(model: HookedTransformer, prompt: Prompt) -> Float[Tensor, "layer head"]:
    """Returns the share of each head's attention from the last token to the subject."""
    return attention_to_roles(model, prompt)[..., ROLES.index("subject")]
