"""Do symmetric, asymmetric and hierarchical relations differ in attention's share of recall?"""

from pathlib import Path
from typing import TYPE_CHECKING

from experiments._enough import require_kinds_to_compare
from experiments._run import RunFolder, command, console
from experiments._tables import listed, plain_table, two_digits, write_rows
from experiments._trace import Config, corruption_in_words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table

    from kedit.results.heads import AttentionShare, KindTest
    from kedit.results.traces import FactTrace


SITES = ["resid_post", "mlp_out", "attn_out", "severed"]


def run(config: Config) -> Path:
    """Traces MLP, attention and severed sweeps; shares by kind; what is there is not done again."""
    from experiments._report import traced

    return traced("relation_kinds", config, finish, require_kinds_to_compare)


def finish(config: Config, folder: RunFolder, traces: "Mapping[str, Sequence[FactTrace]]") -> None:
    """Shares by kind and their tests: kinds.json, kinds.csv, the figure and the table."""
    from experiments._facts import usable_facts
    from figures.kinds import attention_shares
    from figures.style import Study, save
    from probes.kinds import MEASURES, shares

    facts, _ = usable_facts(config.facts)
    kinds = {fact.relation.id: fact.relation.kind for fact in facts}
    found, tests = [], []
    for done in traces.values():
        for measure in MEASURES if done else ():
            own, test = shares(done, kinds, measure, config.metric, seed=config.seed)
            found += own
            tests.append(test)
    rows = [listed(vars(one) | one.share.named("share")) for one in found]
    tested = [listed(vars(test)) for test in tests]
    folder.write_json("kinds.json", {"shares": rows, "tests": tested})
    write_rows(folder.path / "kinds.csv", rows)
    n_facts = len({trace.prompt for done in traces.values() for trace in done})
    study = Study(n_facts, corruption_in_words(config), config.metric, config.seed, config.model)
    save(attention_shares(found, tests, study), folder.path, "kinds")
    console().print(_table(found, tests))


def _table(found: "Sequence[AttentionShare]", tests: "Sequence[KindTest]") -> "Table":
    table = plain_table(
        "Attention's share of the indirect effect, by kind of relation",
        "95 % bootstrap intervals over relations; p: kinds permuted among relations.",
        ("corrupted", "measure", "kind", "relations", "facts", "share"),
    )
    for one in found:
        counts = (str(one.n_relations), str(one.n_facts))
        table.add_row(one.part, one.measure, one.kind, *counts, two_digits(one.share))
    for test in tests:
        table.add_row(
            test.part, test.measure, "differ by", "", "", f"{test.spread:.2f}, p = {test.p:.3g}"
        )
    return table


if __name__ == "__main__":
    command(Config, run, default=Config(sites=SITES, limit=108, window=1))
