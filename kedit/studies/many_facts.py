"""Edits many facts at once: one edit of all, and for each fact what it did.

found = edit_many(model, load_cases("facts.jsonl"), "rome")
found.edit.save("facts.safetensors")
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from transformer_lens import HookedTransformer

from kedit.editing.checks import require_consistent
from kedit.editing.edit import Edit, Editor, PreparedEditor
from kedit.editors.registry import label_of
from kedit.errors import InputError
from kedit.facts import EditCase, EditRequest, Perspective
from kedit.forward.saying import opens_with_answer
from kedit.journal import Journal, skip
from kedit.models.load import name_of
from kedit.progress import progress
from kedit.records import from_record, key_of, to_record
from kedit.results.exchanges import Exchange, Question, Reply
from kedit.results.many_facts import FactEdited, FactsEdited
from kedit.studies.before_after import editor_with_options, made_of, ready
from kedit.studies.held_out import held_out_text
from kedit.studies.questions_of_cases import CaseQuestions, questions_of_cases
from kedit.studies.replies import replies

Replied = Mapping[EditCase, Sequence[Reply]]
TOGETHER = 8  # records that are asked at once
SAID_ALREADY = "said already"  # why a case is left out


# eight parameters: the edit, what is asked, and the texts of both
def edit_many(
    model: HookedTransformer,
    cases: Sequence[EditCase],
    editor: str | Editor = "rome",
    *,
    perspective: Perspective = "entity",
    text: str = "",
    tokens_per_dim: int = 4,
    held_out: str | None = "",
    seed: int = 0,
) -> FactsEdited:
    """Makes one edit of all the facts, and asks before and after it; the model is left as it was.

    A record that cannot be asked or edited, has no such side, contradicts one before it, or whose
    target the model says already, is skipped with the reason.

    Args:
        editor: one, or its spec, such as "rome:layer=5".
        text, tokens_per_dim: what the edit is to spare (`editor_with_options`,
            `prepare.with_tokens`).
        held_out: text whose perplexity should not rise, another one than `text`; None for none.
        seed: of the editor's contexts, of texts, and of neighbours that are drawn where a record
            has none.

    Raises:
        InputError: nothing is left to edit, or a text or a setting cannot be used.
    """
    sided = [case for case in cases if perspective == "entity" or case.relation]
    if cases and not sided:
        raise InputError("no record names its relation: --perspective entity")
    told = editor_with_options(model, editor, perspective, text=text, seed=seed)
    other_text = None if held_out is None else held_out_text(model, held_out, told, seed)
    edits = ready(model, told, tokens_per_dim)
    asked, before, refused = _asked_before(model, sided, perspective, seed)
    without = [case for case in cases if perspective == "relation" and not case.relation]
    skipped = {case.id: "it has no relation side" for case in without} | refused
    start = time.perf_counter()
    edit, unmade = _edit_of(model, asked, edits)
    seconds = time.perf_counter() - start
    skipped |= {case.id: reason for case, reason in unmade.items()}
    kept = {case: own for case, own in asked.items() if case not in unmade}
    if edit is None:
        id, reason = next(iter(skipped.items()), ("", "there are no records"))
        raise InputError(f"no fact is left to edit; record {id}: {reason}")
    then = other_text.perplexity(model) if other_text else None
    with edit.applied(model):
        after = _asked_after(model, kept)
        now = other_text.perplexity(model) if other_text else None
    both = None if then is None or now is None else (then, now)
    facts = tuple(_facts(kept, before, after))
    made = made_of(model, edit, seconds, other_text.name if other_text else "", both)
    label = editor if isinstance(editor, str) else label_of(editor)
    return FactsEdited(name_of(model), label, seed, made, facts, skipped, edit)


def _facts(
    asked: Mapping[EditCase, CaseQuestions], before: Replied, after: Replied
) -> Iterator[FactEdited]:
    """Of each request of each case, its own questions."""
    for case, own in asked.items():
        exchanges = map(Exchange, _flat(own), before[case], after[case])
        for questions in own.values():
            yield FactEdited(case.id, tuple(islice(exchanges, len(questions))))


def _flat(asked: Mapping[EditRequest, Sequence[Question]]) -> list[Question]:
    return [one for own in asked.values() for one in own]


def _asked_before(
    model: HookedTransformer, cases: Sequence[EditCase], perspective: Perspective, seed: int
) -> tuple[dict[EditCase, CaseQuestions], dict[EditCase, list[Reply]], dict[str, str]]:
    """What is asked of each request of each case, and the unedited model's replies; and why other
    cases are left out.
    """
    asked: dict[EditCase, CaseQuestions] = {}

    def work(some: Sequence[EditCase]) -> list[dict]:
        own = questions_of_cases(model, some, perspective, seed)
        replied = iter(replies(model, [one for case in some for one in _flat(own[case])]))
        records = []
        for case in some:
            said = list(islice(replied, len(_flat(own[case]))))
            firsts = [said[_flat(own[case]).index(ones[0])] for ones in own[case].values()]
            if all(
                opens_with_answer(reply.said, [request.target])
                for request, reply in zip(own[case], firsts, strict=True)
            ):
                target = next(iter(own[case])).target
                records.append(skip(SAID_ALREADY, f"the model says {target!r} already"))
            else:
                asked[case] = own[case]
                records.append({"replies": to_record(said)})
        return records

    before: dict[EditCase, list[Reply]] = {}
    skipped: dict[str, str] = {}
    for entry in Journal().each_batch(
        cases, key_of, work, TOGETHER, unit="facts", doing="asking"
    ):  # fmt: skip
        if entry.skipped:
            skipped[entry.item.id] = entry.skipped
        else:
            before[entry.item] = [from_record(Reply, one) for one in entry.record["replies"]]
    return {case: asked[case] for case in before}, before, skipped


def _asked_after(
    model: HookedTransformer, asked: Mapping[EditCase, CaseQuestions]
) -> dict[EditCase, list[Reply]]:
    """The replies of the edited model, which may be nothing that a number can be of."""
    found: dict[EditCase, list[Reply]] = {}
    cases = list(asked)
    with progress("facts") as bars:
        bar = bars.add_task("asking again", total=len(cases))
        for start in range(0, len(cases), TOGETHER):
            some = cases[start : start + TOGETHER]
            # many prompts at once are faster than one by one
            replied = iter(replies(model, [one for case in some for one in _flat(asked[case])]))
            found |= {case: list(islice(replied, len(_flat(asked[case])))) for case in some}
            bars.update(bar, advance=len(some))
    return found


def _edit_of(
    model: HookedTransformer, asked: Mapping[EditCase, CaseQuestions], edits: PreparedEditor
) -> tuple[Edit | None, dict[EditCase, str]]:
    """One edit of all requests; where that cannot be made, of the cases that can be edited alone
    and do not contradict those before them, and why the others cannot be.
    """
    every = [request for own in asked.values() for request in own]
    if not every:
        return None, {}
    try:
        return edits(every), {}
    except InputError as error:
        if len(asked) == 1:
            return None, {case: str(error) for case in asked}
    requests: list[EditRequest] = []
    refused: dict[EditCase, str] = {}
    for case, own in asked.items():
        try:
            require_consistent(model, [*requests, *own])
            edits(list(own))
            requests += own
        except InputError as error:
            refused[case] = str(error)
    return (edits(requests) if requests else None), refused
