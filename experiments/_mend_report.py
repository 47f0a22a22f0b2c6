"""What a trained MEND does with requests it never saw: a table, and the figure of its training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from experiments._exercises import Practice, Said
from experiments._run import RunFolder, console, write_whole
from experiments._tables import percent, plain_table
from kedit.progress import progress

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

    from experiments.train_mend import Config
    from kedit.stats import Interval

HEADS = ("edits", "prompts", "before", "after", "n")


class Found(NamedTuple):
    """One held-out request's rates: of the target over the fact's object, and of what stays."""

    side: str
    prompts: str
    before: float
    after: float


class Line(NamedTuple):
    """A row of the table."""

    side: str
    prompts: str
    before: "Interval"
    after: "Interval"
    n: int


def finish(
    config: "Config", folder: RunFolder, model: "HookedTransformer", practice: Practice
) -> None:
    """Edits every held-out request with the best network; table, figure and where they are."""
    from figures.style import Source, plural, save
    from figures.training import Loss, losses
    from kedit import markdown

    lines = _lines(_edited(folder, model, practice))
    steps = sorted(int(key) for key in folder.records)
    records = {step: folder.records[str(step)] for step in steps}
    best = _kept_at(folder)
    sides = records[steps[0]]["validation"]
    drawn = losses(
        [Loss(step, **one["training"]) for step, one in records.items() if one["training"]],
        {
            side: [Loss(step, **one["validation"][side]) for step, one in records.items()]
            for side in sides
        },
        best,
        Source(
            config.model,
            f"n = {plural(len(practice.held_out), 'edit')} to validate with, "
            f"{len(practice.train):,} to train on; seed {config.seed}",
        ),
    )
    save(drawn, folder.path, "training")
    record = [
        line._asdict()
        | {name: list(map(float, getattr(line, name))) for name in ("before", "after")}
        for line in lines
    ]
    folder.write_json("validation.json", record)
    folder.write_json("skipped.json", practice.skipped)
    rows = [
        (line.side, line.prompts, percent(line.before), percent(line.after), str(line.n))
        for line in lines
    ]
    title = f"MEND for {config.model} after {best} of {steps[-1]} steps, on requests it never saw"
    write_whole(
        folder.path / "validation.md",
        f"# {title}\n\n{markdown.table(HEADS, rows)}\n\n{_EXPLAINED}\n",
    )
    table = plain_table(title, _EXPLAINED, HEADS)
    for row in rows:
        table.add_row(*row)
    screen = console()
    screen.print(table)
    file = _file(folder)
    told = f"{file.stat().st_size / 2**20:.1f} MiB. To compare it: --editors mend:file={file}"
    screen.print(told, highlight=False, soft_wrap=True)  # a path that is there to be copied
    screen.print(f"Everything is in {folder.path}", soft_wrap=True)


_EXPLAINED = (
    "Percent, with 95 % intervals over requests (Wilson's). Own prompt, other wordings: the target "
    "is likelier than what the\nfact said (the relation's name than None); neighbours: the "
    "likeliest next token is what it was. Each request is edited alone."
)


def _edited(folder: RunFolder, model: "HookedTransformer", practice: Practice) -> list[Found]:
    from kedit.editors.mend import MEND

    edits = MEND(str(_file(folder)), removal=practice.removal).on(model)
    found = []
    with progress("requests") as bars:
        bar = bars.add_task("editing what was held out", total=len(practice.held_out))
        for one in practice.held_out:
            request = one.request
            demand = request.demands[0]
            prompts = {
                "own prompt": [Said(demand.fact.prompt, demand.target)],
                "other wordings": one.wordings,
            }
            before = _preferred(model, prompts, demand.fact.object)
            stays = _likeliest(model, one.neighbours)
            with edits([request]).applied(model):
                after = _preferred(model, prompts, demand.fact.object)
                kept = _likeliest(model, one.neighbours)
            found += [
                Found(request.perspective, name, before[name], after[name]) for name in prompts
            ]
            same = sum(a == b for a, b in zip(stays, kept, strict=True)) / len(kept)
            found.append(Found(request.perspective, "neighbours", 1.0, same))
            bars.update(bar, advance=1)
    return found


def _preferred(
    model: "HookedTransformer", prompts: Mapping[str, Sequence[Said]], rival: str
) -> dict[str, float]:
    """How often each kind of prompt has its answer likelier than the rival."""
    from kedit.forward.likelihood import Asked, likelihoods
    from kedit.models.prompts import answers_ids, prompt_ids

    rates = {}
    for name, ones in prompts.items():
        asked = [
            Asked(
                prompt_ids(model, one.prompt),
                tuple(answers_ids(model, one.prompt, (one.answer, rival))),
            )
            for one in ones
        ]
        won = [
            own.logprob > other.logprob
            for own, other in (answered.answers for answered in likelihoods(model, asked))
        ]
        rates[name] = sum(won) / len(won)
    return rates


def _likeliest(model: "HookedTransformer", prompts: Sequence[Said]) -> list[int]:
    """The likeliest next token after each prompt."""
    from kedit.forward.metrics import last_logits
    from kedit.forward.reading import read
    from kedit.models.prompts import prompt_ids

    reading = read(model, [prompt_ids(model, one.prompt) for one in prompts])
    return last_logits(model, reading.last).argmax(-1).tolist()


def _lines(found: Sequence[Found]) -> list[Line]:
    import numpy as np

    from kedit.stats import rate_interval

    lines = []
    for side, prompts in dict.fromkeys((one.side, one.prompts) for one in found):
        own = [one for one in found if (one.side, one.prompts) == (side, prompts)]
        ones = np.ones(len(own))
        before, after = (
            rate_interval(np.array([getattr(one, name) for one in own]), ones)
            for name in ("before", "after")
        )
        lines.append(Line(side, prompts, before, after, len(own)))
    return lines


def _kept_at(folder: RunFolder) -> int:
    from kedit.editing.hypernetwork import read_hypernetwork

    return int(read_hypernetwork(_file(folder))[1].recipe["trained for"])


def _file(folder: RunFolder) -> Path:
    from kedit.editors.mend import NAME

    return folder.path / NAME
