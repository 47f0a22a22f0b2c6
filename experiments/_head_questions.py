"""All that is asked of heads, fact by fact into a run folder."""

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from experiments._facts import drawn_for, fact_key, readable
from experiments._head_choice import choose_heads, guarded, known, runs
from experiments._run import RunFolder, console
from kedit.progress import progress

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

    from experiments.ask_heads import Config
    from kedit.facts import Fact
    from kedit.forward.runs import States
    from kedit.heads import Head
    from kedit.models.prompts import Prompt
    from probes.decoding import Decoded
    from probes.patch import Question

REFERENCES = 16  # prompts that a head's mean output is taken over
TOGETHER, RANDOM = "together", "random"
CUTS = {
    "last to subject": ("last", "subject"),
    "last to relation": ("last", "relation"),
    "last to the rest": ("last", ("bos", "rest")),
    "relation to subject": ("relation", "subject"),
}


class Asked(NamedTuple):
    """What was found out.

    Args:
        heads: that were asked.
        answers: a record a fact.
        decoded: where relations can be decoded, by what was held out; of `n_decoded` facts.
    """

    heads: "list[Head]"
    answers: list[Mapping[str, Any]]
    decoded: "dict[str, list[Decoded]]"
    n_decoded: int


def ask_heads(
    config: "Config",
    folder: RunFolder,
    pool: "Sequence[Fact]",
    order: "Sequence[Sequence[Fact]]",
) -> Asked:
    """Chooses heads on some facts, asks them on others.

    Args:
        pool: all facts, whose words replace others.
        order: those that are used, in this order, each in all its wordings.

    Raises:
        InputError: no fact could be used, or a head that the model does not have.
    """
    model = folder.load(config)
    facts = known(model, order, pool)
    answers = []
    with progress("facts") as bars:
        bar = bars.add_task("choosing heads", total=config.choose)
        heads, used = choose_heads(config, folder, model, facts, pool, partial(bars.advance, bar))
        bar = bars.add_task("asking", total=config.limit)
        references = [prompt for _, prompt in used[:REFERENCES]]
        for fact in facts:
            key = f"asked {fact_key(fact)}"
            if key not in folder.records:
                folder.add(key, guarded(_asked, config, model, fact, pool, heads, references))
            if "skipped" not in folder.records[key]:
                answers.append(folder.records[key])
                bars.advance(bar)
            if len(answers) == config.limit:
                break
    worded = itertools.chain.from_iterable(order)
    every = list(itertools.islice(readable(model, worded), config.decoded))
    with console().status(f"decoding relations of {len(every)} facts"):
        decoded = _decoded(model, every, config.seed)
    return Asked(heads, answers, decoded, len(every))


def _asked(
    config: "Config",
    model: "HookedTransformer",
    fact: "Fact",
    pool: "Sequence[Fact]",
    heads: "Sequence[Head]",
    references: "Sequence[Prompt]",
) -> dict[str, Any]:
    """All that is asked of one fact."""
    from kedit.forward.metrics import METRICS, answer_scores
    from probes.direct import direct_effects
    from probes.ov_circuit import ov_writes

    prompt, states, question, corruption = runs(config, model, fact, pool)
    clean = answer_scores(model, states[0].last, question.answer, question.foil)[:, 0]
    direct = direct_effects(model, states[0], question)
    written = [ov_writes(model, prompt, states[0], head) for head in heads]
    return {
        "clean": dict(zip(METRICS, clean.tolist(), strict=True)),
        "heads": {
            str(head): {
                "direct": float(direct.heads[head]),
                "ov rank": writes.answer_rank,
                "ov writes": [one.token for one in writes.top],
            }
            for head, writes in zip(heads, written, strict=True)
        },
        "ablated": _ablated(model, fact, prompt, states[1], question, heads, references),
        "knockout": _knocked_out(model, prompt, question, config.window),
        "paths": _paths(model, prompt, corruption.run, question, heads),
    }


def _ablated(
    model: "HookedTransformer",
    fact: "Fact",
    prompt: "Prompt",
    corrupted: "States",
    question: "Question",
    heads: "Sequence[Head]",
    references: "Sequence[Prompt]",
) -> dict[str, dict[str, dict[str, float]]]:
    """Change of each score, by stand-in and by head."""
    import torch

    from kedit.forward.metrics import METRICS
    from kedit.heads import Head
    from probes.ablation import ablate, mean_z

    every = {Head(layer, head) for layer in range(model.cfg.n_layers)
             for head in range(model.cfg.n_heads)}  # fmt: skip
    others = sorted(every - set(heads))
    drawn = drawn_for(fact).sample(others, min(len(heads), len(others)))
    sets = {str(head): frozenset({head}) for head in heads}
    sets |= {TOGETHER: frozenset(heads), RANDOM: frozenset(drawn)}
    stand_ins = {
        "mean": mean_z(model, references, prompt),
        "resample": torch.stack(corrupted.z)[:, 0],
    }
    found = {}
    for name, stand_in in stand_ins.items():
        scores = ablate(model, prompt, question, [frozenset(), *sets.values()], stand_in)
        change = (scores[:, 1:] - scores[:, :1]).T.tolist()
        found[name] = {
            head: dict(zip(METRICS, values, strict=True))
            for head, values in zip(sets, change, strict=True)
        }
    return found


def _knocked_out(
    model: "HookedTransformer", prompt: "Prompt", question: "Question", window: int
) -> dict[str, list[float]]:
    """The answer's relative change by layer, for the cuts that this prompt has tokens for."""
    from probes.knockout import Cut, knockout

    found = {}
    for name, (queries, keys) in CUTS.items():
        there = tuple(key for key in ((keys,) if isinstance(keys, str) else keys)
                      if key in prompt.roles)  # fmt: skip
        if there and queries in prompt.roles:
            curve = knockout(model, prompt, question, Cut(queries, there), window)
            found[name] = curve.relative_change.tolist()
    return found


def _paths(
    model: "HookedTransformer",
    prompt: "Prompt",
    corrupted: Any,
    question: "Question",
    heads: "Sequence[Head]",
) -> dict[str, dict[str, list[float]]]:
    """Indirect effects by sender and receiver, by all metrics."""
    from kedit.forward.runs import Run
    from probes.path_patching import path_patch

    found = {}
    for sender in heads:
        receivers = _receivers(model, sender, heads)
        effects = path_patch(
            model, Run(prompt.tokens[None]), corrupted, sender, receivers, question
        )
        change = (effects.restored - effects.corrupted[:, None]).T.tolist()
        found[str(sender)] = dict(zip(map(str, receivers), change, strict=True))
    return found


def _receivers(model: "HookedTransformer", sender: "Head", heads: "Sequence[Head]"):
    """The logits, later heads' inputs (k and v: of the group they share), and later MLPs."""
    from kedit.models.sites import is_parallel
    from probes.path_patching import Receiver

    cfg = model.cfg
    group = cfg.n_heads // (cfg.n_key_value_heads or cfg.n_heads)
    first = sender.layer + is_parallel(model.blocks[sender.layer])
    later = [head for head in heads if head.layer > sender.layer]
    mlps = () if cfg.attn_only else range(first, cfg.n_layers)
    found = [Receiver("logits"), *(Receiver("mlp", layer) for layer in mlps)]
    found += [Receiver("q", layer, head) for layer, head in later]
    shared = dict.fromkeys((layer, head // group) for layer, head in later)
    return found + [Receiver(kind, *place) for place in shared for kind in ("k", "v")]


def _decoded(
    model: "HookedTransformer", facts: "Sequence[Fact]", seed: int
) -> "dict[str, list[Decoded]]":
    """Relations, decoded at the last token, by what the probe has not seen: subjects, wordings."""
    from kedit.errors import InputError
    from probes.decoding import Split, decode, read_features

    if not facts:
        return {}
    features, found = read_features(model, facts), {}
    for split in get_args(Split):
        # a relation that is there in one wording only leaves none to hold out
        with contextlib.suppress(InputError):
            found[split] = decode(features, split, seed=seed)
    return found
