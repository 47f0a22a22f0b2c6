"""A benchmark in parts that do not share a subject, every relation in each of them."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from experiments._run import RunFolder, console, write_whole
from experiments._score import spread
from experiments._tables import plain_table

if TYPE_CHECKING:
    from experiments.split_cases import Config
    from kedit.facts import EditCase
    from kedit.results.scores import EditScore

PARTS: tuple[str, ...] = ("tune", "validate", "test")


def own_prompt_only(case: "EditCase") -> "EditCase":
    """The case with its edit's own prompt as the only probe."""
    from dataclasses import replace

    own = [p for p in case.probes if (p.perspective, p.group) == ("entity", "efficacy")]
    return replace(case, probes=tuple(own))


def preferred(cases: "Sequence[EditCase]", scores: "Sequence[EditScore]") -> set[str]:
    """Ids of cases whose true object the model finds likelier than the new one."""
    known = {
        score.id
        for score in scores
        for probe in score.probes
        if probe.rival_logprob is not None and probe.logprob < probe.rival_logprob
    }
    return known & {case.id for case in cases}


def split(
    cases: "Sequence[EditCase]", known: set[str], sizes: Mapping[str, int], seen: int, seed: int
) -> "dict[str, list[EditCase]]":
    """Cases of each part; `known` ones only, and every subject in one part.

    Args:
        sizes: by part, in the order in which cases are dealt; 0 for all that are left.
        seen: the first so many cases that `spread` draws are tuned on, or in no part.
    """
    drawn = spread(cases, len(cases), seed)
    part_of = {case.entity.fact.subject: "tune" for case in drawn[:seen]}
    parts: dict[str, list[EditCase]] = {part: [] for part in sizes}
    rounds: Counter[str] = Counter()
    for case in drawn:
        if case.id not in known or case.relation is None:
            continue
        subject, relation = case.entity.fact.subject, case.entity.fact.relation.id
        part = part_of.get(subject) or _next(parts, sizes, rounds[relation])
        rounds[relation] += subject not in part_of
        part_of[subject] = part
        if part in parts and not _is_full(parts, sizes, part):
            parts[part].append(case)
    return parts


def _next(parts: "Mapping[str, Sequence[EditCase]]", sizes: Mapping[str, int], turn: int) -> str:
    """The part that a relation's case number `turn` goes to: in turn, and what is left to test."""
    wanted = [part for part in sizes if not _is_full(parts, sizes, part)]
    return wanted[turn % len(wanted)] if wanted else ""


def _is_full(
    parts: "Mapping[str, Sequence[EditCase]]", sizes: Mapping[str, int], part: str
) -> bool:
    return 0 < sizes[part] <= len(parts[part])


def finish(
    config: "Config",
    folder: RunFolder,
    cases: "Sequence[EditCase]",
    known: set[str],
    parts: "Mapping[str, Sequence[EditCase]]",
) -> None:
    """A file for each part, the ids, and the numbers by relation."""
    from kedit.data.fields import id_of
    from kedit.data.read import records_and_errors
    from kedit.errors import InputError

    records = {
        id_of(place, record): record
        for place, record in records_and_errors(config.cases)
        if isinstance(record, dict)
    }
    if not all(case.id in records for own in parts.values() for case in own):
        raise InputError(f"{config.cases}: one record makes several cases, it cannot be split")
    for part, own in parts.items():
        lines = [json.dumps(records[case.id], ensure_ascii=False) + "\n" for case in own]
        write_whole(folder.path / f"{part}.jsonl", "".join(lines))
    counts = {
        part: Counter(case.entity.fact.relation.name for case in own) for part, own in parts.items()
    }
    folder.write_json(
        "splits.json",
        {
            "cases": len(cases),
            "true object preferred": len(known),
            "parts": {part: [case.id for case in own] for part, own in parts.items()},
            "by relation": counts,
        },
    )
    table = plain_table(
        f"{len(known)} of {len(cases)} cases, in which {config.model} prefers the true object",
        "No subject is in two parts.",
        ("relation", *parts),
    )
    for name in sorted({name for own in counts.values() for name in own}):
        table.add_row(name, *(str(own[name]) for own in counts.values()))
    table.add_section()
    table.add_row("all", *(str(len(own)) for own in parts.values()))
    screen = console()
    screen.print(table)
    screen.print(f"Everything is in {folder.path}", soft_wrap=True)
