"""Searching relations for their neurons, and testing these on facts that were not searched."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from experiments._facts import fact_key, spread_out
from experiments._run import RunFolder
from experiments._trace import UNUSABLE, WRONG
from kedit.progress import progress

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

    from experiments.find_neurons import Config
    from kedit.editing.neurons import Neuron
    from kedit.editing.write_sites import Half
    from kedit.facts import Fact
    from probes.neurons import FactNeurons
    from probes.scaling import Effect

HALVES: "tuple[Half, ...]" = ("mlp", "attn")
FEWEST = 4  # facts a relation: two are searched for what two are tested with
WHOSE = OWN, OTHER, LOUDEST, RANDOM = "own relation’s", "other relations’", "loudest", "random"
Item = TypeVar("Item")


class Searched(NamedTuple):
    """A fact in the wordings that were asked, and what was found."""

    worded: "Sequence[Fact]"
    found: "FactNeurons"


def settled(config: "Config") -> "Config":
    """`config` with its automatic choices filled in.

    Raises:
        InputError: too few facts to search some and test others.
    """
    from kedit.errors import InputError

    if 0 < config.limit < FEWEST:
        raise InputError(f"--limit {config.limit}: at least {FEWEST} facts a relation are wanted")
    facts = "toy" if config.model == "toy" else "builtin"
    return replace(config, facts=facts if config.facts == "auto" else config.facts)


def searched_halves(config: "Config") -> "list[Half]":
    """In their order, whatever the option's."""
    wanted: set[str] = {*config.halves}
    return [half for half in HALVES if wanted.intersection((half,))]


def search_relations(
    config: "Config", folder: RunFolder, model: "HookedTransformer", facts: "Sequence[Fact]"
) -> "tuple[dict[str, list[Searched]], list[str]]":
    """Facts of `config.relations` relations, by relation id; what the folder holds is kept.

    Relations and facts are drawn by the seed. A fact that the model does not answer right in as
    many wordings as are wanted is recorded with what it says. The second list has the relations
    that were left out, since they had too few others.

    Raises:
        InputError: the model knows enough facts of no relation.
    """
    from kedit.errors import InputError

    by_relation: dict[str, list[list[Fact]]] = {}
    for worded in spread_out(facts, config.seed):
        by_relation.setdefault(worded[0].relation.id, []).append(worded)
    wanted = min(config.relations or len(by_relation), len(by_relation))
    done: dict[str, list[Searched]] = {}
    left_out: list[str] = []
    with progress("relations") as bars:
        bar = bars.add_task("", total=wanted)
        for relation, every in by_relation.items():
            if len(done) == wanted:
                break
            name = every[0][0].relation.name[:24]
            bars.update(bar, description=f"asking: {name}")
            limit = config.limit or len(every)
            known = list(_known(config, folder, model, every, facts, limit))
            if len(known) < FEWEST:
                left_out.append(relation)
                continue
            done[relation] = []
            for n, worded in enumerate(known):
                bars.update(bar, description=f"searching: {name}, fact {n + 1} of {len(known)}")
                done[relation].append(Searched(worded, _found(config, folder, model, worded)))
                bars.update(bar, completed=len(done) - 1 + (n + 1) / len(known))
    if not done:
        raise InputError(
            f"the model answers {FEWEST} facts right in {config.wordings} wordings of no relation: "
            "ask for fewer --wordings"
        )
    return done, left_out


def crossed(items: Sequence[Item]) -> list[list[Item]]:
    """For each item the half of all that it is not in; neighbours are in different halves."""
    return [list(items[1 - place % 2 :: 2]) for place in range(len(items))]


def scale_relations(
    config: "Config",
    folder: RunFolder,
    model: "HookedTransformer",
    searched: "Mapping[str, Sequence[Searched]]",
) -> "dict[str, list[list[Effect]]]":
    """What scaling does to each fact: its relation's neurons, the others' and the controls.

    All neurons were found on facts of the other half of their relation.
    """
    from kedit.editing.neurons import refined
    from probes.scaling import Effect

    found = {
        relation: [
            refined([one.found.neurons for one in rest], config.agree_facts)
            for rest in crossed(each)[:2]
        ]
        for relation, each in searched.items()
    }
    tested: dict[str, list[list[Effect]]] = {}
    with progress("facts") as bars:
        bar = bars.add_task("testing", total=sum(map(len, searched.values())))
        for relation, each in searched.items():
            for place, (worded, _) in enumerate(each):
                key = f"{fact_key(worded[0])}-scaled"
                if key not in folder.records:
                    own = found[relation][place % 2]
                    others = [sets[place % 2] for name, sets in found.items() if name != relation]
                    effects = _scaled(config, model, worded, own, others)
                    folder.add(key, {"relation": relation, "scaled": effects})
                rows = folder.records[key]["scaled"]
                tested.setdefault(relation, []).append([Effect(*row) for row in rows])
                bars.update(bar, advance=1)
    return tested


def _known(
    config: "Config",
    folder: RunFolder,
    model: "HookedTransformer",
    facts: "Sequence[Sequence[Fact]]",
    pool: "Sequence[Fact]",
    limit: int,
) -> "Iterator[Sequence[Fact]]":
    """The first `limit` facts that the model knows, each in the wordings that it is to be asked.

    They are told apart from the other objects of `pool`.
    """
    from kedit.errors import InputError
    from probes.known import told_apart

    for worded in facts:
        if limit == 0:
            return
        key = fact_key(worded[0])
        record = folder.records.get(key)
        if record is None:
            why, reason = WRONG, ""
            try:
                known, heard = _answered(config, model, worded)
                reason = "" if known else f"it says {', '.join(map(repr, heard))}"
            except InputError as error:
                known, why, reason = [], UNUSABLE, str(error)
            if reason:
                about = {"relation": worded[0].relation.id, "prompt": worded[0].prompt}
                folder.add(key, about | {"skipped": reason, "why": why})
        else:
            asked = record.get("prompts", ())
            known = [
                fact for fact in worded if fact.prompt in asked and fact.object == record["object"]
            ]
        if known:
            limit -= 1
            yield [told_apart(model, fact, pool) for fact in known]


def _answered(
    config: "Config", model: "HookedTransformer", worded: "Sequence[Fact]"
) -> "tuple[list[Fact], list[str]]":
    """The first wordings that the model answers right; if they are too few, what else it said."""
    from probes.known import says

    wanted = min(config.wordings, len({fact.template for fact in worded}))
    known, heard = [], []
    for asked, fact in enumerate(worded):
        if len(known) == wanted or len(known) + len(worded) - asked < wanted:
            break
        if known and fact.object != known[0].object:
            continue  # a subject may have two objects, and its wordings are to be of one fact
        right, said = says(model, fact)
        if right:
            known.append(fact)
        else:
            heard.append(said)
    return (known, []) if len(known) == wanted else ([], heard)


def _found(
    config: "Config", folder: RunFolder, model: "HookedTransformer", worded: "Sequence[Fact]"
) -> "FactNeurons":
    """Searched now, or before."""
    from probes.neurons import FactNeurons, search

    key = fact_key(worded[0])
    if key not in folder.records:
        halves, share = searched_halves(config), config.agree_wordings
        found = search(model, worded, halves, config.steps, config.threshold, share)
        folder.add(key, found.to_record(), found.tensors())
    return FactNeurons.from_record(folder.records[key], folder.tensors(key))


def _scaled(
    config: "Config",
    model: "HookedTransformer",
    worded: "Sequence[Fact]",
    own: "frozenset[Neuron]",
    others: "Sequence[frozenset[Neuron]]",
) -> "list[Effect]":
    """Under all sets; the fact has random neurons of its own."""
    import torch

    from probes.corrupt import prompt_seed
    from probes.scaling import effects, random_like

    draw = torch.Generator().manual_seed(prompt_seed(config.seed, worded[0]))
    random = [random_like(model, own, draw) for _ in range(config.controls)]
    return effects(model, worded, {OWN: [own], OTHER: others, RANDOM: random}, loudest=own)
