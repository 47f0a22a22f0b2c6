"""Edits many facts in one edit, and shows for each fact what the edit did.

found = edit_many(model, load_cases("facts.jsonl"), "rome")
found.edit.save("facts.safetensors")
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from transformer_lens import HookedTransformer

from kedit.editing.edit import Editor
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
from kedit.studies.edits import edit_of_all
from kedit.studies.held_out import held_out_text
from kedit.studies.questions_of_cases import CaseQuestions, questions_of_cases
from kedit.studies.replies import replies

Replied = Mapping[EditCase, Sequence[Reply]]
CASES_PER_BATCH = 8  # cases whose questions are asked in one forward
SAID_ALREADY = "said already"  # kind of reason why a case is left out


# eight parameters: the edit, the questions, and the texts that the edit spares or is measured on
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
    """Makes one edit of all the facts, and queries the model before and after it.

    The model is left unedited. A case is skipped, with the reason, if it has no request from this
    side, if its questions cannot be asked, if it cannot be edited, if it contradicts a case before
    it, or if the model says its target already.

    Args:
        editor: an editor, or a spec such as "rome:layer=5".
        perspective: the side that is edited.
        text: the text that the edit spares; "": the editor's setting.
        tokens_per_dim: number of tokens of this text per dimension of the editor's longest key.
        held_out: text whose perplexity should not rise; it must not be `text`. None: perplexity is
            not measured.
        seed: seed of the editor's contexts, of text that the model writes, and of the neighbours
            that are drawn for cases without neighbours.

    Raises:
        InputError: nothing is left to edit, or a text or a setting cannot be used.
    """
    sided = [case for case in cases if perspective == "entity" or case.relation]
    if cases and not sided:
        raise InputError(
            "no record names its relation, which perspective='relation' needs: name the relations, "
            "or choose perspective='entity' (--perspective entity)"
        )
    configured = editor_with_options(model, editor, perspective, text=text, seed=seed)
    other_text = None if held_out is None else held_out_text(model, held_out, configured, seed)
    edits = ready(model, configured, tokens_per_dim)
    asked, before, refused = _asked_before(model, sided, perspective, seed)
    without = [case for case in cases if perspective == "relation" and not case.relation]
    skipped = {case.id: "it has no relation side" for case in without} | refused
    start = time.perf_counter()
    edit, not_edited = edit_of_all(
        model, {case: list(by_request) for case, by_request in asked.items()}, edits
    )
    seconds = time.perf_counter() - start
    skipped |= {case.id: reason for case, reason in not_edited.items()}
    edited = {case: questions for case, questions in asked.items() if case not in not_edited}
    if edit is None:
        id, reason = next(iter(skipped.items()), ("", "there are no records"))
        raise InputError(f"no fact is left to edit; record {id}: {reason}")
    perplexity_before = other_text.perplexity(model) if other_text else None
    with edit.applied(model):
        after = _asked_after(model, edited)
        perplexity_after = other_text.perplexity(model) if other_text else None
    perplexity = None
    if perplexity_before is not None and perplexity_after is not None:
        perplexity = perplexity_before, perplexity_after
    facts = tuple(_facts(edited, before, after))
    made = made_of(model, edit, seconds, other_text.name if other_text else "", perplexity)
    label = editor if isinstance(editor, str) else label_of(editor)
    return FactsEdited(name_of(model), label, seed, made, facts, skipped, edit)


def _facts(
    asked: Mapping[EditCase, CaseQuestions], before: Replied, after: Replied
) -> Iterator[FactEdited]:
    """Yields one result per request of each case, with the questions of this request."""
    for case, by_request in asked.items():
        exchanges = map(Exchange, _flat(by_request), before[case], after[case])
        for questions in by_request.values():
            yield FactEdited(case.id, tuple(islice(exchanges, len(questions))))


def _flat(asked: Mapping[EditRequest, Sequence[Question]]) -> list[Question]:
    """Returns the questions of all requests in one list."""
    return [question for questions in asked.values() for question in questions]


def _asked_before(
    model: HookedTransformer, cases: Sequence[EditCase], perspective: Perspective, seed: int
) -> tuple[dict[EditCase, CaseQuestions], dict[EditCase, list[Reply]], dict[str, str]]:
    """Asks the unedited model the questions of each case.

    Returns the questions by case and request, the replies by case, and, by the ids of the cases
    that are left out, the reasons.
    """
    asked: dict[EditCase, CaseQuestions] = {}

    def work(batch: Sequence[EditCase]) -> list[dict]:
        by_case = questions_of_cases(model, batch, perspective, seed)
        replied = iter(
            replies(model, [question for case in batch for question in _flat(by_case[case])])
        )
        records = []
        for case in batch:
            by_request = by_case[case]
            said = list(islice(replied, len(_flat(by_request))))
            # the first question of a request is the prompt that is edited
            firsts = [
                said[_flat(by_request).index(questions[0])] for questions in by_request.values()
            ]
            if all(
                opens_with_answer(reply.said, [request.target])
                for request, reply in zip(by_request, firsts, strict=True)
            ):
                target = next(iter(by_request)).target
                records.append(skip(SAID_ALREADY, f"the model says {target!r} already"))
            else:
                asked[case] = by_request
                records.append({"replies": to_record(said)})
        return records

    before: dict[EditCase, list[Reply]] = {}
    skipped: dict[str, str] = {}
    for entry in Journal().each_batch(
        cases, key_of, work, CASES_PER_BATCH, unit="facts", doing="asking"
    ):  # fmt: skip
        if entry.skipped:
            skipped[entry.item.id] = entry.skipped
        else:
            before[entry.item] = [from_record(Reply, reply) for reply in entry.record["replies"]]
    return {case: asked[case] for case in before}, before, skipped


def _asked_after(
    model: HookedTransformer, asked: Mapping[EditCase, CaseQuestions]
) -> dict[EditCase, list[Reply]]:
    """Asks the edited model the same questions; returns its replies by case.

    Without a journal, which would refuse the NaN that an edit can cause.
    """
    found: dict[EditCase, list[Reply]] = {}
    cases = list(asked)
    with progress("facts") as bars:
        bar = bars.add_task("asking again", total=len(cases))
        for start in range(0, len(cases), CASES_PER_BATCH):
            batch = cases[start : start + CASES_PER_BATCH]
            questions = [question for case in batch for question in _flat(asked[case])]
            replied = iter(replies(model, questions))
            found |= {case: list(islice(replied, len(_flat(asked[case])))) for case in batch}
            bars.update(bar, advance=len(batch))
    return found
