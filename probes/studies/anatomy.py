"""Study: the anatomy of edits. What carries the new answer, for each editor, over many cases?

Editors that write at the same place can still work in different ways, and editors that write at
different places can end in the same one. For every case and editor the edit is made, and its
activations are put into the unedited model (`probes.anatomy`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.editing.edit import Editor
from kedit.editing.provenance import current_fingerprint
from kedit.errors import InputError
from kedit.facts import EditCase, Perspective
from kedit.journal import UNUSABLE, Journal, skip
from kedit.models.load import source_of
from kedit.results.anatomy import SITES, TOKENS, Anatomy, EditorAnatomy
from kedit.results.edit_traces import EditTrace
from kedit.stats import Interval, bootstrap_ratio
from kedit.studies.edits import edit_of
from kedit.studies.prepare import Arm, prepare, require_sides
from probes.anatomy import explain_edit
from probes.patch import Patch

METRIC = "logit_diff"
PATCHES = tuple(Patch(site) for site in SITES)


def explain_edits(
    model: HookedTransformer,
    cases: Sequence[EditCase],
    editors: Sequence[str | Editor],
    *,
    perspective: Perspective = "entity",
    text: str = "",
    tokens_per_dim: int = 4,
    seed: int = 0,
    journal: Journal | None = None,
) -> Anatomy:
    """Makes every edit and averages what carries it, for each editor.

    An edit that does not raise logit(answer) - logit(foil) carries nothing: it counts as failed and
    is not averaged.

    Args:
        editors: specs such as "rome:layer=5", or editors.
        perspective: which side is edited.
        text, tokens_per_dim, journal: see `kedit.studies.comparing.compare`.
        seed: seed of contexts, of text that the model writes, and of the bootstrap.

    Raises:
        InputError: an editor is unknown, a case lacks the side that is edited, an editor has no
            edit that works, or the journal holds another study.
    """
    journal = Journal() if journal is None else journal
    journal.ask(
        "explain_edits",
        model=current_fingerprint(model),
        perspective=perspective,
        text=text,
        tokens_per_dim=tokens_per_dim,
        seed=seed,
    )
    require_sides(cases, [perspective])
    arms = prepare(
        model, editors, [perspective], text=text, tokens_per_dim=tokens_per_dim, seed=seed
    )

    def work(
        pair: tuple[EditCase, Arm],
    ) -> dict[str, Any] | tuple[dict[str, Any], dict[str, Tensor]]:
        case, arm = pair
        edit, outcome = edit_of(model, case, arm)
        if edit is None:
            return skip(UNUSABLE, outcome.trouble, id=case.id, editor=arm.name)
        traced = explain_edit(model, edit, case.request(perspective), PATCHES)
        return {"id": case.id, "editor": arm.name}, _numbers(traced)

    found: dict[str, list[Mapping[str, Tensor]]] = {arm.name: [] for arm in arms}
    entries = journal.each(
        [(case, arm) for case in cases for arm in arms],
        lambda pair: pair[1].key(pair[0]), work, unit="edits", doing="explaining edits",
        about=lambda pair: {"id": pair[0].id, "editor": pair[1].name},
    )  # fmt: skip
    for entry in entries:
        if not entry.skipped:
            found[entry.item[1].name].append(journal.tensors(entry.key))
    return Anatomy(
        source_of(model), perspective, seed,
        tuple(_averaged(name, numbers, len(cases), seed) for name, numbers in found.items()),
    )  # fmt: skip


def _numbers(traced: EditTrace) -> dict[str, Tensor]:
    """Returns what is averaged of one edit, as effects on the logit difference."""
    columns = [traced.corrupted[-1], len(traced.labels) - 1]  # as in TOKENS
    heads = traced.heads
    numbers = {
        "total": torch.tensor(traced.undone.total_effect(METRIC)).neg(),
        "carried": torch.stack(
            [traced.grids[site].indirect_effect(METRIC)[:, columns].T for site in SITES]
        ),
        "needed": traced.undone.indirect_effect(METRIC).sum(1).neg(),
        "direct": heads.direct_after - heads.direct_before,
        "mlps": traced.mlps_after - traced.mlps_before,
        "attention before": heads.attention_before,
        "attention after": heads.attention_after,
    }
    return {name: value.cpu().contiguous() for name, value in numbers.items()}


def _averaged(
    editor: str, numbers: Sequence[Mapping[str, Tensor]], n_cases: int, seed: int
) -> EditorAnatomy:
    """Averages the edits of one editor that raised the logit difference.

    Raises:
        InputError: none did.
    """
    working = [of_edit for of_edit in numbers if of_edit["total"] > 0]
    if not working:
        raise InputError(f"{editor}: none of its edits makes the target likelier than the foil was")

    def stacked(name: str) -> Float[ndarray, "edit *shape"]:
        return torch.stack([of_edit[name] for of_edit in working]).double().numpy()

    total, ones = stacked("total"), np.ones(len(working))

    def shares(values: Float[ndarray, "edit *shape"]) -> Interval:
        return bootstrap_ratio(values, total, seed=seed)

    carried = stacked("carried")
    return EditorAnatomy(
        editor=editor,
        n=len(working),
        n_failed=n_cases - len(working),
        total=bootstrap_ratio(total, ones, seed=seed),
        carried={
            site: {token: shares(carried[:, row, column]) for column, token in enumerate(TOKENS)}
            for row, site in enumerate(SITES)
        },
        needed=shares(stacked("needed")),
        direct=shares(stacked("direct")),
        mlps=shares(stacked("mlps")),
        attention_before=bootstrap_ratio(stacked("attention before"), ones, seed=seed),
        attention_after=bootstrap_ratio(stacked("attention after"), ones, seed=seed),
    )
