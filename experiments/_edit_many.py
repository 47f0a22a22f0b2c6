"""Many facts edited at once: one edit of all, and for each fact what it did.

done = edit_facts(model, load_cases("facts.jsonl"), make_editor("rome", "gemma-3-270m").on(model))
done.edit.save("facts.safetensors")
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from experiments._asked_many import Asked, asked_of, chunks, flat, replies_of
from experiments._before_after import Reply, Row
from experiments._edit_price import held_out_text, name_of, perplexity
from experiments._edit_verdict import judged_rows, largest_norm, most_repetitive, staying
from experiments._facts import say_skipped
from experiments._run import open_run
from experiments._score import benchmark
from experiments._text_length import require_bytes, require_tokens
from kedit.progress import progress

if TYPE_CHECKING:
    from torch import Tensor
    from transformer_lens import HookedTransformer

    from experiments.edit_fact import Config
    from kedit.editing.edit import Edit, Editor, Edits, Norm
    from kedit.facts import EditCase, EditRequest, Perspective
    from kedit.scoring.verdict import Verdict

LEAST_SAID = 0.5  # of the targets: an edit that brings fewer of them fails
OF_ONE = ("subject", "prompt", "target", "true", "more", "neighbours", "relation")


@dataclass(frozen=True)
class Edited:
    """One fact of many.

    Args:
        id: of its record.
        rows: the edited prompt first.
    """

    id: str
    request: "EditRequest"
    rows: Sequence[Row]

    @cached_property
    def verdict(self) -> "Verdict":
        """By the fact's own prompts; what the whole edit costs is no price of one fact."""
        return judged_rows(self.rows)


@dataclass(frozen=True)
class DoneMany:
    """An edit of many facts, and what was measured of it.

    Args:
        skipped: why other records are not in it, by their ids.
        norms: `Edit.norms` of the unedited model.
        perplexity: of held-out text, before and after the edit; None where there was none.
        seconds: that making the edit took.
    """

    edit: "Edit"
    facts: Sequence[Edited]
    skipped: Mapping[str, str]
    norms: "Mapping[str, Norm]"
    perplexity: tuple[float, float] | None
    seconds: float

    @property
    def rows(self) -> list[Row]:
        """Of all facts."""
        return [row for fact in self.facts for row in fact.rows]

    @property
    def n_said(self) -> int:
        """Facts after whose prompts the edited model says their targets."""
        return sum(fact.rows[0].works for fact in self.facts)

    @property
    def most_repetitive(self) -> Row:
        return most_repetitive(self.rows)

    @cached_property
    def verdict(self) -> "Verdict":
        """Over all facts together: it works if all targets are said, and at no price."""
        from kedit.scoring.verdict import judged

        stay, worst = staying(self.rows), self.most_repetitive
        said = self.n_said / len(self.facts)
        return judged(
            said >= LEAST_SAID,
            said=said,
            perplexity=self.perplexity,
            variety=(worst.before.variety, worst.after.variety),
            norm=largest_norm(self.norms),
            kept=sum(row.works for row in stay) / len(stay) if stay else None,
        )


def edit_facts(
    model: "HookedTransformer",
    cases: "Sequence[EditCase]",
    edits: "Edits",
    perspective: "Perspective" = "entity",
    held_out: "Tensor | None" = None,
    seed: int = 0,
) -> DoneMany:
    """Makes one edit of all the facts, and asks before and after it; the model is left as it was.

    A record that cannot be asked or edited, contradicts one before it, or whose target the model
    says already, is skipped with the reason.

    Args:
        edits: an editor on its model.
        held_out: text whose perplexity should not rise.
        seed: of the neighbours that are drawn where a record has none.

    Raises:
        InputError: nothing is left to edit.
    """
    from kedit.errors import InputError

    asked, before, skipped = asked_of(model, cases, perspective, seed)
    start = time.perf_counter()
    edit, refused = _edit_of(model, asked, edits)
    seconds = time.perf_counter() - start
    skipped |= {case.id: reason for case, reason in refused.items()}
    kept = {case: own for case, own in asked.items() if case not in refused}
    if edit is None:
        id, reason = next(iter(skipped.items()), ("", "there are no records"))
        raise InputError(f"no fact is left to edit; record {id}: {reason}")
    then = perplexity(model, held_out) if held_out is not None else None
    questions = {case: flat(own) for case, own in kept.items()}
    after: dict[EditCase, list[Reply]] = {}
    with edit.applied(model), progress("facts") as bars:
        bar = bars.add_task("asking again", total=len(questions))
        for some in chunks(questions):
            after |= replies_of(model, {case: questions[case] for case in some})
            bars.update(bar, advance=len(some))
        now = perplexity(model, held_out) if held_out is not None else None
    both = None if then is None or now is None else (then, now)
    found = []
    for case, own in kept.items():
        rows = iter(map(Row, questions[case], before[case], after[case]))
        for request, ones in own.items():
            found.append(Edited(case.id, request, list(islice(rows, len(ones)))))
    return DoneMany(edit, found, skipped, edit.norms(model), both, seconds)


def edit_file(
    config: "Config", chosen: "Editor", ready: "Callable[[HookedTransformer], Edits]"
) -> Path:
    """Edits the facts of a file; saves, draws and prints.

    Args:
        ready: the editor on its model, with what it has to read.

    Raises:
        InputError: options of a single fact, or no record that can be edited.
    """
    from dataclasses import replace

    from experiments._edit_many_report import finish
    from kedit.errors import InputError
    from kedit.models.load import load

    told = [name for name in OF_ONE if getattr(config, name)]
    if told:
        raise InputError(f"--facts {config.facts} tells what is edited: leave out --{told[0]}")
    cases, skipped = benchmark(config.facts)
    if config.perspective == "relation":
        skipped |= {case.id: "it has no relation side" for case in cases if not case.relation}
        cases = [case for case in cases if case.relation]
        if not cases:
            raise InputError(
                f"no record of {config.facts} names its relation: --perspective entity"
            )
    say_skipped(config.facts, skipped)
    require_bytes(config)
    model = load(config.model, config.device, config.dtype)
    require_tokens(config, model)
    held_out = held_out_text(model, config, chosen)
    with open_run("edit_fact", config) as folder:
        folder.require_weights(model)
        done = edit_facts(model, cases, ready(model), config.perspective, held_out, config.seed)
        say_skipped(config.facts, done.skipped)
        done = replace(done, skipped={**skipped, **done.skipped})
        finish(config, folder, model, done, name_of(config, chosen))
    return folder.path


def _edit_of(
    model: "HookedTransformer", asked: Asked, edits: "Edits"
) -> "tuple[Edit | None, dict[EditCase, str]]":
    """One edit of all requests; where that cannot be made, of the cases that can be edited alone
    and do not contradict those before them, and why the others cannot be.
    """
    from kedit.editing.checks import require_consistent
    from kedit.errors import InputError

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
