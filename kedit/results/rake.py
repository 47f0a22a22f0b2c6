"""The result of `build_rake`: counts of the benchmark's records."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from kedit.data.fields import Record
from kedit.results.base import Result
from kedit.tables import Table

# counts of CounterFact: Meng et al. 2022, table 2; the relations were counted in the file
PUBLISHED = {"records": 21_919, "subjects": 20_391, "new_objects": 749, "relations": 34}


@dataclass(frozen=True)
class RelationCount:
    """The number of records of one relation; `kind` is a `kedit.facts.Kind`."""

    label: str
    kind: str
    records: int


@dataclass(frozen=True)
class RakeStatistics(Result):
    """Counts of a benchmark's records.

    Args:
        records, subjects, new_objects, relations: numbers of records and of distinct subjects, new
            objects and relations.
        skipped: number of records of the source that could not be used.
        paraphrases: number of distinct paraphrases of relations.
        kinds: number of records by kind of relation.
        by_relation: number of records of each relation, by the relation's id.
        relation_neighbours: number of records by how many relation neighbours they have.
        lacks: number of records that lack a kind of prompts, by that kind.
        notes: number of records with a remark that matters for reading scores, by the remark.
        source: name of the source.
        sha256: SHA-256 digest of rake.jsonl.
    """

    FILE: ClassVar[str] = "statistics.json"

    records: int
    subjects: int
    new_objects: int
    relations: int
    skipped: int
    paraphrases: int
    kinds: Mapping[str, int]
    by_relation: Mapping[str, RelationCount]
    relation_neighbours: Mapping[str, int]
    lacks: Mapping[str, int]
    notes: Mapping[str, int]
    source: str
    sha256: str

    def totals(self) -> dict[str, int]:
        """The counts that are published for CounterFact too."""
        return {name: getattr(self, name) for name in PUBLISHED}

    def table(self) -> Table:
        """All counts, next to CounterFact's if the number of records is the same."""
        neighbours = sum(int(n) * times for n, times in self.relation_neighbours.items())
        rows = [
            ("distinct paraphrases of relations", f"{self.paraphrases:,}"),
            ("relation neighbours per record", f"{neighbours / self.records:.1f}"),
            *(
                (f"records of {kind or 'unclassified'} relations", f"{n:,}")
                for kind, n in self.kinds.items()
            ),
            *((f"lacks: {words}", f"{n:,}") for words, n in self.lacks.items()),
            *((f"note: {words}", f"{n:,}") for words, n in self.notes.items()),
            ("records skipped (skipped.jsonl)", f"{self.skipped:,}"),
        ]
        rows = [*((name.replace("_", " "), f"{n:,}") for name, n in self.totals().items()), *rows]
        columns = ("", "this file")
        if self.records == PUBLISHED["records"]:
            known = [f"{n:,}" for n in PUBLISHED.values()]
            known += [""] * (len(rows) - len(known))
            rows = [(*row, other) for row, other in zip(rows, known, strict=True)]
            columns = (*columns, "CounterFact")
        return Table(
            f"RaKE from {self.source}",
            columns,
            tuple(rows),
            "lacks: number of records without prompts of this kind.\n"
            "note: these records are kept, but the remark matters for reading their scores.",
        )

    def rows(self) -> list[dict[str, Any]]:
        """A row for each relation."""
        return [{"id": id, **vars(count)} for id, count in self.by_relation.items()]


@dataclass
class Tally:
    """Counts of the records that have been built so far."""

    relations: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # id, label, kind
    subjects: set[str] = field(default_factory=set)
    new_objects: set[str] = field(default_factory=set)
    paraphrases: set[str] = field(default_factory=set)
    neighbours: Counter[int] = field(default_factory=Counter)
    lacks: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)

    def add(self, record: Record) -> None:
        """Counts one more record."""
        rewrite = record["requested_rewrite"]
        relation = rewrite["relation"]
        self.relations[relation["id"], relation["strs"][0], relation["kind"]] += 1
        self.subjects.add(rewrite["subject"])
        self.new_objects.add(rewrite["target_new"]["str"])
        self.paraphrases.update(record["rel_prompts"])
        self.neighbours[len(record["rel_neighborhood"])] += 1
        self.lacks.update(record["lacks"])
        self.notes.update(record["notes"])

    def statistics(self, n_skipped: int, source: str, sha256: str) -> RakeStatistics:
        """The counts as a result.

        Args:
            n_skipped: number of records of the source that were skipped.
            source: name of the source.
            sha256: SHA-256 digest of rake.jsonl.
        """
        kinds: Counter[str] = Counter()
        for (_, _, kind), n_records in self.relations.items():
            kinds[kind] += n_records
        return RakeStatistics(
            records=self.relations.total(),
            subjects=len(self.subjects),
            new_objects=len(self.new_objects),
            relations=len(self.relations),
            skipped=n_skipped,
            paraphrases=len(self.paraphrases),
            kinds=dict(sorted(kinds.items())),
            by_relation={
                id: RelationCount(label, kind, n_records)
                for (id, label, kind), n_records in sorted(self.relations.items())
            },
            relation_neighbours={str(n): self.neighbours[n] for n in sorted(self.neighbours)},
            lacks=dict(self.lacks.most_common()),
            notes=dict(self.notes.most_common()),
            source=source,
            sha256=sha256,
        )
