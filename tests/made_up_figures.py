"""Every figure of `figures`, of made-up results: long names, many heads, one fact, two facts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.cluster.hierarchy import leaves_list, linkage

from figures import (
    ablation,
    anatomy,
    benchmark,
    by_depth,
    by_model,
    compare,
    curves,
    edit,
    frontier,
    heads,
    kinds,
    leverage,
    many_edits,
    neurons,
    prompts,
    questions,
    relations,
    scaling,
    score,
    sites,
    trace,
    training,
    tuning,
)
from figures.style import Source, Study
from kedit.heads import Head
from kedit.models.prompts import ROLES
from kedit.results.ablation import Ablation, AblationLine
from kedit.results.anatomy import SITES, TOKENS, Anatomy, EditorAnatomy
from kedit.results.decoding import Decoded
from kedit.results.exchanges import Exchange, Question
from kedit.results.fact_answers import CUTS
from kedit.results.frontier import Curve, FrontierPoint, Frontiers
from kedit.results.head_answers import HeadAnswers
from kedit.results.heads import AttentionShare, KindTest, Looks, RelationHeads, Sharing
from kedit.results.kinds import KindsCompared
from kedit.results.leverage import HALVES, LayerLeverage, Leverages
from kedit.results.many_edits import ORDERS, EditedModels, ManyEdits
from kedit.results.many_facts import FactEdited, FactsEdited
from kedit.results.prompts import PromptTrace
from kedit.results.rake import RelationCount
from kedit.results.relation_heads import HeadsByRelation
from kedit.results.sites import EVERYWHERE, Correlation, Estimate, SiteFindings, SiteNumbers
from kedit.results.trace_averages import TraceAverages
from kedit.results.traces import AverageEffect
from kedit.results.tracing import Counts, Tracing
from kedit.results.tuning import Try, TunedEditor, Tuning
from kedit.stats import Interval
from tests import made_up_models as several
from tests import test_build_rake as rake
from tests import test_edit_fact as edits
from tests import test_figures as effects
from tests import test_figures_compare as compared
from tests import test_figures_frontier as places
from tests import test_figures_neurons as found_neurons
from tests import test_figures_score as scores
from tests import test_train_mend
from tests.made_up_heads import fact_of, found_of

MODEL = "/somewhere/else/EleutherAI/a-model-with-a-name-of-many-words-1.4b-deduped.gguf"
MODELS = (MODEL, *(f"org/model-{n}b" for n in range(7)))
LONG = "In the third volume of the letters, of whose author nothing is known, somebody says that {}"
RELATION = "the administrative unit of which this one is a part"
ANY = "東京都庁舎 $x_1$ \n"
STUDY = Study(60, "the relation’s words replaced by others of as many tokens", model=MODEL)
FEW = {n: replace(STUDY, n_facts=n, so_far=f"{n} of 32 facts") for n in (1, 2)}
SOURCE = Source(MODEL, f"1,100 cases of {'a_file_of_cases/' * 6}rake.jsonl; seed 0")
TOTAL = Interval(*np.array([[0.34, 3, 5], [0.27, 2, 4], [0.43, 4, 6]]))
NOTHING = Interval(*[np.array(np.nan)] * 3)
HEADS = (30, 9)  # SmolLM2's: layers, heads


def interval(mean: float, width: float = 0.1) -> Interval:
    return Interval(*map(np.array, (mean, mean - width, mean + width)))


def of(n_facts: int, made: AverageEffect) -> AverageEffect:
    """The same of so many facts: one has no interval."""
    counts = tuple(n_facts if n else 0 for n in made.n_facts)
    bounds = {"low": made.low, "high": made.high}
    if n_facts == 1:
        bounds = {name: np.full_like(values, np.nan) for name, values in bounds.items()}
    return replace(made, n_facts=counts, n_tokens=counts, **bounds)


def few(n_facts: int, made: list[AverageEffect]) -> list[AverageEffect]:
    return [of(n_facts, one) for one in made]


def traced(n_facts: int) -> dict[str, Callable[[], Figure]]:
    """The figures of traces of so many facts."""
    study = FEW[n_facts]
    z = of(n_facts, effects.effect("z", (18, 4)))
    ordinary, cut = of(n_facts, effects.effect()), few(n_facts, effects.cut())
    relation = few(n_facts, effects.sites(part="relation"))
    subject = few(n_facts, effects.sites())
    return {
        "trace.averages": lambda: trace.averages(subject, study, TOTAL),
        "heads.heads": lambda: heads.heads(z, study),
        "curves.severed": lambda: curves.severed(ordinary, cut, study, TOTAL),
        "curves.sides": lambda: curves.sides(relation, subject, study, {"subject": TOTAL}),
        "relations.clusters": lambda: relations.clusters(related(study, by_relation(3, 1))),
        "relations.looks": lambda: relations.looks(related(study, looks=[look("L3H1", n_facts)])),
        "kinds.attention_shares": lambda: kinds.attention_shares(kinds_of(study, n_facts)),
        "questions.knockouts": lambda: questions.knockouts(asked(1, n_facts, 5, 1)),
    }


SHARED = Sharing("relation", interval(0.6), interval(0.36), interval(0.59), 5e-4, 11, 59)
TESTS = [KindTest("subject", "restored", 0.2, 0.03), KindTest("relation", "severed", 0.1, 0.4)]


def by_relation(n_relations: int, scale: float = 0.1, size=HEADS) -> RelationHeads:
    """Relations of ever smaller effects: the intervals of the last ones hold zero."""
    draw = np.random.default_rng(0)
    shrink = scale ** np.arange(n_relations).reshape(-1, 1, 1, 1)
    mean = shrink * draw.normal(size=(n_relations, len(effects.BUCKETS), *size)) / 10
    merges = linkage(mean.reshape(n_relations, -1), "average", "correlation")
    names = [f"{RELATION} {n}" for n in range(n_relations)]
    return RelationHeads(
        "relation", tuple(names), (7,) * n_relations, effects.BUCKETS, mean, mean - 0.01,
        mean + 0.01, np.eye(n_relations), leaves_list(merges), merges,
    )  # fmt: skip


def look(name: str, n_facts: int) -> Looks:
    share = np.full(len(ROLES), 1 / len(ROLES))
    bounds = share - 0.0123, share + 0.0123
    if n_facts == 1:
        bounds = (share * np.nan,) * 2
    seen = Interval(share, *bounds)
    return Looks(Head(*map(int, name[1:].split("H"))), ROLES, seen, seen, n_facts)


def shares(n_facts: int) -> list[AttentionShare]:
    return [
        AttentionShare(part, measure, kind, interval(0.4), n_facts + (part == "subject"), 3)
        for part in ("subject", "relation")
        for measure in ("restored", "severed")
        for kind in ("all", "symmetric", "asymmetric", "hierarchical")
    ]


def kinds_of(study: Study, n_facts: int) -> KindsCompared:
    return KindsCompared(
        study.model, study.corruption, study.metric, study.seed, max(study.counts),
        tuple(shares(n_facts)), tuple(TESTS),
    )  # fmt: skip


def related(
    study: Study, heads: RelationHeads | None = None, looks: Sequence[Looks] = ()
) -> HeadsByRelation:
    """Relations of one part, or where heads look."""
    shared = replace(SHARED, n_facts=max(study.counts))
    return HeadsByRelation(
        study.model, "words replaced by others of as many tokens", study.metric, study.seed,
        (heads,) if heads else (), (shared,) if heads else (), {}, tuple(looks),
    )  # fmt: skip


def averaged(kind: str) -> Figure:
    """One figure of both parts' averages, with all grids."""
    parts = ("relation", "subject")
    one = [[*effects.sites(part=part), *effects.cut(part=part)] for part in parts]
    z = [replace(effects.effect("z", (18, 4)), part=part) for part in parts]
    counts = Counts({part: 60 for part in parts}, {part: 9 for part in parts}, {}, {})
    total = {part: {"total effect": TOTAL} for part in parts}
    found = TraceAverages(
        MODEL, Tracing(), "prob", "own", counts, {}, total, {}, (*one[0], *one[1], *z)
    )
    return found.plot(kind)


def asked(n_heads: int, n_facts: int = 60, n_layers: int = 30, window: int = 9) -> HeadAnswers:
    """Heads of long names, all cuts, and a site decoded at every layer."""
    curve = np.linspace(0, -0.9, n_layers)
    receivers = [f"L{layer}.mlp" for layer in range(n_layers)] + ["logits"]
    own = [Head(layer, layer % 9) for layer in range(n_heads)]
    facts = [
        fact_of(own, (n + 1) * -2e-4, dict.fromkeys(CUTS, tuple(curve - n / 100)), receivers)
        for n in range(n_facts)
    ]
    sites = [
        Decoded(
            site, layer, None, interval(0.2 + layer / 50), interval(layer / 50, 0.0), TOTAL, 0.2
        )
        for site in ("resid_post", "mlp_out", "attn_out")
        for layer in range(30)
    ]
    decoded = dict.fromkeys(("subject", "wording"), tuple(sites))
    return found_of(facts, model=MODEL, window=window, decoded=decoded)


LIKELIEST = (((" Rome", 1.0), ("Rome", 7.1e-4), (" ", 1e-5), (LONG, 1e-9)), ((ANY, 0.5),))
QUESTION = Question("edited", LONG.format("E"), "Rome", "Paris")
EDITED = edits.drawn(QUESTION, (2e-5, 1), (1, 7.1e-4), (LONG, "Rome"), LIKELIEST)
STAYS = edits.drawn(
    replace(QUESTION, role="neighbour"), (2e-5, 1), (1, 7.1e-4), ("London", "London")
)


def edited(*exchanges: Exchange) -> Figure:
    return edit.before_after(edits.done([*exchanges], 12.5, 1.1, model=MODEL))


def many_edited(n: int, limit: int) -> Figure:
    facts = tuple(FactEdited(f"line {number}", (EDITED,)) for number in range(n))
    made = edits.done([EDITED], 12.5, 1.1).made
    return edit.many_facts(FactsEdited(MODEL, "rome", 0, made, facts, {}), limit)


def patched(words: list[str], size: float = 1.0) -> PromptTrace:
    """Two texts of one's own, with an effect at every head."""
    grid = effects.fact(tuple(words), *HEADS, site="z").grids["z"]
    restored = grid.corrupted.view(-1, 1, 1, 1) + size * (grid.restored - 0.5)
    texts = LONG.format("E"), (LONG.format("F"),)
    return PromptTrace(
        *texts, tuple(words), (0,), {"z": replace(grid, restored=restored)}, ANY, RELATION
    )


def ablated(kinds: Mapping[str, int]) -> Figure:
    parts = (
        "Score",
        "(S, O*): magnitude",
        "its paraphrases, success",
        "other objects of the subject",
    )
    values = {part: Interval(*map(np.array, (0.8, 0.2, 1.0))) for part in parts}
    lines = tuple(
        AblationLine(budget, kind, arm.name, values, None, None, n_cases, 0)
        for budget in ablation.TITLES
        for kind, n_cases in kinds.items()
        for arm in ablation.LOOKS
    )
    return ablation.ablation(Ablation(MODEL, "relation", 0, (), lines))


def placed(*ones: tuple[float, float], alone: bool = False) -> list[FrontierPoint]:
    made = [places.place(*one) for one in ones]
    if not alone:
        return made
    bare = [[Interval(side.mean, *NOTHING[1:]) for side in one] for one in made]
    return [FrontierPoint(*one) for one in bare]


def frontiers(names: Sequence[str]) -> Frontiers:
    """A curve of three points for each editor."""
    found = []
    for number, name in enumerate(names):
        shift = number / 40
        points = placed((0.4 + shift, 0.8), (0.6 + shift, 0.7), (0.9, 0.3 + shift))
        found.append(Curve(name, tuple(points), tuple(map(interval, (0.5, 0.65, 0.4))), (0, 1, 2)))
    return Frontiers(MODEL, "relation", "weight", (1.0, 10.0, 100.0), 100, 0, tuple(found), ())


def explained(names: Sequence[str], n: int, n_layers: int, n_heads: int = 16) -> Anatomy:
    """What carries the edits of every editor; without intervals for one edit."""
    draw = np.random.default_rng(0)

    def shares(*shape: int) -> Interval:
        mean = draw.uniform(-0.1, 1.2, shape)
        width = np.full(shape, 0.1 if n > 1 else np.nan)
        return Interval(mean, mean - width, mean + width)

    carried = {site: {token: shares(n_layers) for token in TOKENS} for site in SITES}
    made = tuple(
        EditorAnatomy(
            name, n, 2, shares(), carried, needed=shares(n_layers, n_heads),
            direct=shares(n_layers, n_heads), mlps=shares(n_layers),
            attention_before=shares(n_layers, n_heads), attention_after=shares(n_layers, n_heads),
        )
        for name in names
    )  # fmt: skip
    return Anatomy(MODEL, "relation", 0, made)


def many(names: Sequence[str], *counts: int) -> ManyEdits:
    """Every editor with these numbers of edits in a model; one edited model has no intervals."""
    draw = np.random.default_rng(0)

    def share(n: int, scale: float = 1.0) -> Interval:
        mean = draw.uniform(0, scale)
        width = np.array(0.1 * scale if n > 1 else np.nan)
        return Interval(np.array(mean), mean - width, mean + width)

    n_cases = max(counts)
    points = tuple(
        EditedModels(
            name, order, count, n_cases // count, 2,
            {way: share(n_cases) for way in ("lifts", "magnitude lifts", "all lifts")},
            gained=share(n_cases), kept=share(n_cases), first=share(n_cases), last=share(n_cases),
            perplexity=share(n_cases // count, 1e4), kl=share(n_cases // count, 7.0),
            norm=share(n_cases // count), seconds=share(n_cases // count, 60.0),
        )
        for name in names
        for order in ORDERS
        for count in counts
        if count > 1 or order == ORDERS[0]
    )  # fmt: skip
    return ManyEdits(MODEL, "relation", n_cases, 0, "the text of kedit", 27.0, points)


def tuned(names: Sequence[str], *tries: tuple[float, float]) -> Tuning:
    """Tries of every editor: the Score and the mean share of each."""
    point = FrontierPoint(interval(0.8), interval(0.6))
    ones = tuple(Try("", interval(one), TOTAL, interval(mean), point, {}, 0) for one, mean in tries)
    return Tuning(MODEL, "relation", 1100, 0, tuple(TunedEditor(name, ones) for name in names))


def written(n_layers: int, score: Estimate) -> Figure:
    made = [
        SiteNumbers(layer, half, None, where, "joint", dict.fromkeys(
            (*sites.MAPS, "mean share"), score))
        for layer in range(0, n_layers, 2)
        for half in neurons.HALVES
        for where in sites.POSITIONS
    ]  # fmt: skip
    rho = Estimate(-0.29, -0.42, -0.02, 8)
    told = [Correlation(name, "mean share", EVERYWHERE, rho) for name in sites.AGAINST]
    return sites.sites(SiteFindings(
        MODEL, 0, score.n, n_best=5, skipped={}, totals={}, sites=tuple(made),
        correlations=tuple(told), controls=(), n_layers=n_layers,
    ))  # fmt: skip


def records(n: int) -> dict[str, RelationCount]:
    kinds = list(benchmark.KIND_COLOURS)
    return {
        f"P{i}": RelationCount(f"{RELATION} {i}", kinds[i % 4], 10**i % 99991) for i in range(n)
    }


def trained(n: int) -> Figure:
    return training.losses(test_train_mend.made_up(n, MODEL))


EDITORS = [*compared.MANY, "joint:layers=(10, 11):weight=1000:training.steps=20"]
scored = partial(scores.scores_of, model=MODEL)


def relation_neurons(n_relations: int, n_layers: int, n_heads: int, **fields: Any):
    found = found_neurons.counts(n_relations, n_layers, n_heads)
    made = found_neurons.relations_of(found, [RELATION])
    return found_neurons.found_of(model=MODEL, relations=made, **fields)


ALONE = relation_neurons(1, 4, 4, halves={"mlp": found_neurons.by_layer(0, 4)})
LONG_NAMES = {f"{RELATION} {n}": scores.made_up(n, n_cases=n + 1) for n in range(34)}

# by function, then by what is special about it
FIGURES: dict[str, dict[str, Callable[[], Figure]]] = {
    "ablation.ablation": {
        "kinds": lambda: ablated({"all": 16, "asymmetric": 14, "hierarchical": 1}),
        "n = 1": lambda: ablated({"all": 1}),
    },
    "anatomy.carried": {
        "many": lambda: anatomy.carried(explained(EDITORS, 200, 48)),
        "n = 1": lambda: anatomy.carried(explained(["rome"], 1, 4)),
        "no heads": lambda: anatomy.carried(explained(["rome"], 2, 1, n_heads=0)),
    },
    "many_edits.many_edits": {
        "many": lambda: many_edits.many_edits(many(EDITORS, 1, 10, 100, 1000, 10000)),
        "n = 1": lambda: many_edits.many_edits(many(["rome"], 1)),
    },
    "benchmark.by_relation": {
        "many": lambda: benchmark.by_relation(rake.counts(records(34), source=MODEL)),
        "one": lambda: benchmark.by_relation(rake.counts({"": RelationCount(ANY, "", 1)})),
    },
    "by_depth.effects": {
        "many": lambda: by_depth.effects(
            [several.traced(model, 18 + 2 * n) for n, model in enumerate(MODELS)]
        ),
        "n = 1": lambda: by_depth.effects([several.traced(MODEL, 30, n_facts=1)]),
        "nothing": lambda: by_depth.effects([several.traced(MODEL, 4, empty=effects.BUCKETS)]),
    },
    "by_depth.knockouts": {
        "many": lambda: by_depth.knockouts(
            [several.asked(model, 18 + 2 * n) for n, model in enumerate(MODELS)]
        ),
        "n = 1": lambda: by_depth.knockouts([several.asked(MODEL, 1, n_facts=1)]),
        "none": lambda: by_depth.knockouts([several.asked(MODEL, 18, cuts=())]),
    },
    "by_depth.write_sites": {
        "many": lambda: by_depth.write_sites(
            [several.written(model, 18 + 2 * n) for n, model in enumerate(MODELS)]
        ),
        "one place": lambda: by_depth.write_sites([several.written(MODEL, 3, ["object_last"])]),
    },
    "by_model.shares": {
        "many": lambda: by_model.shares([several.kinds_of(model) for model in MODELS]),
        "one side": lambda: by_model.shares([several.kinds_of(MODEL, ["relation"])]),
    },
    "by_model.editors": {
        "many": lambda: by_model.editors([several.compared(model, EDITORS) for model in MODELS]),
        "one": lambda: by_model.editors([several.compared(MODEL, ["rome"], ["relation"])]),
        "none": lambda: by_model.editors([several.compared(MODEL, ["rome"], [])]),
    },
    "compare.comparison": {
        "many": lambda: compare.comparison(compared.comparison_of(EDITORS, MODEL)),
        "n = 1": lambda: compare.comparison(compared.comparison_of(["rome"], MODEL, n_cases=1)),
    },
    "frontier.of_comparison": {
        "many": lambda: frontier.of_comparison(compared.comparison_of(EDITORS, MODEL)),
    },
    "compare.compared": {
        "many": lambda: compare.compared(compared.made_up_arms(EDITORS), SOURCE, compared.FAILED),
        "five": lambda: compare.compared(compared.made_up_arms(list("abcde")), SOURCE, {}),
        "n = 1": lambda: compare.compared(compared.made_up_arms(n_cases=1), SOURCE, {}),
        "one side": lambda: compare.compared(compared.ONE_SIDED, SOURCE, {}),
        "nothing": lambda: compare.compared(
            {"entity": {"rome": []}}, SOURCE, {("entity", "rome"): 100}
        ),
    },
    "curves.severed": {
        "48 layers": lambda: curves.severed(
            effects.effect(shape=(48,)), effects.cut(shape=(48,)), STUDY, TOTAL
        ),
        "nothing": lambda: curves.severed(
            effects.effect(empty=effects.BUCKETS), effects.cut(empty=effects.BUCKETS), STUDY
        ),
    },
    "curves.sides": {
        "48 layers": lambda: curves.sides(
            effects.sites(part="relation", shape=(48,)), effects.sites(shape=(48,)),
            replace(STUDY, n_facts=(30, 31)), {"relation": TOTAL, "subject": TOTAL},
        ),
        "nothing": lambda: curves.sides(
            effects.sites(part="relation", empty=effects.BUCKETS),
            effects.sites(empty=effects.BUCKETS), STUDY,
        ),
    },
    "edit.before_after": {
        "long": lambda: edited(EDITED, *9 * [EDITED, STAYS]),
        "n = 1": lambda: edited(EDITED),
        "short": lambda: edited(
            edits.drawn(replace(QUESTION, prompt="E is"), (2e-5, 1), (1, 7.1e-4), ("", ANY))
        ),
    },
    "edit.many_facts": {
        "long": lambda: many_edited(50, 12),
        "n = 1": lambda: many_edited(1, 40),
    },
    "frontier.frontier": {
        "many": lambda: frontier.frontier(
            {side: {one: placed((0.9 - n / 30, 0.7 + n / 40)) for n, one in enumerate(EDITORS)}
             for side in ("entity", "relation")}, SOURCE,
        ),
        "one place": lambda: frontier.frontier(
            {"relation": dict.fromkeys(("rome", "joint", "w_out"), placed((1.0, 1.0)))}, SOURCE
        ),
        "n = 1": lambda: frontier.frontier(
            {"relation": {"rome": placed((0.9, -0.5), alone=True)}, "entity": {}}, SOURCE
        ),
        "settings": lambda: frontier.frontier(
            {"entity": {"joint": placed((0.74, 0.92), (0.3, 0.2), (0.86, 0.75))}}, SOURCE
        ),
    },
    "heads.heads": {
        "many": lambda: heads.heads(effects.effect("z", HEADS, empty=()), STUDY),
        "side by side": lambda: heads.heads(side_by_side(), STUDY),
        "48 layers": lambda: heads.heads(effects.effect("z", (48, 25)), STUDY),
        "no effect": lambda: heads.heads(effects.effect("z", (4, 4), scale=0.0), STUDY),
        "nothing": lambda: heads.heads(effects.effect("z", (4, 4), empty=effects.BUCKETS), STUDY),
    },
    "kinds.attention_shares": {"many": lambda: kinds.attention_shares(kinds_of(STUDY, 99))},
    "neurons.heads": {
        "many": lambda: neurons.heads(relation_neurons(12, *HEADS)),
        "n = 1": lambda: neurons.heads(ALONE),
        "48 layers": lambda: neurons.heads(relation_neurons(9, 48, 25)),
    },
    "neurons.layers": {
        "many": lambda: neurons.layers(relation_neurons(10, 1, 1, halves=found_neurons.both(48))),
        "n = 1": lambda: neurons.layers(ALONE),
    },
    "neurons.relations": {
        "many": lambda: neurons.relations(relation_neurons(12, *HEADS)),
        "n = 1": lambda: neurons.relations(ALONE),
    },
    "questions.answers": {
        "many": lambda: questions.answers(asked(24)),
        "n = 1": lambda: questions.answers(asked(24, 1)),
    },
    "prompts.head_maps": {
        "many heads": lambda: prompts.head_maps(patched([LONG, "a", ANY, " is", "b"]), "", MODEL),
        "one token": lambda: prompts.head_maps(patched(["a"]), "logit_diff", MODEL),
        "nothing": lambda: prompts.head_maps(patched(["a", "b"], 0.0), "", MODEL),
    },
    "questions.decoding": {"many": lambda: questions.decoding(asked(1))},
    "questions.knockouts": {
        "many": lambda: questions.knockouts(asked(1, n_layers=48)),
        "none": lambda: questions.knockouts(found_of([fact_of([], knockout={})], model=MODEL)),
    },
    "questions.paths": {
        "many": lambda: questions.paths(asked(24)),
        "n = 1": lambda: questions.paths(found_of([fact_of([Head(0, 1)], 0.0)], model=MODEL)),
    },
    "relations.clusters": {
        "many": lambda: relations.clusters(related(STUDY, by_relation(12, 0.7))),
        "all may be chance": lambda: relations.clusters(related(STUDY, by_relation(4, 1e-9))),
    },
    "relations.looks": {
        "many": lambda: relations.looks(
            related(STUDY, looks=[look(f"L{n}H{n % 9}", 60) for n in range(12)])
        )
    },
    "scaling.scaled": {
        "many": lambda: scaling.scaled(relation_neurons(10, 4, 4)),
        "n = 1": lambda: scaling.scaled(replace(ALONE, changes=ALONE.changes[:2])),
        "nothing": lambda: scaling.scaled(relation_neurons(10, 4, 4, changes=())),
    },
    "scaling.sharing": {
        "many": lambda: scaling.sharing(
            relation_neurons(10, 4, 4, sharing=found_neurons.shared(1000.0))
        ),
        "n = 1": lambda: scaling.sharing(replace(ALONE, sharing=found_neurons.shared(0.001))),
    },
    "score.by_relation": {
        "34": lambda: score.by_relation(
            scored(each=LONG_NAMES, kinds=dict.fromkeys(LONG_NAMES, "symmetric"))
        ),
        "real names": lambda: score.by_relation(scored(each=scores.of_each())),
        "any": lambda: score.by_relation(
            scored(each={ANY: scores.SINGLE, "": []}, kinds={})
        ),
        "nothing": lambda: score.by_relation(scored()),
    },
    "score.score": {"by": lambda: score.score(scored(each=scores.of_each()), "relation")},
    "score.start": {
        "whole file": lambda: score.start(scored(scores.WHOLE_FILE)),
        "n = 1": lambda: score.start(scored(scores.SINGLE)),
        "one side": lambda: score.start(scored(scores.entity_only(scores.made_up(0)))),
        "nothing": lambda: score.start(scored()),
    },
    "sites.sites": {
        "many": lambda: written(48, Estimate(0.6, 0.5, 0.9, 8)),
        "n = 1": lambda: written(3, Estimate(0.6, np.nan, np.nan, 1)),
        "unknown": lambda: written(18, Estimate(0.0, 0.0, 0.9, 2)),
    },
    "trace.averages": {
        "48 layers": lambda: trace.averages(effects.sites(shape=(48,), empty=()), STUDY, TOTAL),
        "long bucket": lambda: trace.averages(long_bucket(), STUDY),
        "nothing": lambda: trace.averages(effects.sites(empty=effects.BUCKETS), STUDY),
    },
    "frontier.of_frontiers": {
        "many": lambda: frontier.of_frontiers(frontiers(EDITORS)),
        "one": lambda: frontier.of_frontiers(frontiers(["joint"])),
    },
    "frontier.of_tuning": {
        "many": lambda: frontier.of_tuning(tuned(EDITORS, (0.86, 0.9), (0.85, 0.89))),
    },
    "leverage.leverage": {
        "48 layers": lambda: leverage.leverage(leverages(range(48), 60)),
        "one layer, n = 1": lambda: leverage.leverage(leverages([17], 1)),
    },
    "traced.effects": {
        kind: partial(averaged, kind) for kind in ("maps", "heads", "severed", "sides")
    },
    "trace.heatmap": {
        "any tokens": lambda: trace.heatmap(
            effects.fact((*effects.WORDS, ANY, LONG, "\x00")), "resid_post", model=MODEL
        ),
        "heads": lambda: trace.heatmap(effects.fact(site="z"), "z", "logit_diff", MODEL),
        "one token": lambda: trace.heatmap(effects.fact(positions=(2,)), "resid_post", model=MODEL),
    },
    "training.losses": {"long": lambda: trained(12), "one": lambda: trained(1)},
    "tuning.tuning": {
        "many": lambda: tuning.tuning(
            tuned(EDITORS, (0.86, 0.9), (0.0, 0.1), (0.85, 0.89))
        ),
        "one": lambda: tuning.tuning(tuned(["rome"], (1.0, 1.0))),
    },
}  # fmt: skip
for n_facts in FEW:
    for function, drawn in traced(n_facts).items():
        FIGURES[function][f"n = {n_facts}"] = drawn


def leverages(layers: Sequence[int], n_cases: int) -> Leverages:
    nothing = np.nan if n_cases == 1 else 0
    made = [
        LayerLeverage(
            layer,
            {
                half: Interval(*(np.array(10**rank + layer + gap) for gap in (0, 0.5, 2)))
                for rank, half in enumerate(HALVES)
            },
            Interval(np.array(0.4), np.array(0.3 + nothing), np.array(0.5 + nothing)),
            tuple(0.1 * head / 16 for head in range(16)),
        )
        for layer in layers
    ]
    return Leverages(MODEL, "object_last", n_cases, LONG, 0, 0.33, tuple(made))


def side_by_side() -> AverageEffect:
    """The five strongest heads touch each other, in a corner."""
    made = effects.effect("z", HEADS, scale=0.01)
    for rank, place in enumerate(((0, 0), (0, 1), (1, 0), (1, 1), (0, 2))):
        made.mean[0, 0][place] = 1 - rank / 10
    return made


def long_bucket() -> list[AverageEffect]:
    buckets = tuple(f"{name}, and none of the others" for name in effects.BUCKETS)
    return [replace(one, buckets=buckets) for one in effects.sites()]
