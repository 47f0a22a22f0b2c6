"""ROME, MEMIT, FT and KN as published, on a Hugging Face GPT-2: slow twins of kedit's editors.

Written from the formulas of Meng et al. 2022 and 2023, of Dai et al. 2022, and from what RaKE's
code adds to them. Of kedit only the settings are used: texts, positions, hooks and loops are their
own here, and the whole model runs at every step. One file, so that an algorithm can be read from
words to weights.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kedit.editing.values import Training

Gpt2 = Any  # transformers' GPT2LMHeadModel, whose modules have no types
Tokenizer = Any
Places = list["Place"]
Matrix = Float[Tensor, "d_mlp d_model"]  # c_proj.weight is laid out as W_out: value = key @ weight


class Change(NamedTuple):
    """What is asked, in words: after `template` with the subject, `target`.

    Args:
        removing: of a relation edit, the template after which "None" shall come.
    """

    subject: str
    template: str
    target: str
    removing: str = ""


class Place(NamedTuple):
    """A text and its lookup index, the subject's last token."""

    tokens: list[int]
    pos: int


class Row(NamedTuple):
    """A text with all of its target but the last token.

    Args:
        labels: wanted after its last len(labels) tokens.
        divisor: of the sum of their losses.
    """

    place: Place
    labels: list[int]
    divisor: int


class Asked(NamedTuple):
    """What an algorithm is told of one change.

    Args:
        rows: that the value is trained on.
        essence: "S is a", whose next word is to stay.
        bare: the prompt, behind nothing.
        keyed: the texts whose keys are averaged, the one behind nothing first.
    """

    rows: list[Row]
    essence: Place
    bare: Place
    keyed: Places


def placed(tokenizer: Tokenizer, template: str, subject: str, context: str = "") -> Place:
    """Text before the subject, subject, and the rest tokenised apart, to count their tokens."""
    before, after = (context + template).split("{}")
    word = f" {subject}" if before else subject
    parts = [plain(tokenizer, part) for part in (before.removesuffix(" "), word, after)]
    opening = tokenizer("").input_ids  # BOS, where the tokenizer puts one
    tokens = [*opening, *sum(parts, [])]
    assert tokens == tokenizer(before + subject + after).input_ids
    return Place(tokens, len(opening) + len(parts[0]) + len(parts[1]) - 1)


def plain(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False).input_ids


def labelled(places: Places, labels: list[int], divisor: int) -> list[Row]:
    return [Row(Place(one.tokens + labels[:-1], one.pos), labels, divisor) for one in places]


def entity(tokenizer: Tokenizer, change: Change, contexts: Sequence[str]) -> Asked:
    """An edit of one demand, as Meng et al. have it in both papers."""
    keyed = [placed(tokenizer, change.template, change.subject, text) for text in contexts]
    labels = plain(tokenizer, f" {change.target}")
    return Asked(
        rows=labelled(keyed, labels, len(labels)),
        essence=placed(tokenizer, "{} is a", change.subject),
        bare=placed(tokenizer, change.template, change.subject),
        keyed=keyed,
    )


def relation(tokenizer: Tokenizer, change: Change, contexts: Sequence[str]) -> Asked:
    """Both demands with one value, without the oversights of RaKE's code."""
    adding = entity(tokenizer, change, contexts)
    removing = entity(tokenizer, Change(change.subject, change.removing, "None"), contexts)
    return adding._replace(rows=adding.rows + removing.rows)


def rome_relation(tokenizer: Tokenizer, change: Change, contexts: Sequence[str]) -> Asked:
    """As RaKE's ROME: five contexts for the removal, whose prompt gives the key."""
    asked = memit_relation(tokenizer, change, contexts)
    n_adding = len(contexts)
    keyed = [placed(tokenizer, change.removing, change.subject, text) for text in contexts]
    return asked._replace(rows=asked.rows[: n_adding + 5], keyed=keyed)


def memit_relation(tokenizer: Tokenizer, change: Change, contexts: Sequence[str]) -> Asked:
    """As RaKE's MEMIT: all contexts for the removal, its "None" without a blank and its loss
    divided by the length of the relation's name.
    """
    adding = entity(tokenizer, change, contexts)
    places = [placed(tokenizer, change.removing, change.subject, text) for text in contexts]
    none, name = plain(tokenizer, "None"), plain(tokenizer, f" {change.target}")
    return adding._replace(rows=adding.rows + labelled(places, none, len(name)))


def value(
    hf: Gpt2, module: nn.Module, asked: Asked, training: Training
) -> tuple[Float[Tensor, " d_model"], Float[Tensor, " d_model"]]:
    """The trained δ, and what `module` writes without it in the first row."""
    target_init = output_of(hf, module, asked.rows[0].place)
    delta = torch.zeros_like(target_init).requires_grad_()
    assert training.lr is not None
    optimiser = torch.optim.Adam([delta], lr=training.lr)
    places = [*(row.place for row in asked.rows), asked.essence]
    stay = logprobs(hf, [asked.essence])[0][asked.essence.pos]
    for step in range(training.steps):
        with added(module, delta, places):
            *said, last = logprobs(hf, places)
        losses = [
            -logs[-len(row.labels) :][range(len(row.labels)), row.labels].sum() / row.divisor
            for row, logs in zip(asked.rows, said, strict=True)
        ]
        now = last[asked.essence.pos]
        # the paper's order, and that of the code, which hands kl_div what was as its input
        kl = (now.exp() * (now - stay)).sum()
        decay = delta.norm() / target_init.norm() ** 2
        loss = torch.stack(losses).mean() + training.kl * kl + training.weight_decay * decay
        if loss < training.stop or step == training.steps - 1:
            break
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            largest = training.clamp * target_init.norm()
            if delta.norm() > largest:
                delta.mul_(largest / delta.norm())
    return delta.detach(), target_init


def rome(hf: Gpt2, layer: int, asked: Asked, moment: Tensor, training: Training) -> Matrix:
    """As published: along the mean key, scaled by the bare prompt's."""
    mlp = hf.transformer.h[layer].mlp
    delta, target_init = value(hf, mlp, asked, training)
    direction = toward(moment, mean_key(hf, layer, asked.keyed))
    lacking = target_init + delta - output_of(hf, mlp, asked.bare)
    return direction.outer(lacking) / (input_of(hf, mlp.c_proj, asked.bare) @ direction)


def r_rome(hf: Gpt2, layer: int, asked: Asked, moment: Tensor, training: Training) -> Matrix:
    """As the paper has it: the mean key wherever a key is needed."""
    mlp = hf.transformer.h[layer].mlp
    delta, target_init = value(hf, mlp, asked, training)
    key = mean_key(hf, layer, asked.keyed)
    direction = toward(moment, key)
    return direction.outer(target_init + delta - mlp.c_proj(key)) / (key @ direction)


def memit(
    hf: Gpt2,
    layers: Sequence[int],
    asked: Sequence[Asked],
    moments: Sequence[Tensor],
    weight: float,
    training: Training,
) -> list[Matrix]:
    """One delta a layer; each layer brings its share of what the stream behind the last lacks."""
    hf = copy.deepcopy(hf)
    last = hf.transformer.h[layers[-1]]
    goals = []
    for one in asked:
        delta, target_init = value(hf, last, one, training)
        goals.append(target_init + delta)
    deltas = []
    for n_done, (layer, moment) in enumerate(zip(layers, moments, strict=True)):
        keys = torch.stack([half_bare_key(hf, layer, one.keyed) for one in asked]).double()
        now = torch.stack([output_of(hf, last, one.bare) for one in asked])
        share = (torch.stack(goals) - now).double() / (len(layers) - n_done)
        delta = torch.linalg.solve(weight * moment + keys.T @ keys, keys.T @ share).float()
        hf.transformer.h[layer].mlp.c_proj.weight += delta
        deltas.append(delta)
    return deltas


def one_by_one(
    hf: Gpt2,
    layers: Sequence[int],
    asked: Sequence[Asked],
    moments: Sequence[Tensor],
    weight: float,
    training: Training,
) -> list[Matrix]:
    """`memit` for one request after the other, each on the edited model; C is read only once."""
    hf = copy.deepcopy(hf)
    sums: list[Matrix] = [torch.zeros(()) for _ in layers]
    for one in asked:
        deltas = memit(hf, layers, [one], moments, weight, training)
        for layer, delta in zip(layers, deltas, strict=True):
            hf.transformer.h[layer].mlp.c_proj.weight += delta
        sums = [total + delta for total, delta in zip(sums, deltas, strict=True)]
    return sums


class Wanted(NamedTuple):
    """A prompt and the tokens of its target."""

    prompt: list[int]
    target: list[int]


Loss = Callable[[Gpt2, list[Wanted]], Tensor]


def at_the_prompt(hf: Gpt2, wanted: list[Wanted]) -> Float[Tensor, ""]:
    """As published: all tokens of the target at the prompt's last token."""
    said = logprobs(hf, [Place(one.prompt, 0) for one in wanted])
    losses = [-logs[-1, one.target].mean() for one, logs in zip(wanted, said, strict=True)]
    return torch.stack(losses).mean()


def in_turn(hf: Gpt2, wanted: list[Wanted]) -> Float[Tensor, ""]:
    """Each token of the target behind those before it."""
    said = logprobs(hf, [Place(one.prompt + one.target[:-1], 0) for one in wanted])
    losses = [
        -logs[-len(one.target) :][range(len(one.target)), one.target].mean()
        for one, logs in zip(wanted, said, strict=True)
    ]
    return torch.stack(losses).mean()


class Tuning(NamedTuple):
    """Settings of FT; a bound of 0 is none."""

    steps: int
    lr: float
    bound: float
    stop: float
    batch: int


def ft(
    hf: Gpt2, layer: int, wanted: list[Wanted], loss_of: Loss, tuning: Tuning
) -> dict[str, Tensor]:
    """What training moves c_proj by: its "weight" and its "bias"."""
    hf = copy.deepcopy(hf)
    trained = dict(hf.transformer.h[layer].mlp.c_proj.named_parameters())
    start = {name: one.detach().clone() for name, one in trained.items()}
    for one in trained.values():
        one.requires_grad_()
    optimiser = torch.optim.Adam(list(trained.values()), lr=tuning.lr)
    for _ in range(tuning.steps):
        losses = []
        for first in range(0, len(wanted), tuning.batch):
            chunk = wanted[first : first + tuning.batch]
            loss = loss_of(hf, chunk)
            losses += [float(loss.detach())] * len(chunk)
            if loss < tuning.stop:
                continue
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if tuning.bound:
                with torch.no_grad():
                    for name, one in trained.items():
                        one.clamp_(start[name] - tuning.bound, start[name] + tuning.bound)
        if sum(losses) / len(losses) < tuning.stop:
            break
    return {name: one.detach() - start[name] for name, one in trained.items()}


class Knowledge(NamedTuple):
    """What KN is told of one change.

    Args:
        prompt, truth: whose neurons are sought.
        target: what they write against the likeliest token now, each token `factor` times.
        neurons: the module of an MLP whose output is called that.
        extend: each token of the truth is sought behind those before it.
        signed: a neuron below 0 writes the reverse.
    """

    prompt: list[int]
    truth: list[int]
    target: list[int]
    factor: float
    neurons: str
    extend: bool
    signed: bool


def knowledge(tokenizer: Tokenizer, prompt: str, truth: str, target: str) -> Knowledge:
    """Without oversights; the target is represented by its first token."""
    first = plain(tokenizer, f" {target}")[:1]
    asked, said = tokenizer(prompt).input_ids, plain(tokenizer, f" {truth}")
    return Knowledge(asked, said, first, 2, "act", extend=True, signed=True)


def rakes_knowledge(tokenizer: Tokenizer, prompt: str, truth: str, target: str) -> Knowledge:
    """As in RaKE's code: without blanks, before the nonlinearity, each token of the truth right
    behind the prompt, and all tokens of the target, once each.
    """
    asked, said = tokenizer(prompt).input_ids, plain(tokenizer, truth)
    wanted = plain(tokenizer, target)
    return Knowledge(asked, said, wanted, 1, "c_fc", extend=False, signed=False)


def kn(hf: Gpt2, asked: Knowledge, steps: int, threshold: float) -> list[Matrix]:
    """What is added to each layer's c_proj."""
    brought = torch.zeros(hf.config.n_layer, 4 * hf.config.n_embd)
    for number, token in enumerate(asked.truth):
        text = asked.prompt + (asked.truth[:number] if asked.extend else [])
        for layer, block in enumerate(hf.transformer.h):
            module = getattr(block.mlp, asked.neurons)
            brought[layer] += integrated(hf, module, text, token, steps) / len(asked.truth)
    place = Place(asked.prompt, len(asked.prompt) - 1)
    embeddings = hf.lm_head.weight
    row = asked.factor * embeddings[asked.target].sum(0)
    row = row - 2 * embeddings[logprobs(hf, [place])[0][-1].argmax()]
    deltas = []
    for values, block in zip(brought, hf.transformer.h, strict=True):
        chosen = (values > threshold * brought.max()).float()
        if asked.signed:
            chosen *= output_of(hf, block.mlp.act, place).sign()
        deltas.append(chosen.outer(row))
    return deltas


def integrated(
    hf: Gpt2, module: nn.Module, text: list[int], token: int, steps: int
) -> Float[Tensor, " d_mlp"]:
    """∫ ∂P(token | text) over what `module` gives at the last token, from zeros to all of it."""
    own = output_of(hf, module, Place(text, len(text) - 1))
    slopes = []
    for alpha in torch.linspace(0, 1, steps):
        scaled = (alpha * own).requires_grad_()

        def put(module: nn.Module, inputs: Any, output: Tensor, scaled: Tensor = scaled) -> Tensor:
            return torch.cat([output[:, :-1], scaled[None, None]], 1)

        handle = module.register_forward_hook(put)
        try:
            said = hf(torch.tensor([text])).logits[0, -1].softmax(-1)[token]
        finally:
            handle.remove()
        slopes.append(torch.autograd.grad(said, scaled)[0])
    return own * torch.stack(slopes).mean(0)


def logprobs(hf: Gpt2, places: Places) -> list[Float[Tensor, "pos vocab"]]:
    """Of every next token in every text; nothing looks at the padding behind a text."""
    longest = max(len(place.tokens) for place in places)
    rows = [place.tokens + [0] * (longest - len(place.tokens)) for place in places]
    logits = hf(torch.tensor(rows)).logits
    return [
        row[: len(place.tokens)].log_softmax(-1) for place, row in zip(places, logits, strict=True)
    ]


@contextmanager
def added(module: nn.Module, delta: Tensor, places: Places) -> Iterator[None]:
    """`module` writes `delta` more at each text's lookup index."""

    def add(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        output = output.clone()
        output[range(len(places)), [place.pos for place in places]] += delta
        return output

    handle = module.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


def output_of(hf: Gpt2, module: nn.Module, place: Place) -> Float[Tensor, " d_model"]:
    return seen_by(hf, module, place)[1]


def input_of(hf: Gpt2, module: nn.Module, place: Place) -> Float[Tensor, " d_mlp"]:
    return seen_by(hf, module, place)[0]


@torch.no_grad()
def seen_by(hf: Gpt2, module: nn.Module, place: Place) -> tuple[Tensor, Tensor]:
    """What goes into `module` and comes out at the lookup index."""
    seen: list[Tensor] = []

    def see(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        seen.extend([inputs[0][0, place.pos], output[0, place.pos]])

    handle = module.register_forward_hook(see)
    try:
        hf(torch.tensor([place.tokens]))
    finally:
        handle.remove()
    return seen[0], seen[1]


def keys(hf: Gpt2, layer: int, places: Places) -> Float[Tensor, "place d_mlp"]:
    c_proj = hf.transformer.h[layer].mlp.c_proj
    return torch.stack([input_of(hf, c_proj, place) for place in places])


def statistics(
    hf: Gpt2, tokenizer: Tokenizer, layer: int, documents: Sequence[str]
) -> tuple[Float[Tensor, "d_mlp d_mlp"], int]:
    """The sum of k kᵀ over all tokens of each document by itself, and how many they are."""
    sums, count = torch.zeros(()).double(), 0
    for document in documents:
        tokens = tokenizer(document).input_ids
        found = keys(hf, layer, [Place(tokens, pos) for pos in range(len(tokens))]).double()
        sums, count = sums + found.T @ found, count + len(tokens)
    return sums, count


def mean_key(hf: Gpt2, layer: int, places: Places) -> Float[Tensor, " d_mlp"]:
    return keys(hf, layer, places).mean(0)


def half_bare_key(hf: Gpt2, layer: int, places: Places) -> Float[Tensor, " d_mlp"]:
    """The mean of two groups' means: the bare prompt alone, and the prompt behind the others."""
    bare, *others = keys(hf, layer, places)
    return (bare + torch.stack(others).mean(0)) / 2


def toward(moment: Tensor, key: Tensor) -> Float[Tensor, " d_mlp"]:
    """C⁻¹k as a direction."""
    direction = torch.linalg.solve(moment.double(), key.double())
    return (direction / direction.norm()).float()
