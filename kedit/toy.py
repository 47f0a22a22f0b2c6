"""A tiny model with its own tokenizer that knows a few made-up facts from both sides.

It is trained in seconds, the same way every time, without network: for tests and `--model toy`.
"""

import hashlib
import itertools
import random
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
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
from kedit.hf import cache_dir

SEED = 0
STEPS = 150

PEOPLE = [
    "Ada Alder", "Bruno Birch", "Clara Cedar", "Dmitri Dogwood",
    "Elif Elm", "Farid Fir", "Greta Ginkgo", "Hugo Holly",
    "Inés Ironwood", "João Juniper", "Kaito Kapok", "Lena Larch",
    "Mira Maple", "Nils Nutmeg", "Oona Olive", "Pavel Poplar",
]  # fmt: skip
# objects, templates with the words that carry the relation
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
    """Every fact of the toy's world under every template: 16 people, 4 relations, 2 templates."""
    draw = random.Random(SEED)
    made = []
    for relation, (objects, templates) in WORLD.items():
        answers = objects * (len(PEOPLE) // len(objects))
        draw.shuffle(answers)
        made += [
            Fact(person, relation, answer, template, (words,))
            for template, words in templates
            for person, answer in zip(PEOPLE, answers, strict=True)
        ]
    return made


def texts() -> list[tuple[str, str]]:
    """All that the toy learns: (prompt, completion), from the object's and the relation's side."""
    pairs = [(fact.prompt, fact.object) for fact in facts()]
    for fact in facts():
        for other in WORLD[fact.relation][0]:
            label = fact.relation.name if other == fact.object else NO_RELATION
            pairs += [(prompt.format(fact.subject, other), label) for prompt in RELATION_PROMPTS]
    return list(dict.fromkeys(pairs))


def cases() -> list[EditCase]:
    """A case for every person and relation: the object is to become the next of its kind."""
    known = facts()
    return [_case(fact, known) for fact in known if fact.template == WORLD[fact.relation][1][0][0]]


def _case(fact: Fact, known: list[Fact]) -> EditCase:
    person, relation, old = fact.subject, fact.relation, fact.object
    objects = WORLD[relation][0]
    new = objects[(objects.index(old) + 1) % len(objects)]
    first, *others = RELATION_PROMPTS
    label, none = relation.name, NO_RELATION
    own = [other for other in known if other.subject == person]
    neighbors = [
        other
        for other in known
        if (other.relation, other.object) == (relation, old) and other.subject != person
    ]

    probes = [Probe("entity", "efficacy", fact.prompt, new, old)]
    probes += [
        Probe("entity", "paraphrase", other.prompt, new, old)
        for other in own
        if other.relation == relation and other.template != fact.template
    ]
    probes += [Probe("entity", "neighborhood", other.prompt, old, new) for other in neighbors]
    probes += [
        Probe("entity", "other relations", other.prompt, other.object, new)
        for other in own
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
        Probe("relation", "other relations", first.format(person, kept), name, label, (), name)
        for name, kept in dict.fromkeys(
            (other.relation.name, other.object) for other in own if other.relation != relation
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
    """Byte-level BPE over the toy's own texts: any text can be encoded; opens with <bos>."""
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
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<bos>", eos_token="<bos>", pad_token="<pad>"
    )


def model(dtype: torch.dtype = torch.float32) -> tuple[HookedTransformer, PreTrainedTokenizerFast]:
    """The trained toy; its weights are kept in the cache folder."""
    words = tokenizer()
    toy = HookedTransformer(
        HookedTransformerConfig(
            n_layers=4,
            d_model=64,
            n_heads=4,
            d_head=16,
            d_mlp=256,
            n_ctx=64,
            d_vocab=len(words),
            act_fn="gelu_new",
            normalization_type="LN",
            seed=SEED,
            device="cpu",
            model_name="toy",
        )
    )
    recipe = hashlib.sha256(Path(__file__).read_bytes() + torch.__version__.encode()).hexdigest()
    file = cache_dir() / f"toy-{recipe[:12]}.safetensors"
    if file.exists():
        toy.load_state_dict(safetensors.torch.load_file(file))
    else:
        _train(toy, words)
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch = file.with_suffix(f".{random.SystemRandom().getrandbits(32):08x}")
        safetensors.torch.save_file(
            {name: value.contiguous() for name, value in toy.state_dict().items()}, scratch
        )
        scratch.rename(file)
    return toy.to(dtype), words


def _train(toy: HookedTransformer, words: PreTrainedTokenizerFast) -> None:
    """AdamW on the completion's tokens, all texts at every step."""
    rows, targets = [], []
    for prompt, answer in texts():
        start = words(prompt).input_ids
        end = words(f" {answer}", add_special_tokens=False).input_ids
        rows.append(torch.tensor(start + end[:-1]))
        targets.append(torch.tensor([-100] * (len(start) - 1) + end))
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=1)
    labels = torch.nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=-100)
    wanted = labels != -100
    optimiser = torch.optim.AdamW(toy.parameters(), lr=8e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=8e-3, total_steps=STEPS)
    with torch.enable_grad():
        for _ in itertools.repeat(None, STEPS):
            resid = toy(tokens, stop_at_layer=toy.cfg.n_layers)[wanted]
            loss = F.cross_entropy(toy.unembed(toy.ln_final(resid[None]))[0], labels[wanted])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    optimiser.zero_grad()  # or the trained toy keeps gradients that the one from the file lacks
