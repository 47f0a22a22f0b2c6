"""Tests whether kinds of relations differ in how much attention contributes to recall.

The kinds are symmetric, asymmetric and hierarchical relations.
"""

from pathlib import Path
from typing import Any

from experiments._command import command
from experiments._printing import say, show
from experiments._trace import Config
from experiments._traced import traced
from kedit.data.comparable import require_kinds_to_compare

SITES = ["resid_post", "mlp_out", "attn_out", "severed"]


def run(config: Config) -> Path:
    """Traces facts with modules restored and severed, and compares attention's share by kind."""
    from figures.kinds import attention_shares
    from figures.style import save
    from probes.kinds import measures_of
    from probes.studies.kinds import compare_kinds

    measures_of(config.sites)  # now, and not after the tracing

    def compared(model: Any, traces: Any, facts: Any, journal: Any) -> Any:
        kinds = {fact.relation.id: fact.relation.kind for fact in facts}
        return compare_kinds(traces, kinds, config.metric)

    with traced(config, "relation_kinds", require_kinds_to_compare, compared) as done:
        done.found.save(done.folder)
        save(attention_shares(done.found), done.folder.path, "kinds")
        show(done.found.table())
        say(f"Everything is in {done.folder.path}")
    return done.folder.path


if __name__ == "__main__":
    command(Config, run, default=Config(sites=SITES, limit=108, window=1))
