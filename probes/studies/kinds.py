"""Do symmetric, asymmetric and hierarchical relations differ in attention's share of recall?"""

from collections.abc import Mapping

from kedit.results.kinds import KindsCompared
from kedit.results.traced import Traces
from probes.kinds import MEASURES, shares


def compare_kinds(traces: Traces, kinds: Mapping[str, str], metric: str = "prob") -> KindsCompared:
    """Attention's share of the effects of traces, by kind of relation, and whether kinds differ.

    Args:
        traces: with the sites resid_post, mlp_out, attn_out and "severed", in windows of 1.
        kinds: of relations, by id: Relation.kind.
        metric: of the effects.

    Raises:
        InputError: the traces lack a sweep.
    """
    seed, averaged = traces.settings.seed, traces.averaged
    found, tests = [], []
    for done in averaged.values():
        for measure in MEASURES if done else ():
            own, test = shares(done, kinds, measure, metric, seed=seed)
            found += own
            tests.append(test)
    return KindsCompared(
        model=traces.model,
        corruption=traces.settings.corruption,
        metric=metric,
        seed=seed,
        n_facts=len({trace.prompt for done in averaged.values() for trace in done}),
        shares=tuple(found),
        tests=tuple(tests),
    )
