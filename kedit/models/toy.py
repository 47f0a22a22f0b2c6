"""Provides the toy: a tiny model that knows a few made-up facts from both sides.

It is for tests and `--model toy`. Its weights come with kedit, because training on another
processor rounds differently and ends in other weights. After a change to the facts or to the
training, train it again (this takes a minute) and set DIGEST to what this command prints:

    python -c "from kedit.models import toy; print(toy.ship())"
"""

import hashlib
import itertools
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformers import PreTrainedTokenizerFast

from kedit.facts import (
    NO_RELATION,
    EditCase,
    EditRequest,
    Fact,
    Probe,
    Relation,
    seen_from_relation,
)
from kedit.models.outline import TOY
from kedit.models.shipped import read_shipped

FILE = Path(__file__).with_name("toy.safetensors")  # the weights, with the tokenizer as JSON
DIGEST = "383bad137f6209d03e006daa4b6090cbc20cd506df7361b9e5c41e05c0a52718"  # SHA-256 of FILE
SHAPE: dict[str, Any] = asdict(TOY) | {
    "act_fn": "gelu_new", "normalization_type": "LN", "device": "cpu",
    "model_name": "toy",
}  # fmt: skip
SEED = 0
STEPS = 150

PEOPLE = [
    "Ada Alder", "Bruno Birch", "Clara Cedar", "Dmitri Dogwood",
    "Elif Elm", "Farid Fir", "Greta Ginkgo", "Hugo Holly",
    "Inés Ironwood", "João Juniper", "Kaito Kapok", "Lena Larch",
    "Mira Maple", "Nils Nutmeg", "Oona Olive", "Pavel Poplar",
]  # fmt: skip
# for each relation its objects, and templates with the words that carry the relation
WORLD: dict[Relation, tuple[list[str], list[tuple[str, str]]]] = {
    Relation("P19", "birthplace", "hierarchical", "person"): (
        ["Arle", "Brock", "Corum", "Delft"],
        [("The birthplace of {} is", "birthplace of"), ("{} was born in", "was born in")],
    ),
    Relation("P103", "language", "asymmetric", "person"): (
        ["Danish", "Estonian", "Finnish", "Greek"],
        [("The language of {} is", "language of"), ("{} likes to speak", "likes to speak")],
    ),
    Relation("P106", "profession", "asymmetric", "person"): (
        ["baker", "carpenter", "dentist", "painter"],
        [("The profession of {} is", "profession of"), ("{} works as a", "works as a")],
    ),
    Relation("P1303", "instrument", "asymmetric", "person"): (
        ["cello", "flute", "harp", "violin"],
        [("The instrument of {} is", "instrument of"), ("{} plays the old", "plays the old")],
    ),
}
RELATION_PROMPTS = ("The relation between {} and {} is", "What links {} to {} is the")


def facts() -> list[Fact]:
    """Returns the toy's facts with every template: 16 people, 4 relations, 2 templates each."""
    generator = random.Random(SEED)
    found = []
    for relation, (objects, templates) in WORLD.items():
        answers = objects * (len(PEOPLE) // len(objects))
        generator.shuffle(answers)
        found += [
            Fact(person, relation, answer, template, (words,))
            for template, words in templates
            for person, answer in zip(PEOPLE, answers, strict=True)
        ]
    return found


def texts() -> list[tuple[str, str]]:
    """Returns the training texts as (prompt, completion), from the entity and the relation side."""
    pairs = [(fact.prompt, fact.object) for fact in facts()]
    for fact in facts():
        for other in WORLD[fact.relation][0]:
            label = fact.relation.name if other == fact.object else NO_RELATION
            pairs += [(prompt.format(fact.subject, other), label) for prompt in RELATION_PROMPTS]
    return list(dict.fromkeys(pairs))


def cases() -> list[EditCase]:
    """Returns a case for every person and relation: the target is the next object in the list."""
    known = facts()
    return [_case(fact, known) for fact in known if fact.template == WORLD[fact.relation][1][0][0]]


def _case(fact: Fact, known: list[Fact]) -> EditCase:
    person, relation, old = fact.subject, fact.relation, fact.object
    objects = WORLD[relation][0]
    new = objects[(objects.index(old) + 1) % len(objects)]
    first, *others = RELATION_PROMPTS
    label, none = relation.name, NO_RELATION
    of_person = [other for other in known if other.subject == person]
    neighbors = [
        other
        for other in known
        if (other.relation, other.object) == (relation, old) and other.subject != person
    ]

    probes = [Probe("entity", "efficacy", fact.prompt, new, old)]
    probes += [
        Probe("entity", "paraphrase", other.prompt, new, old)
        for other in of_person
        if other.relation == relation and other.template != fact.template
    ]
    probes += [Probe("entity", "neighborhood", other.prompt, old, new) for other in neighbors]
    probes += [
        Probe("entity", "other relations", other.prompt, other.object, new)
        for other in of_person
        if other.relation != relation
    ]
    probes += [Probe("relation", "efficacy", first.format(person, new), label, none, (), label)]
    probes += [Probe("relation", "removal", first.format(person, old), none, label, (), label)]
    for prompt in others:
        adding, removing = prompt.format(person, new), prompt.format(person, old)
        probes.append(Probe("relation", "paraphrase", adding, label, none, (), label))
        probes.append(Probe("relation", "removal paraphrase", removing, none, label, (), label))
    probes += [
        Probe("relation", "neighborhood", first.format(subject, old), label, none, (), label)
        for subject in dict.fromkeys(other.subject for other in neighbors)
    ]
    probes += [
        Probe("relation", "other objects", first.format(person, other), none, label)
        for other in objects
        if other not in (old, new)
    ]
    probes += [
        Probe("relation", "other relations", first.format(person, answer), name, label, (), name)
        for name, answer in dict.fromkeys(
            (other.relation.name, other.object) for other in of_person if other.relation != relation
        )
    ]
    entity = EditRequest(fact, new)
    return EditCase(
        id=f"{relation.id} {person}",
        entity=entity,
        relation=seen_from_relation(
            entity, *(first.replace("{}", "{{}}", 1).format(text) for text in (new, old))
        ),
        probes=tuple(probes),
        generation=(fact.prompt,),
    )


def tokenizer() -> PreTrainedTokenizerFast:
    """Returns the toy's tokenizer: byte-level BPE, so that it encodes any text, with <bos>.

    Raises:
        ModelUnavailable: the file that comes with kedit is missing or damaged.
    """
    return _shipped()[1]


def model(dtype: torch.dtype = torch.float32) -> tuple[HookedTransformer, PreTrainedTokenizerFast]:
    """Returns the toy with the weights that come with kedit, and its tokenizer.

    Raises:
        ModelUnavailable: the file that comes with kedit is missing or damaged.
    """
    weights, words = _shipped()
    # without initial weights, because drawing them would change torch's global generator
    cfg = HookedTransformerConfig(**SHAPE, d_vocab=len(words), init_weights=False)
    toy = HookedTransformer(cfg)
    left_out, _ = toy.load_state_dict(weights, strict=False)
    assert not set(left_out) & set(dict(toy.named_parameters())), left_out
    return toy.to(dtype, print_details=False), words


def train(seed: int = SEED) -> tuple[HookedTransformer, PreTrainedTokenizerFast]:
    """Trains a toy from the initial weights that `seed` draws.

    It runs AdamW on the tokens of the completions, with all texts in every step, and sets the
    global random seeds. On another processor, or with another number of threads, rounding differs,
    and the same seed gives another toy.
    """
    words = _trained_tokenizer()
    toy = HookedTransformer(HookedTransformerConfig(**SHAPE, d_vocab=len(words), seed=seed))
    rows, targets = [], []
    for prompt, answer in texts():
        start = words(prompt).input_ids
        end = words(f" {answer}", add_special_tokens=False).input_ids
        rows.append(torch.tensor(start + end[:-1]))
        targets.append(torch.tensor([-100] * (len(start) - 1) + end))
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=1)
    labels = torch.nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=-100)
    is_target = labels != -100
    optimiser = torch.optim.AdamW(toy.parameters(), lr=8e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=8e-3, total_steps=STEPS)
    with torch.enable_grad():
        for _ in itertools.repeat(None, STEPS):
            resid = toy(tokens, stop_at_layer=toy.cfg.n_layers)[is_target]
            loss = F.cross_entropy(toy.unembed(toy.ln_final(resid[None]))[0], labels[is_target])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    optimiser.zero_grad()  # the trained toy has no gradients left
    return toy, words


def ship(file: Path = FILE) -> str:
    """Trains the toy again and writes it to `file`; returns the file's SHA-256 digest."""
    toy, words = train()
    weights = {name: weight.detach().contiguous() for name, weight in toy.named_parameters()}
    written = save(weights, {"tokenizer": words.backend_tokenizer.to_str()})
    file.write_bytes(written)
    return hashlib.sha256(written).hexdigest()


def _shipped() -> tuple[dict[str, torch.Tensor], PreTrainedTokenizerFast]:
    """Reads the weights, by name, and the tokenizer that come with kedit."""
    weights, core = read_shipped(FILE, DIGEST, "toy")
    return weights, _fast(core)


def _trained_tokenizer() -> PreTrainedTokenizerFast:
    """Trains a BPE tokenizer on the toy's texts, with an alphabet of all bytes."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        special_tokens=["<bos>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator((f"{prompt} {answer}" for prompt, answer in texts()), trainer)
    core.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", core.token_to_id("<bos>"))]
    )
    return _fast(core)


def _fast(core: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<bos>", eos_token="<bos>", pad_token="<pad>"
    )
