"""Edit, score, undo, record by record, into a run folder: with progress, resume, and rails."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from experiments._finite import require_finite, without_nan
from experiments._folder import key_of
from experiments._listed_editors import split
from experiments._memory import peak_since_now
from experiments._moments import read_moments, with_tokens
from experiments._run import RunFolder
from kedit.progress import progress

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

    from kedit.editing.edit import Edit, Editor, Edits
    from kedit.facts import EditCase, EditRequest, Perspective
    from kedit.results.scores import EditScore
    from kedit.scoring.drift import Baseline
    from kedit.scoring.score import Scoring

Side = Literal["entity", "relation", "together"]  # together: both requests of a case in one edit
SIDES: "tuple[Perspective, ...]" = ("entity", "relation")


@dataclass(frozen=True)
class Arm:
    """An editor, as it was told, on one side; ready for its model."""

    told: str
    side: Side
    edits: "Edits"


@dataclass(frozen=True)
class Outcome:
    """What an edit of one case did.

    Args:
        trouble: why it must not count as a success (kedit.editing.checks, or the editor gave up);
            "" if nothing is wrong.
        score: of the edited model; None where there was no edit to apply.
        seconds, memory: that making the edit took, and bytes at the peak beyond those before.
        perplexity, kl: of held-out text, after the edit; KL(before ‖ after) a token, in nats.
        norm: the largest ‖delta‖ / ‖weight‖ of its parameters.
    """

    trouble: str
    score: "EditScore | None"
    seconds: float
    memory: int | None
    perplexity: float | None
    kl: float | None
    norm: float | None

    def counted(self, before: "EditScore") -> "EditScore":
        """The score that the edit counts with: an edit in trouble is taken back, and changes
        nothing.
        """
        return before if self.trouble or self.score is None else self.score

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Outcome":
        from kedit.results.scores import EditScore

        fields: dict[str, Any] = {name: record[name] for name in cls.__dataclass_fields__}
        if fields["score"] is not None:
            fields["score"] = EditScore.from_record(fields["score"])
        return cls(**fields)


def prepared(
    model: "HookedTransformer", editors: str, sides: Sequence[Side], config: Any
) -> list[Arm]:
    """Every editor on every side, with its contexts and moments: before the first edit.

    Args:
        config: with model, text, tokens_a_key and seed.

    Raises:
        InputError: an editor that is not known, or told wrongly.
    """
    from kedit.editors.registry import make_editor
    from kedit.errors import InputError
    from kedit.studies.toy_mend import trained_for_toy

    arms = []
    if not split(editors):
        raise InputError("no editor is told: --editors rome,memit,ft")
    # all are looked at before the first takes its time
    made: list[tuple[str, Side, Editor]] = []
    for side in sides:
        for told in split(editors):
            one = make_editor(told, config.model, "relation" if side == "relation" else "entity")
            one = trained_for_toy(_with_text(one, config.text, config.seed), model, config.model)
            made.append((told, side, with_tokens(model, one, config.tokens_a_key)))
    read_moments(model, [one for _, _, one in made])
    with progress("editors") as bars:
        bar = bars.add_task("contexts", total=len(made))
        for told, side, one in made:
            arms.append(Arm(told, side, one.on(model)))
            bars.update(bar, advance=1)
    return arms


def _with_text(editor: "Editor", text: str, seed: int) -> "Editor":
    """With what all editors share, where it was not told otherwise itself."""
    from dataclasses import fields, replace

    from kedit.editors.sides import with_each

    shared = {"text": text, "seed": seed}

    def told(one: "Editor") -> "Editor":
        unset = {field.name for field in fields(one) if not getattr(one, field.name)}  # pyright: ignore
        return replace(one, **{k: v for k, v in shared.items() if k in unset})  # pyright: ignore

    return with_each(editor, told)


def requests_of(case: "EditCase", side: Side) -> "list[EditRequest]":
    """What an edit of the case from this side is asked.

    Raises:
        RecordError: the record has no relation side.
    """
    return [one for own in SIDES if side in (own, "together") for one in case.requests(own)]


def edit_cases(
    folder: RunFolder,
    model: "HookedTransformer",
    cases: "Mapping[EditCase, EditScore]",
    arms: Sequence[Arm],
    scoring: "Scoring",
    text: "Baseline",
) -> "dict[Arm, list[Outcome]]":
    """Each arm's outcomes, in the order of the cases; what the folder holds is not done again.

    Args:
        cases: with their scores before any edit.
        text: held out, for the rails.
    """
    keys = {(case, arm): edit_key(case, arm.side, arm.told) for case in cases for arm in arms}
    todo = [both for both, key in keys.items() if key not in folder.records]
    with progress("edits") as bars:
        bar = bars.add_task("editing", total=len(keys), completed=len(keys) - len(todo))
        for case, arm in todo:
            record = _edited(model, case, cases[case], arm, scoring, text)
            told = {"id": case.id, "editor": arm.told, "side": arm.side}
            folder.add(keys[case, arm], told | record)
            bars.update(bar, advance=1)
    return {
        arm: [Outcome.from_record(folder.records[keys[case, arm]]) for case in cases]
        for arm in arms
    }


def edit_key(case: "EditCase", side: Side, told: str) -> str:
    """Of the record of one case's edit."""
    return f"{key_of(case)}-{side}-{told}"


def _edited(
    model: "HookedTransformer",
    case: "EditCase",
    before: "EditScore",
    arm: Arm,
    scoring: "Scoring",
    text: "Baseline",
) -> dict[str, Any]:
    """One case's edit, scored and undone, as a record."""
    edit, record = edit_of(model, case, arm)
    if edit is None:
        return record
    return record | effect_of(edit, model, case, before, arm.side, scoring, text)


def edit_of(
    model: "HookedTransformer", case: "EditCase", arm: Arm
) -> "tuple[Edit | None, dict[str, Any]]":
    """One case's edit, and what making it took, as a record; None where it could not be made."""
    from torch.linalg import LinAlgError  # pyright: ignore[reportAttributeAccessIssue]

    from kedit.models.prompts import device

    record: dict[str, Any] = dict.fromkeys(Outcome.__dataclass_fields__)
    peak, start = peak_since_now(device(model)), time.perf_counter()
    try:
        edit = arm.edits(requests_of(case, arm.side))
    except (ValueError, LinAlgError) as error:
        # one bad record costs itself only
        trouble = f"no edit: {error}"
        return None, record | {"trouble": trouble, "seconds": time.perf_counter() - start}
    return edit, record | {"seconds": time.perf_counter() - start, "memory": peak()}


# seven parameters: what is edited, by what, and how both are looked at
def effect_of(
    edit: "Edit",
    model: "HookedTransformer",
    case: "EditCase",
    before: "EditScore",
    side: Side,
    scoring: "Scoring",
    text: "Baseline",
) -> dict[str, Any]:
    """What an edit does to its case and to held-out text, as a part of its record.

    None stands for what an edit that wrecks the model leaves no finite number of.
    """
    from kedit.editing.checks import checked
    from kedit.errors import InputError
    from kedit.scoring.score import score

    found = checked(model, edit, requests_of(case, side), text)
    record: dict[str, Any] = {"trouble": found.trouble}
    if found.drift is not None:
        numbers = {
            "perplexity": found.drift.perplexity[1],
            "kl": float(found.drift.kl.mean()),
            "norm": max(norm.relative for norm in edit.norms(model).values()),
        }
        record |= without_nan(numbers)
        with edit.applied(model):
            (after,) = score(model, [case], scoring, before.own_words)
        try:
            require_finite("after the edit", after.to_record())
        except InputError as error:
            return record | {"score": None, "trouble": found.trouble or str(error)}
        record["score"] = after.to_record()
    return record
