"""Chooses the facts and cases of a study: usable ones, spread evenly over the relations."""

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
from kedit.models.outline import TOYS
from kedit.records import key_of

Record = TypeVar("Record")

BUILT = "results/build_rake/counterfact/rake.jsonl"  # where experiments.build_rake writes


def in_turn(groups: Iterable[Sequence[Record]], seed: int) -> list[Record]:
    """Orders records so that the groups take turns; `seed` shuffles groups and their records."""
    draw = random.Random(seed)
    queues = [list(group) for group in groups]
    for queue in queues:
        draw.shuffle(queue)
    draw.shuffle(queues)
    turns = range(max(map(len, queues), default=0))
    return [queue[turn] for turn in turns for queue in queues if turn < len(queue)]


def usable_facts(source: str) -> tuple[Sequence[Fact], dict[str, str]]:
    """Returns the usable facts of a source, and by location in the file why others are not usable.

    Raises:
        RecordError: the file cannot be read, or none of its records can be used.
    """
    if source == "builtin":
        return builtin.load(), {}  # no copy: probes.corrupt recognises this tuple by identity
    facts, skipped = [], {}
    for fact in read_facts(source):
        if isinstance(fact, Skipped):
            skipped[fact.location] = fact.reason
        else:
            facts.append(fact)
    _require_some(source, facts, skipped)
    return facts, skipped


def usable_cases(source: str) -> tuple[list[EditCase], dict[str, str]]:
    """Returns the usable cases of a source, and by location in the file why others are not usable.

    Raises:
        RecordError: the file cannot be read, or none of its records can be used.
    """
    cases, skipped = [], {}
    for case in read_cases(source):
        if isinstance(case, EditCase):
            cases.append(case)
        else:
            skipped[case.location] = case.reason
    _require_some(source, cases, skipped)
    return cases, skipped


def facts_source(source: str, model: str) -> str:
    """Replaces "auto" by "toy" for the toys and by "builtin" for any other model."""
    if source != "auto":
        return source
    return "toy" if model in TOYS else "builtin"


def cases_source(source: str, model: str) -> str:
    """Replaces "auto" by a source of cases.

    The toy model gets its own cases. Any other model gets the file that build_rake has written, or
    the built-in cases where there is no such file.
    """
    if source != "auto":
        return source
    return "toy" if model == "toy" else BUILT if Path(BUILT).exists() else "builtin"


def of_relations(facts: Sequence[Fact], relations: str) -> list[Fact]:
    """Selects the facts of some relations.

    Args:
        relations: ids or names, separated by commas; or a number of relations, which selects those
            with the most subjects; "" for all.

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
    requested = {name.strip() for name in relations.split(",")}
    found = [fact for fact in facts if requested & {fact.relation.id, fact.relation.name}]
    unknown = requested - {
        name for fact in found for name in (fact.relation.id, fact.relation.name)
    }
    if unknown:
        available = sorted({f"{fact.relation.id} ({fact.relation.name})" for fact in facts})
        raise InputError(
            f"no facts of the relation {sorted(unknown)[0]!r:.80}; the relations are "
            f"{', '.join(available)}"
        )
    return found


def spread_facts(facts: Sequence[Fact], seed: int) -> list[list[Fact]]:
    """Orders facts so that the relations take turns, and groups the wordings of each fact.

    Each item of the result is a subject of a relation in all its wordings. Wordings in which
    something follows the relation's words come first, otherwise the given order stays. Where the
    relation's words end the prompt, the last corrupted token is also the last token, and tracing
    cannot distinguish them.

    Args:
        seed: seed of the order of relations, and of subjects within a relation.
    """
    by_relation: dict[str, dict[str, list[Fact]]] = {}
    for fact in facts:
        by_relation.setdefault(fact.relation.id, {}).setdefault(fact.subject, []).append(fact)
    groups = [list(by_subject.values()) for by_subject in by_relation.values()]
    for worded in (worded for group in groups for worded in group):
        worded.sort(key=lambda fact: fact.relation_spans[-1][1] == len(fact.prompt))
    return in_turn(groups, seed)


def spread_cases(cases: Sequence[EditCase], limit: int, seed: int) -> list[EditCase]:
    """Selects `limit` cases so that the relations take turns; `seed` draws them.

    A limit of 0 returns all cases in their given order.
    """
    if not limit:
        return list(cases)
    by_relation: dict[str, list[EditCase]] = {}
    for case in cases:
        by_relation.setdefault(case.entity.fact.relation.id, []).append(case)
    return in_turn(by_relation.values(), seed)[:limit]


def labels_of(cases: Iterable[EditCase]) -> tuple[str, ...]:
    """Collects the names of all relations in the cases' probes, among which each name is ranked."""
    named = (probe.label for case in cases for probe in case.probes if probe.label)
    return tuple(sorted(set(named)))


def fewer_probes(case: EditCase, limit: int) -> EditCase:
    """Returns the case with the first `limit` probes of each side and group; 0 keeps all probes."""
    if not limit:
        return case
    counts: Counter[tuple[str, str]] = Counter()
    chosen = []
    for probe in case.probes:
        kind = (probe.perspective, probe.group)
        counts[kind] += 1
        if counts[kind] <= limit:
            chosen.append(probe)
    return replace(case, probes=tuple(chosen))


def split_cases(
    cases: Sequence[EditCase], known: set[str], sizes: Mapping[str, int], seen: int, seed: int
) -> dict[str, list[EditCase]]:
    """Splits cases into parts, such as "tune" and "test", that have no subject in common.

    Args:
        known: ids of the cases that may be in a part.
        sizes: number of cases of each part; 0 for no limit. The parts take turns in this order.
        seen: number of cases that earlier runs may have used: the first ones that `spread_cases`
            draws. Their subjects are in the first part, or in none.
        seed: seed of `spread_cases`.
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
    """Returns the key of a fact, in this wording, in a journal.

    Each field of the fact enters the key except its rival, which depends on the model and on the
    other facts.
    """
    return key_of(replace(fact, rival=""))


def drawn_for(fact: Fact) -> random.Random:
    """Returns a random generator whose seed depends only on the fact's prompt and answer."""
    seed = f"{fact.relation.id}:{fact.prompt}:{fact.object}"
    return random.Random(hashlib.sha256(seed.encode()).hexdigest()[:16])


def _next_part(parts: Mapping[str, Sequence[EditCase]], sizes: Mapping[str, int], turn: int) -> str:
    """Returns the part for case number `turn` of a relation; "" if all parts are full."""
    open_parts = [part for part in sizes if not _is_full(parts, sizes, part)]
    return open_parts[turn % len(open_parts)] if open_parts else ""


def _is_full(parts: Mapping[str, Sequence[EditCase]], sizes: Mapping[str, int], part: str) -> bool:
    return 0 < sizes[part] <= len(parts[part])


def _require_some(source: str, usable: Sequence[object], skipped: Mapping[str, str]) -> None:
    """Raises RecordError, with the first reason, if no record of a file is usable."""
    if not usable:
        location, reason = next(iter(skipped.items()), (source, "it is empty"))
        raise RecordError(f"none of the records of {source} can be used; {location}: {reason}")
