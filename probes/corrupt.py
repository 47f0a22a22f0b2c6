"""From a clean run to a corrupted one: noise on the subject or the relation, or other words."""

import random
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.data import builtin
from kedit.errors import InputError, NoReplacement
from kedit.facts import Fact
from kedit.forward.runs import Run
from kedit.models.prompts import Prompt, encode, plain_ids
from probes.noise_kinds import LARGEST, noise_kind

PARTS = ("relation", "subject")
KEPT_SHARE = 0.5  # of its clean probability: an answer that keeps more was hardly corrupted
UPSTREAM_SEED = 1  # Meng et al.'s code draws from numpy.random.RandomState(1), anew for each trace


@dataclass(frozen=True)
class Corruption:
    """A corrupted run of a prompt: the positions it differs at, and what was done, in words."""

    run: Run
    positions: tuple[int, ...]
    description: str


@dataclass(frozen=True)
class Noise:
    """Additive noise on token embeddings: sigma * standard, or mean + standard @ transform.

    Args:
        scale: of a spherical normal or a uniform distribution.
        uniform: draw from [-scale, scale] instead of a normal distribution.
        mean, transform: of a multivariate normal, with `transform.T @ transform` its covariance.
        degrees: of freedom of Student's t with that covariance; None for the normal.
        upstream: draw from RandomState(1), as Meng et al.'s code does, whatever the seed.
        substitute: put the noise in the embedding's place instead of adding it.
    """

    scale: float = 0.0
    uniform: bool = False
    mean: Float[Tensor, " d_model"] | None = None
    transform: Float[Tensor, "d_model d_model"] | None = None
    degrees: float | None = None
    upstream: bool = False
    substitute: bool = False

    def draw(self, shape: tuple[int, int, int], seed: int) -> Float[Tensor, "sample pos d_model"]:
        """Noise for `sample` rows; the same for the same seed, on every device."""
        source = np.random.RandomState(UPSTREAM_SEED if self.upstream else seed)
        if self.uniform:
            return torch.from_numpy(source.uniform(-self.scale, self.scale, shape)).float()
        standard = torch.from_numpy(source.randn(*shape))
        if self.transform is None:
            return (self.scale * standard).float()
        noise = standard @ self.transform.double()
        if self.degrees is not None:
            # variance matched: a t variable with d degrees has d / (d - 2) times the normal's
            chi2 = torch.from_numpy(source.chisquare(self.degrees, (*shape[:2], 1)))
            noise = noise * ((self.degrees - 2) / chi2).sqrt()
        assert self.mean is not None
        return (self.mean.double() + noise).float()


def noise_rule(model: HookedTransformer, rule: str, facts: Sequence[Fact], part: str) -> Noise:
    """The noise that `rule` means for these facts, after Meng et al.'s causal tracing code.

    "s", "u" and a plain number are theirs. "m" and "t" are not quite: theirs take mean and
    covariance of the embeddings of WikiText-103's tokens. Their "t" scales the mean as well as the
    normal noise around it, by one sample of chi-square numbers for all facts; here the mean is not
    scaled, and the numbers are drawn with the noise.

    Args:
        rule: "s3": normal, 3 times the standard deviation of all embedding entries of the corrupted
            words' tokens; "m": normal with mean and covariance of the embeddings of the facts'
            prompts; "t5": Student's t with 5 degrees, likewise; "u0.1": uniform in [-0.1, 0.1];
            "0.03": normal with that deviation. Beginning with "upstream:": drawn from the same seed
            for every fact, as in their code ("upstream:u0.1"; "upstream" alone is "upstream:s3").
            Ending in "=": put in the embedding's place instead of added to it ("s3=").
        facts: whose words are corrupted; all facts of an experiment, for the same noise in each.
        part: "relation" or "subject".

    Raises:
        InputError: no such rule, a size that is not above 0 and at most LARGEST, or no facts to
            measure on.
    """
    if not facts:
        raise InputError("noise is measured on facts, and there are none")
    kind, number, upstream, substitute = noise_kind(rule)
    if kind == "m":
        ids = [token for fact in facts for token in plain_ids(model, fact.prompt)]
        rows = embeddings(model, ids)
        mean, centred = rows.mean(0), (rows - rows.mean(0)).double()
        values, vectors = torch.linalg.eigh(centred.T @ centred / max(len(rows) - 1, 1))
        transform = (vectors * values.clamp(min=0).sqrt()).T
        noise = Noise(mean=mean.cpu(), transform=transform.float().cpu(), degrees=number)
    else:
        assert number is not None
        measured = embedding_std(model, _corrupted_words(facts, part)) if kind == "s" else 1.0
        scale = number * measured
        if not 0 < scale <= LARGEST:
            raise InputError(
                f"noise {rule!r} has the size {scale:g}: above 0 and at most {LARGEST:g} is wanted"
            )
        noise = Noise(scale, uniform=kind == "u")
    return replace(noise, upstream=upstream, substitute=substitute)


def add_noise(
    model: HookedTransformer, prompt: Prompt, part: str, noise: Noise, samples: int, seed: int
) -> Corruption:
    """`samples` rows of the prompt with noise on the embeddings (before positions) of one part."""
    positions = prompt.positions(part)
    where = torch.tensor(positions, device=prompt.tokens.device)
    drawn = noise.draw((samples, len(positions), model.cfg.d_model), seed).to(model.embed.W_E)

    def corrupt(embed: Tensor, hook: object) -> Tensor:
        embed = embed.clone()  # earlier hooks may have kept this very tensor
        embed[:, where] = drawn if noise.substitute else embed[:, where] + drawn
        return embed

    size = f", standard deviation {noise.scale:.4g}" if noise.scale and not noise.uniform else ""
    return Corruption(
        Run(prompt.tokens.expand(samples, -1), (("hook_embed", corrupt),)),
        positions,
        f"noise on the {part}{size}, {samples} samples",
    )


def replaced(
    model: HookedTransformer, fact: Fact, part: str, pool: Sequence[Fact], seed: int
) -> Corruption:
    """The prompt with other words of the same token length (Zhang, Nanda 2023, arXiv 2309.16042).

    For a relation: another one of the same domain, about the same subject, its words in this
    template where they fit, else in a template of its own. For a subject: another one of the same
    relation with another object, else one of the same domain. Where `pool` has none that fits,
    kedit's own facts are asked. All other words stay, token for token, if they allow; which of the
    equally good ones is taken depends on `seed` and the prompt only, never on what the model says.

    Raises:
        NoReplacement: nothing has the same number of tokens in the same places.
    """
    prompt = encode(model, fact)
    own = set(prompt.positions(part))
    for candidates in _candidates(fact, part, pool):
        found: dict[str, tuple[int, Prompt, tuple[int, ...]]] = {}
        for text, other in candidates.items():
            candidate = encode(model, other)
            if len(candidate.tokens) != len(prompt.tokens) or candidate.given != prompt.given:
                continue
            if part == "relation" and candidate.subject != prompt.subject:
                continue
            differs = (candidate.tokens != prompt.tokens).nonzero()[:, 0].tolist()
            if own & set(differs):
                found[text] = (len(set(differs) - own), candidate, tuple(differs))
        if found:
            fewest = min(outside for outside, *_ in found.values())
            best = sorted(text for text, (outside, *_) in found.items() if outside == fewest)
            text = random.Random(prompt_seed(seed, fact)).choice(best)
            _, candidate, differs = found[text]
            return Corruption(Run(candidate.tokens[None]), differs, f"replaced by {text!r}")
    raise NoReplacement(
        f"no other {part} of the facts at hand or of kedit's own has as many tokens, in the same "
        f"places, as that of {fact.prompt!r}: corrupt it by noise"
    )


def prompt_seed(seed: int, fact: Fact) -> int:
    """A seed of the fact's own, so that its noise does not depend on the facts before it."""
    return zlib.crc32(f"{seed}:{fact.prompt}".encode())


def embedding_std(model: HookedTransformer, texts: Iterable[str]) -> float:
    """Standard deviation of all embedding entries of the texts' tokens, each text encoded alone."""
    ids = [token for text in texts for token in plain_ids(model, text)]
    return embeddings(model, ids).std().item()


@torch.no_grad()
def embeddings(model: HookedTransformer, ids: Sequence[int]) -> Float[Tensor, "token d_model"]:
    """Token embeddings as hook_embed gives them (Gemma scales them before that hook)."""
    tokens: Int[Tensor, "1 token"] = torch.tensor([list(ids)], device=model.embed.W_E.device)
    return model.hook_embed(model.embed(tokens))[0].float()


def _corrupted_words(facts: Iterable[Fact], part: str) -> list[str]:
    if part == "subject":
        return [fact.subject for fact in facts]
    return [
        " ".join(fact.prompt[start:end] for start, end in fact.relation_spans) for fact in facts
    ]


def _candidates(fact: Fact, part: str, pool: Sequence[Fact]) -> Iterator[dict[str, Fact]]:
    """Prompts that could stand in, by text; the better kind first."""
    find = _other_subjects if part == "subject" else _other_relations
    kins = [[other for other in pool if other.relation.domain == fact.relation.domain]]
    if pool is not builtin.load():
        kins += _own_kins(fact)
    for kin in kins:
        yield from find(fact, kin)


def _own_kins(fact: Fact) -> Iterator[list[Fact]]:
    """kedit's own facts: those of the fact's domain; where that is not known, all."""
    relation, own = fact.relation, builtin.load()
    named = {relation.id.casefold(), relation.name.casefold()}
    domains = {relation.domain} - {""}
    domains |= {
        other.relation.domain
        for other in own
        if other.subject == fact.subject
        or named & {other.relation.id.casefold(), other.relation.name.casefold()}
    }
    yield [other for other in own if other.relation.domain in domains]
    if not domains:
        yield list(own)


def _other_subjects(fact: Fact, kin: Sequence[Fact]) -> Iterator[dict[str, Fact]]:
    """The fact's prompt about others: first of its relation, with another object; then of all."""
    related = [other for other in kin if _is_relation(other, fact)]
    for some in (related, kin):
        swapped = [
            replace(fact, subject=other.subject)
            for other in some
            if other.subject != fact.subject
            and not (_is_relation(other, fact) and other.object == fact.object)
        ]
        yield {other.prompt: other for other in swapped}


def _other_relations(fact: Fact, kin: Sequence[Fact]) -> Iterator[dict[str, Fact]]:
    """Other relations of the fact's subject, in its template or in theirs."""
    # a relation under which the subject has the same object would corrupt nothing
    same = {
        other.relation.id
        for other in kin
        if other.subject == fact.subject and other.object == fact.object
    }
    others = [
        other for other in kin if other.relation.id not in same and not _is_relation(other, fact)
    ]
    wordings = {(other.template, other.relation_words): other for other in others}.values()
    swapped = [_in_template(fact, other) for other in wordings]
    # object and rival stay the fact's: they say which of the object's tokens end the prompt
    swapped += [
        replace(fact, template=other.template, relation_words=other.relation_words)
        for other in wordings
    ]
    yield {other.prompt: other for other in swapped if other is not None}


def _is_relation(other: Fact, fact: Fact) -> bool:
    """Whether `other` is of the fact's relation, by its id, or by its name in another data set."""
    one, two = other.relation, fact.relation
    return one.id == two.id or one.name.casefold() == two.name.casefold()


def _in_template(fact: Fact, other: Fact) -> Fact | None:
    """`fact` with `other`'s relation words in its own template, if both begin and go on alike."""
    around, foreign = _around(fact), _around(other)
    if not fact.relation_words or len(around) != len(foreign):
        return None
    *inner, last = zip(around, foreign, strict=True)
    tails = [text.split("{}")[0] if "{}" in text else "" for text in last]
    if any(a != b for a, b in inner) or tails[0] != tails[1]:
        return None
    pieces = [
        text for pair in zip(around, (*other.relation_words, ""), strict=True) for text in pair
    ]
    return replace(fact, template="".join(pieces), relation_words=other.relation_words)


def _around(fact: Fact) -> list[str]:
    """What stands before, between and behind the relation's words in the template."""
    rest, pieces = fact.template, []
    for words in fact.relation_words:
        before, _, rest = rest.partition(words)
        pieces.append(before)
    return [*pieces, rest]
