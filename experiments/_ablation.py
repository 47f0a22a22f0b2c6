"""Edits of W_out, of W_O, of both and of random heads, as they are and at equal norms."""

import random
from collections.abc import Mapping, Sequence
from math import hypot
from typing import TYPE_CHECKING

from experiments._edit_cases import Arm, Outcome, edit_key, edit_of, effect_of
from experiments._listed_editors import ABLATED, tuned
from experiments._run import RunFolder
from kedit.progress import progress

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

    from experiments.ablate_attention import Config
    from kedit.editing.edit import Edit
    from kedit.facts import EditCase
    from kedit.results.scores import EditScore
    from kedit.scoring.drift import Baseline
    from kedit.scoring.score import Scoring

RANDOM = "W_out and random heads"
BUDGETS = ("free", "equal")
Outcomes = Mapping[tuple[str, str], Sequence[Outcome]]  # by editor as it is told, and budget


def arms_of(config: "Config", model: "HookedTransformer") -> dict[str, list[str]]:
    """By what may change, the editors as they are told: one, or one for each draw of heads.

    Raises:
        InputError: no file of tune_editors with these editors; more heads than there are.
    """
    from kedit.editors.joint import Joint
    from kedit.editors.registry import make_editor
    from kedit.errors import InputError

    editors = dict(zip(ABLATED.values(), ABLATED.values(), strict=True))
    if config.tuned:
        editors = tuned(config.tuned, tuple(ABLATED.values()))
    n_heads = model.cfg.n_heads
    n = config.heads or n_heads // 2
    if not 0 < n < n_heads:
        raise InputError(f"--heads {n}: from 1 to {n_heads - 1} of a layer's {n_heads}")
    both = make_editor(editors["joint"], config.model, config.perspective)
    assert isinstance(both, Joint)
    draw = random.Random(config.seed)
    drawn = [
        [(layer, head) for layer in both.layers for head in sorted(draw.sample(range(n_heads), n))]
        for _ in range(config.draws)
    ]
    return {
        **{name: [editors[one]] for name, one in ABLATED.items()},
        RANDOM: [
            f"{editors['joint']}:heads={str(tuple(heads)).replace(' ', '')}" for heads in drawn
        ],
    }


def ablate(
    folder: RunFolder,
    model: "HookedTransformer",
    cases: "Mapping[EditCase, EditScore]",
    arms: Sequence[Arm],
    scoring: "Scoring",
    text: "Baseline",
) -> Outcomes:
    """Every edit as it is made, and scaled down to the norm of the smallest one of its case.

    What the folder holds already is not done again.
    """
    keys = {
        (case, arm, budget): f"{edit_key(case, arm.side, arm.told)}-{budget}"
        for case in cases
        for arm in arms
        for budget in BUDGETS
    }
    with progress("edits") as bars:
        done = sum(key in folder.records for key in keys.values())
        bar = bars.add_task("editing", total=len(keys), completed=done)
        for case, before in cases.items():
            todo = [
                both for both, key in keys.items() if both[0] == case and key not in folder.records
            ]
            if not todo:
                continue
            made = {arm: edit_of(model, case, arm) for arm in arms}
            sizes = {arm: _size(model, edit) for arm, (edit, _) in made.items() if edit is not None}
            for _, arm, budget in todo:
                edit, record = made[arm]
                if edit is not None:
                    size = sizes[arm] if budget == "free" else min(sizes.values())
                    scaled = edit if size == sizes[arm] else edit.scaled(size / sizes[arm])
                    record = record | {"size": size}
                    record |= effect_of(scaled, model, case, before, arm.side, scoring, text)
                told = {"id": case.id, "editor": arm.told, "side": arm.side, "budget": budget}
                folder.add(keys[case, arm, budget], told | record)
                bars.update(bar, advance=1)
    return {
        (arm.told, budget): [
            Outcome.from_record(folder.records[keys[case, arm, budget]]) for case in cases
        ]
        for arm in arms
        for budget in BUDGETS
    }


def _size(model: "HookedTransformer", edit: "Edit") -> float:
    """‖delta‖ of all its matrices together."""
    return hypot(*(norm.delta for norm in edit.norms(model).values()))
