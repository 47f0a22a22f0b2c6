"""Applies all probes of heads to one fact.

No single probe says what a head does. A head may write the answer directly (`probes.direct`), be
necessary (`probes.ablation`), act through later components (`probes.path_patching`), or promote
the object when it reads the subject (`probes.ov_circuit`). This module collects these answers, and
an attention knockout of the whole model (`probes.knockout`), for the study `probes.studies.heads`.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from transformer_lens import HookedTransformer

from kedit.data.choose import drawn_for
from kedit.facts import Fact
from kedit.forward.runs import Run
from kedit.heads import Head
from kedit.models.prompts import Prompt
from kedit.models.sites import is_parallel
from kedit.results.fact_answers import CUTS, Ablated, FactAnswers, HeadAnswer, MetricScores
from probes.ablation import StandIn, ablate, mean_z
from probes.direct import direct_effects
from probes.knockout import Cut, knockout
from probes.ov_circuit import ov_writes
from probes.path_patching import Receiver, path_patch
from probes.studies.head_choice import FactRuns


def fact_answers(
    model: HookedTransformer,
    fact: Fact,
    runs: FactRuns,
    heads: Sequence[Head],
    references: Sequence[Prompt],
    window: int,
) -> FactAnswers:
    """Measures what each of `heads` does for `fact`.

    Args:
        runs: the fact's clean and corrupted run.
        references: prompts of other facts; in an ablation, a head's output is replaced by its mean
            over them.
        window: number of layers in which attention edges are cut together.
    """
    direct = direct_effects(model, runs.clean, runs.question)
    *alone, together, random = _ablated(model, fact, runs, heads, references)
    answers = []
    for head, ablated in zip(heads, alone, strict=True):
        written = ov_writes(model, runs.prompt, runs.clean, head)
        answers.append(
            HeadAnswer(
                head=head,
                direct=float(direct.heads[head]),
                ov_rank=written.answer_rank,
                ov_writes=tuple(promoted.token for promoted in written.top),
                ablated=ablated,
                paths=_paths(model, runs, head, heads),
            )
        )
    return FactAnswers(
        prompt=fact.prompt,
        relation=fact.relation.name,
        clean=MetricScores(*runs.question.scores(model, runs.clean.last)[:, 0].tolist()),
        heads=tuple(answers),
        together=together,
        random=random,
        knockout=_knocked_out(model, runs, window),
    )


def _ablated(
    model: HookedTransformer,
    fact: Fact,
    runs: FactRuns,
    heads: Sequence[Head],
    references: Sequence[Prompt],
) -> Iterable[Ablated]:
    """Score changes with each head ablated, with all of them, and with as many random others."""
    all_heads = {
        Head(layer, head)
        for layer in range(model.cfg.n_layers)
        for head in range(model.cfg.n_heads)
    }
    others = sorted(all_heads - set(heads))
    random = drawn_for(fact).sample(others, min(len(heads), len(others)))
    sets = [*(frozenset({head}) for head in heads), frozenset(heads), frozenset(random)]

    def changes(stand_in: StandIn) -> list[MetricScores]:
        with_none = [frozenset[Head](), *sets]  # the unchanged model first
        scores = ablate(model, runs.prompt, runs.question, with_none, stand_in)
        return [MetricScores(*values) for values in (scores[:, 1:] - scores[:, :1]).T.tolist()]

    mean = changes(mean_z(model, references, runs.prompt))
    resample = changes(torch.stack(runs.corrupted.z)[:, 0])
    return map(Ablated, mean, resample)


def _knocked_out(
    model: HookedTransformer, runs: FactRuns, window: int
) -> Mapping[str, tuple[float, ...]]:
    """The relative change of the answer's probability by layer, for each cut.

    A cut is left out if the prompt has no token of its roles.
    """
    found, roles = {}, runs.prompt.roles
    for name, edges in CUTS.items():
        keys = tuple(role for role in edges.roles if role in roles)
        if keys and edges.reader in roles:
            curve = knockout(model, runs.prompt, runs.question, Cut(edges.reader, keys), window)
            found[name] = tuple(curve.relative_change.tolist())
    return found


def _paths(
    model: HookedTransformer, runs: FactRuns, sender: Head, heads: Sequence[Head]
) -> Mapping[str, MetricScores]:
    """Indirect effects of `sender` through each receiver alone."""
    receivers = _receivers(model, sender, heads)
    clean, corrupted = Run(runs.prompt.tokens[None]), runs.corruption.run
    effects = path_patch(model, clean, corrupted, sender, receivers, runs.question)
    changes = (effects.restored - effects.corrupted[:, None]).T.tolist()
    return {
        str(receiver): MetricScores(*values)
        for receiver, values in zip(receivers, changes, strict=True)
    }


def _receivers(model: HookedTransformer, sender: Head, heads: Sequence[Head]) -> list[Receiver]:
    """Lists the receivers after `sender`: logits, MLPs, and the inputs q, k and v of `heads`.

    Heads of one group share k and v, which are listed once.
    """
    cfg = model.cfg
    group = cfg.n_heads // (cfg.n_key_value_heads or cfg.n_heads)
    first = sender.layer + is_parallel(model.blocks[sender.layer])
    later = [head for head in heads if head.layer > sender.layer]
    mlps = () if cfg.attn_only else range(first, cfg.n_layers)
    found = [Receiver("logits"), *(Receiver("mlp", layer) for layer in mlps)]
    found += [Receiver("q", layer, head) for layer, head in later]
    kv_heads = dict.fromkeys((layer, head // group) for layer, head in later)
    return found + [Receiver(kind, *kv_head) for kv_head in kv_heads for kind in ("k", "v")]
