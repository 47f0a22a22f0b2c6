"""Study: do symmetric, asymmetric and hierarchical relations differ in attention's share of recall?

Computes, for traced facts of several relations, how much of the effects is attention's and how much
the MLPs' (`probes.kinds`). If a kind of relation is recalled mainly through attention, editing only
MLPs, as ROME does, may suit it less.
"""

from collections.abc import Mapping

from kedit.results.kinds import KindsCompared
from kedit.results.traced import Traces
from probes.kinds import measures_of, shares


def compare_kinds(traces: Traces, kinds: Mapping[str, str], metric: str = "prob") -> KindsCompared:
    """Computes attention's share of the effects by kind of relation, and tests if the kinds differ.

    Args:
        traces: traces in windows of 1, with the sites of at least one measure (`probes.kinds`):
            attn_out and mlp_out, or resid_post and "severed".
        kinds: each relation's kind (Relation.kind), by relation id.
        metric: metric of the effects.

    Raises:
        InputError: the traces have the sites of no measure.
    """
    measures = measures_of(traces.settings.sites)
    seed, averaged = traces.settings.seed, traces.averaged
    found, tests = [], []
    for part_traces in averaged.values():
        for measure in measures if part_traces else ():
            by_kind, test = shares(part_traces, kinds, measure, metric, seed=seed)
            found += by_kind
            tests.append(test)
    return KindsCompared(
        model=traces.model,
        corruption=traces.settings.corruption,
        metric=metric,
        seed=seed,
        n_facts=len({trace.prompt for traced in averaged.values() for trace in traced}),
        shares=tuple(found),
        tests=tuple(tests),
    )
