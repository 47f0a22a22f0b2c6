"""Which facts and cases a study takes: those that can be used, some of every relation."""

import hashlib
import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from kedit.data import builtin, read_cases, read_facts
from kedit.data.fields import Skipped
from kedit.errors import InputError, RecordError
from kedit.facts import EditCase, Fact
from kedit.records import key_of

Record = TypeVar("Record")

BUILT = "results/build_rake/counterfact/rake.jsonl"  # what experiments.build_rake makes


def in_turn(groups: Iterable[Sequence[Record]], seed: int) -> list[Record]:
    """One record of every group in turn; groups and the records in them are drawn by `seed`."""
    draw = random.Random(seed)
    queues = [list(group) for group in groups]
    for queue in queues:
        draw.shuffle(queue)
    draw.shuffle(queues)
    turns = range(max(map(len, queues), default=0))
    return [queue[turn] for turn in turns for queue in queues if turn < len(queue)]


def usable_facts(source: str) -> tuple[Sequence[Fact], dict[str, str]]:
    """Every fact that can be used, and why others cannot be, by their places in the file.

    Raises:
        RecordError: the file cannot be read, or none of its records can be used.
    """
    if source == "builtin":
        return builtin.load(), {}  # the same tuple: what is drawn from it knows it by that
    facts, skipped = [], {}
    for one in read_facts(source):
        if isinstance(one, Skipped):
            skipped[one.place] = one.reason
        else:
            facts.append(one)
    _require_some(source, facts, skipped)
    return facts, skipped


def usable_cases(source: str) -> tuple[list[EditCase], dict[str, str]]:
    """Every case that can be used, and why others cannot be, by their places in the file.

    Raises:
        RecordError: the file cannot be read, or none of its records can be used.
    """
    cases, skipped = [], {}
    for one in read_cases(source):
        if isinstance(one, EditCase):
            cases.append(one)
        else:
            skipped[one.place] = one.reason
    _require_some(source, cases, skipped)
    return cases, skipped


def facts_source(source: str, model: str) -> str:
    """Which facts "auto" stands for: the toy's own, or those built in."""
    if source != "auto":
        return source
    return "toy" if model == "toy" else "builtin"


def cases_source(source: str, model: str) -> str:
    """Which cases "auto" stands for: the toy's own, or what build_rake made, or those built in."""
    if source != "auto":
        return source
    return "toy" if model == "toy" else BUILT if Path(BUILT).exists() else "builtin"


def of_relations(facts: Sequence[Fact], relations: str) -> list[Fact]:
    """Facts of some relations: ids or names with commas between, or the number of them.

    Of a number of relations, those that have the most subjects are taken; "" takes all.

    Raises:
        InputError: no fact has such a relation.
    """
    if not relations:
        return list(facts)
    subjects: dict[str, set[str]] = {}
    for fact in facts:
        subjects.setdefault(fact.relation.id, set()).add(fact.subject)
    if re.fullmatch("[0-9]{1,9}", relations):
        most = sorted(subjects, key=lambda relation: -len(subjects[relation]))
        chosen = set(most[: int(relations)])
        return [fact for fact in facts if fact.relation.id in chosen]
    wanted = {name.strip() for name in relations.split(",")}
    found = [fact for fact in facts if wanted & {fact.relation.id, fact.relation.name}]
    lacking = wanted - {name for fact in found for name in (fact.relation.id, fact.relation.name)}
    if lacking:
        there = sorted({f"{fact.relation.id} ({fact.relation.name})" for fact in facts})
        raise InputError(
            f"no facts of the relation {sorted(lacking)[0]!r:.80}; there are {', '.join(there)}"
        )
    return found


def spread_facts(facts: Sequence[Fact], seed: int) -> list[list[Fact]]:
    """One (relation, subject) of every relation in turn, drawn by `seed`, each in all its wordings.

    Wordings in which something follows the relation's words come first, else in the given order:
    where they end the prompt, the last corrupted token and the last token are one.
    """
    by_relation: dict[str, dict[str, list[Fact]]] = {}
    for fact in facts:
        by_relation.setdefault(fact.relation.id, {}).setdefault(fact.subject, []).append(fact)
    groups = [list(by_subject.values()) for by_subject in by_relation.values()]
    for worded in (worded for group in groups for worded in group):
        worded.sort(key=lambda fact: fact.relation_spans[-1][1] == len(fact.prompt))
    return in_turn(groups, seed)


def spread_cases(cases: Sequence[EditCase], limit: int, seed: int) -> list[EditCase]:
    """`limit` cases, one of every relation in turn, drawn by `seed`; all as they are for 0."""
    if not limit:
        return list(cases)
    by_relation: dict[str, list[EditCase]] = {}
    for case in cases:
        by_relation.setdefault(case.entity.fact.relation.id, []).append(case)
    return in_turn(by_relation.values(), seed)[:limit]


def labels_of(cases: Iterable[EditCase]) -> tuple[str, ...]:
    """The names of all relations that the cases speak of: what a relation's rank is among."""
    named = (probe.label for case in cases for probe in case.probes if probe.label)
    return tuple(sorted(set(named)))


def fewer_probes(case: EditCase, limit: int) -> EditCase:
    """The case with the first `limit` probes of each kind; all of them for 0."""
    if not limit:
        return case
    seen: Counter[tuple[str, str]] = Counter()
    kept = []
    for probe in case.probes:
        kind = (probe.perspective, probe.group)
        seen[kind] += 1
        if seen[kind] <= limit:
            kept.append(probe)
    return replace(case, probes=tuple(kept))


def split_cases(
    cases: Sequence[EditCase], known: set[str], sizes: Mapping[str, int], seen: int, seed: int
) -> dict[str, list[EditCase]]:
    """Cases of each part, such as "tune" and "test"; every subject is in one part only.

    Args:
        known: ids of the cases that may be in a part.
        sizes: by part, in the order in which cases are dealt; 0 for all that are left.
        seen: the first so many cases that `spread_cases` draws are in the first part, or in none.
    """
    drawn = spread_cases(cases, len(cases), seed)
    first = next(iter(sizes))
    part_of = {case.entity.fact.subject: first for case in drawn[:seen]}
    parts: dict[str, list[EditCase]] = {part: [] for part in sizes}
    turns: Counter[str] = Counter()
    for case in drawn:
        if case.id not in known or case.relation is None:
            continue
        subject, relation = case.entity.fact.subject, case.entity.fact.relation.id
        part = part_of.get(subject) or _next_part(parts, sizes, turns[relation])
        turns[relation] += subject not in part_of
        part_of[subject] = part
        if part in parts and not _is_full(parts, sizes, part):
            parts[part].append(case)
    return parts


def fact_key(fact: Fact) -> str:
    """What a journal calls a fact, in this wording: another key if anything of it is another.

    But for its rival, which depends on the model and on the other facts.
    """
    return key_of(replace(fact, rival=""))


def drawn_for(fact: Fact) -> random.Random:
    """Random numbers for a fact that depend on its question and answer alone."""
    told = f"{fact.relation.id}:{fact.prompt}:{fact.object}"
    return random.Random(hashlib.sha256(told.encode()).hexdigest()[:16])


def _next_part(parts: Mapping[str, Sequence[EditCase]], sizes: Mapping[str, int], turn: int) -> str:
    """The part that a relation's case number `turn` goes to; "" where all are full."""
    wanted = [part for part in sizes if not _is_full(parts, sizes, part)]
    return wanted[turn % len(wanted)] if wanted else ""


def _is_full(parts: Mapping[str, Sequence[EditCase]], sizes: Mapping[str, int], part: str) -> bool:
    return 0 < sizes[part] <= len(parts[part])


def _require_some(source: str, usable: Sequence[object], skipped: Mapping[str, str]) -> None:
    """Raises RecordError, with the first reason, where nothing of a file can be used."""
    if not usable:
        place, reason = next(iter(skipped.items()), (source, "it is empty"))
        raise RecordError(f"none of the records of {source} can be used; {place}: {reason}")
