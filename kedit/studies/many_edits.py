"""Compares editors that make many edits in one model: what do they gain, and what is left?

The same cases are edited one per model, ten per model, and so on. So a curve over the number of
edits compares the same facts, and only their company in the model differs.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from transformer_lens import HookedTransformer

from kedit.editing.edit import Edit, Editor, combined
from kedit.errors import InputError
from kedit.facts import EditCase, Perspective
from kedit.journal import Journal
from kedit.models.load import source_of
from kedit.progress import progress
from kedit.records import require_finite
from kedit.results.many_edits import ORDERS, PART, EditedModels, ManyEdits, Order
from kedit.results.measures import Key
from kedit.results.scores import EditScore
from kedit.scoring.drift import drift
from kedit.scoring.score import Scoring, score
from kedit.scoring.summary import BY_ALL, LIFTS, shares
from kedit.stats import Interval, bootstrap_ratio, row_interval
from kedit.studies.edits import CANNOT_EDIT, Assessment, edit_of_all
from kedit.studies.prepare import Arm, one_sided, requests_of, require_different
from kedit.studies.protocol import EditProtocol
from kedit.studies.scoring import scores_before
from kedit.tables import plural

COUNTS = (1, 10, 100)  # edits per model
COSTS = ("perplexity", "kl", "norm", "seconds")  # numbers of an edited model in its record


@dataclass(frozen=True)
class _Group:
    """Cases that are edited in one model by one editor.

    Args:
        count: the number of edits in the largest group of its number of models; the group may have
            one case less.
    """

    arm: Arm
    order: Order
    count: int
    cases: tuple[EditCase, ...]

    @property
    def key(self) -> str:
        """The key of its record; a single edit has no order."""
        key = self.arm.key(self.cases)
        return key if len(self.cases) == 1 else f"{key}-{self.order}"

    @property
    def name(self) -> str:
        """What is being done, for the progress bar."""
        return f"{self.arm.name.partition(':')[0]}, {plural(len(self.cases), 'edit')} in a model"


# many parameters, all plain settings that are passed by name
def compare_many(
    model: HookedTransformer,
    cases: Sequence[EditCase],
    editors: Sequence[str | Editor],
    *,
    counts: Sequence[int] = COUNTS,
    orders: Sequence[Order] = ORDERS,
    perspective: Perspective = "entity",
    text: str = "",
    tokens_per_dim: int = 4,
    held_out_text: str = "",
    chunks: int = 2,
    chunk_tokens: int = 128,
    seed: int = 0,
    journal: Journal | None = None,
) -> ManyEdits:
    """Makes 1, 10, 100 edits in one model, by each editor, and measures what they do together.

    For each number of edits, all cases are divided among models with that many edits each. A model
    gets one edit of all its facts (batch), or one edit after the other, each made on the model with
    the edits before it (sequential). Then all its cases are scored, and it is given back unedited.

    What an edit does to held-out text is measured, but does not make it fail. Only a case without
    an edit, and a model whose numbers are no longer finite, enter with the scores before the edit.
    Editors that edit fact by fact, such as ROME, do the same in both orders.

    Args:
        editors: specs such as "rome:layer=5", or editors.
        counts: numbers of edits in one model, at most. The cases are divided evenly, so 100 of 150
            cases means two models with 75 edits each; more than there are cases means all of them.
        orders: how the edits of a model are made.
        perspective: which side is edited.
        text, tokens_per_dim, held_out_text, chunks, chunk_tokens, journal: see
            `kedit.studies.comparing.compare`.
        seed: seed of contexts, of text that the model writes, and of the bootstrap.

    Raises:
        InputError: an editor is unknown or given twice, a count is below 1, a case lacks the side
            that is edited, no case can be scored, or the journal holds another study.
    """
    if not counts or min(counts) < 1:
        raise InputError(f"counts: {list(counts)}: needs numbers of edits of at least 1")
    require_different(editors)
    protocol = EditProtocol(text, tokens_per_dim, held_out_text, chunks, chunk_tokens, seed)
    journal = protocol.begin("compare_many", model, journal)
    cases = one_sided(cases, perspective)
    arms = protocol.prepare(model, editors, [perspective])
    assessment = protocol.assessment(model, Scoring(say=False, seed=seed))
    with journal.undivided():  # the groups are of all cases, also where a part of them is edited
        before = scores_before(model, cases, assessment.scoring, journal)
    # the largest group when all cases are divided evenly into as few models as each count allows
    sizes = sorted({-(-len(before) // -(-len(before) // count)) for count in counts})
    groups = [
        group
        for arm in arms
        for order in dict.fromkeys(orders)
        for count in sizes
        if count > 1 or order == orders[0]  # a single edit is the same in both orders
        for group in _groups(before, arm, order, count)
    ]
    entries = journal.each(
        groups, lambda group: group.key,
        lambda group: _edited(model, group, before, assessment),
        unit="edits", doing="editing", name=lambda group: group.name,
        amount=lambda group: len(group.cases),
        about=lambda group: {"ids": [case.id for case in group.cases], "editor": group.arm.name},
    )  # fmt: skip
    points: dict[tuple[str, Order, int], list[tuple[_Group, Mapping[str, Any]]]] = {}
    for entry in entries:
        group = entry.item
        point = points.setdefault((group.arm.name, group.order, group.count), [])
        point.append((group, entry.record))
    return ManyEdits(
        model=source_of(model),
        perspective=perspective,
        n_cases=len(before),
        seed=seed,
        held_out=protocol.name_of_held_out(model),
        perplexity=float(assessment.text.nll.mean().exp()),
        points=tuple(_summarised(done, before, perspective, seed) for done in points.values()),
    )


def _groups(
    cases: Mapping[EditCase, EditScore], arm: Arm, order: Order, count: int
) -> list[_Group]:
    """Divides the cases among models with at most `count` edits each, as evenly as possible."""
    all_cases, n_models = list(cases), -(-len(cases) // count)
    return [
        _Group(arm, order, count, tuple(all_cases[index] for index in indices))
        for indices in np.array_split(np.arange(len(cases)), n_models)
    ]


def _edited(
    model: HookedTransformer,
    group: _Group,
    before: Mapping[EditCase, EditScore],
    assessment: Assessment,
) -> dict[str, Any]:
    """Makes the edits of a group in the model, scores its cases, and undoes the edits.

    Raises:
        InputError: the edited model's numbers are not finite, or there is no edit.
    """
    start = perf_counter()
    make = {"batch": _batch, "sequential": _sequential}[group.order]
    edit, refused = make(model, group)
    seconds = (perf_counter() - start) / len(group.cases)
    if edit is None:
        raise InputError(next(iter(refused.values())))
    words = {
        prompt: word for case in group.cases for prompt, word in before[case].own_words.items()
    }
    kept = assessment.kept
    with edit.applied(model):
        scores = score(model, group.cases, assessment.scoring, words, kept)
        drifted = drift(model, assessment.text, kept)
    record = {
        "ids": [case.id for case in group.cases],
        "editor": group.arm.name,
        "side": group.arm.side,
        "order": group.order,
        "refused": {case.id: reason for case, reason in refused.items()},
        "scores": [found.to_record() for found in scores],
        "perplexity": drifted.perplexity[1],
        "kl": float(drifted.kl.mean()),
        "norm": max(norm.relative for norm in edit.norms(model).values()),
        "seconds": seconds,
    }
    require_finite("after the edits", record)
    return record


def _batch(model: HookedTransformer, group: _Group) -> tuple[Edit | None, dict[EditCase, str]]:
    """Makes one edit of all cases; see `edit_of_all`."""
    asked = {case: requests_of(case, group.arm.side) for case in group.cases}
    return edit_of_all(model, asked, group.arm.make)


def _sequential(model: HookedTransformer, group: _Group) -> tuple[Edit | None, dict[EditCase, str]]:
    """Makes each case's edit on the model with the edits before it.

    Returns the edits as one, None if there is none, and the reasons why cases have no edit.
    """
    edits: list[Edit] = []
    refused: dict[EditCase, str] = {}
    with contextlib.ExitStack() as applied, progress("edits") as bars:
        for case in bars.track(group.cases, description="editing one after the other"):
            try:
                edit = group.arm.edit(case)
                applied.enter_context(edit.applied(model))
            except CANNOT_EDIT as error:
                refused[case] = str(error)
            else:
                edits.append(edit)
    return (combined(edits) if edits else None), refused


def _summarised(
    done: Sequence[tuple[_Group, Mapping[str, Any]]],
    before: Mapping[EditCase, EditScore],
    side: Perspective,
    seed: int,
) -> EditedModels:
    """Averages the edited models of one editor, order and number of edits."""
    old: list[EditScore] = []
    new: list[EditScore] = []
    first: list[int] = []  # indices of cases
    last: list[int] = []
    n_failed = 0
    for group, record in done:
        n_cases, start = len(group.cases), len(old)
        n_part = -(-n_cases // PART)
        first += range(start, start + n_part)
        last += range(start + n_cases - n_part, start + n_cases)
        unedited = [before[case] for case in group.cases]
        edited = [EditScore.from_record(found) for found in record.get("scores", ())]
        refused = record.get("refused", ())
        old += unedited
        new += [
            was if case.id in refused else found
            for case, was, found in zip(group.cases, unedited, edited or unedited, strict=True)
        ]
        n_failed += len(refused) if edited else n_cases
    of_ways = shares(old, new, [Key(side, "Score", way) for way in LIFTS], seed=seed)
    by_way = dict(zip(LIFTS, of_ways, strict=True))

    def gained(indices: Sequence[int]) -> Interval:
        part = [old[index] for index in indices], [new[index] for index in indices]
        (found,) = shares(*part, [Key(side, "Score", BY_ALL)], seed=seed)
        return row_interval(found.generalisation)

    def averaged(name: str) -> Interval:
        values = np.array([record[name] for _, record in done if name in record], dtype=float)
        return bootstrap_ratio(values, np.ones(len(values)), seed=seed)

    group = done[0][0]
    return EditedModels(
        editor=group.arm.name,
        order=group.order,
        edits=group.count,
        models=len(done),
        failed=n_failed,
        scores={way: row_interval(found.score) for way, found in by_way.items()},
        gained=row_interval(by_way[BY_ALL].generalisation),
        kept=row_interval(by_way[BY_ALL].locality),
        first=gained(first),
        last=gained(last),
        **{name: averaged(name) for name in COSTS},
    )
