"""Corrupts a prompt: adds noise to the subject or the relation, or puts other words in its place.

Causal tracing asks which activations carry the answer: it corrupts the words that the answer
depends on, then restores activations one at a time. What counts as corrupted therefore decides what
tracing can show. Noise on the embeddings (Meng et al. 2022, ROME) works on any prompt, but puts the
model in states that no text brings about. Other words of the same token length (Zhang and Nanda
2023, arXiv 2309.16042) keep the run a natural one, but there have to be such words.
"""

import random
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from kedit.data import builtin
from kedit.errors import InputError, NoReplacement
from kedit.facts import Fact
from kedit.forward.runs import Run
from kedit.models.masked import AnyModel, embedding_hook, token_embedding
from kedit.models.masked_prompts import fact_prompt
from kedit.models.prompts import Prompt, plain_ids
from kedit.tables import plural
from probes.noise_kinds import LARGEST, noise_kind

PARTS = ("relation", "subject")
KEPT_SHARE = 0.5  # an answer that keeps more of its clean probability was hardly corrupted
UPSTREAM_SEED = 1  # Meng et al.'s code starts each trace with numpy.random.RandomState(1)


@dataclass(frozen=True)
class Corruption:
    """A corrupted run of a prompt.

    Args:
        run: the tokens and hooks of the corrupted run, one row per sample of noise.
        positions: where the corrupted run's input differs from the clean run's.
        description: how the prompt was corrupted, as text for the reader.
    """

    run: Run
    positions: tuple[int, ...]
    description: str


@dataclass(frozen=True)
class Noise:
    """Noise on token embeddings: scale * standard draws, or mean + standard draws @ transform.

    Args:
        scale: standard deviation of a spherical normal distribution, or half the width of a uniform
            distribution.
        uniform: draw from [-scale, scale] instead of a normal distribution.
        mean, transform: mean of a multivariate normal distribution, and a matrix for which
            `transform.T @ transform` is its covariance. They replace `scale`.
        degrees: degrees of freedom of a Student's t distribution with that covariance; None for the
            normal distribution.
        upstream: draw from RandomState(1), as Meng et al.'s code does, whatever the seed is.
        substitute: replace the embedding by the noise instead of adding the noise to it.
    """

    scale: float = 0.0
    uniform: bool = False
    mean: Float[Tensor, " d_model"] | None = None
    transform: Float[Tensor, "d_model d_model"] | None = None
    degrees: float | None = None
    upstream: bool = False
    substitute: bool = False

    def draw(self, shape: tuple[int, int, int], seed: int) -> Float[Tensor, "sample pos d_model"]:
        """Draws noise for every sample and position; the same seed gives the same noise.

        numpy draws on the CPU, so the noise does not depend on the model's device. The numbers fill
        an array (sample, corrupted position, d_model) in this order, and each sample has noise of
        its own, as in Meng et al.'s code: from their seed, the same shape gives their numbers.
        """
        source = np.random.RandomState(UPSTREAM_SEED if self.upstream else seed)
        if self.uniform:
            return torch.from_numpy(source.uniform(-self.scale, self.scale, shape)).float()
        standard = torch.from_numpy(source.randn(*shape))
        if self.transform is None:
            return (self.scale * standard).float()
        noise = standard @ self.transform.double()
        if self.degrees is not None:
            # A t variable with d degrees of freedom is normal * sqrt(d / chi2), and its variance is
            # d / (d - 2) times the normal's: d - 2 in place of d keeps the given covariance.
            chi2 = torch.from_numpy(source.chisquare(self.degrees, (*shape[:2], 1)))
            noise = noise * ((self.degrees - 2) / chi2).sqrt()
        assert self.mean is not None
        return (self.mean.double() + noise).float()


def noise_rule(model: AnyModel, rule: str, facts: Sequence[Fact], part: str) -> Noise:
    """Builds the noise that `rule` names, with sizes measured on the embeddings of these facts.

    The rules are those of Meng et al.'s causal tracing code. "s", "u" and a plain number agree with
    their code. "m" and "t" differ in two ways. First, their code measures mean and covariance on
    the embeddings of WikiText-103's tokens. Second, their "t" scales the mean together with the
    normal noise around it, by chi-square numbers that are drawn once for all facts. Here, the mean
    is not scaled, and the chi-square numbers are drawn along with the noise.

    Args:
        rule: One of these forms:

            - "s3": normal noise of 3 times the standard deviation of all embedding entries of the
              corrupted words' tokens;
            - "m": normal noise with mean and covariance of the embeddings of the facts' prompts;
            - "t5": Student's t with 5 degrees of freedom and the mean and covariance of "m";
            - "u0.1": uniform noise in [-0.1, 0.1];
            - "0.03": normal noise with this standard deviation.

            With "upstream:" before it, the noise is drawn from the same seed for every fact, as in
            their code ("upstream:u0.1"; "upstream" alone is "upstream:s3"). With "=" after it, the
            noise replaces the embedding instead of being added to it ("s3=").
        facts: facts whose words are corrupted. Give all facts of an experiment, so that all get
            noise of the same size.
        part: "relation" or "subject".

    Raises:
        InputError: there is no such rule, the measured size is not above 0 or above LARGEST, or
            there are no facts to measure on.
    """
    if not facts:
        raise InputError("no facts: the size of the noise is measured on at least one fact")
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
                f"noise {rule!r} has the size {scale:g}: must be above 0 and at most {LARGEST:g}"
            )
        noise = Noise(scale, uniform=kind == "u")
    return replace(noise, upstream=upstream, substitute=substitute)


def add_noise(
    model: AnyModel, prompt: Prompt, part: str, noise: Noise, samples: int, seed: int
) -> Corruption:
    """Corrupts one part of the prompt by noise on its token embeddings, in several samples.

    The noise is added before position embeddings are.
    """
    positions = prompt.positions(part)
    columns = torch.tensor(positions, device=prompt.tokens.device)
    drawn = noise.draw((samples, len(positions), model.cfg.d_model), seed).to(
        token_embedding(model).W_E
    )

    def corrupt(embed: Tensor, hook: object) -> Tensor:
        embed = embed.clone()  # an earlier hook may still refer to this tensor
        embed[:, columns] = drawn if noise.substitute else embed[:, columns] + drawn
        return embed

    size = f", standard deviation {noise.scale:.4g}" if noise.scale and not noise.uniform else ""
    return Corruption(
        Run(prompt.tokens.expand(samples, -1), ((embedding_hook(model), corrupt),)),
        positions,
        f"noise on the {part}{size}, {plural(samples, 'sample')}",
    )


def replaced(model: AnyModel, fact: Fact, part: str, pool: Sequence[Fact], seed: int) -> Corruption:
    """Corrupts a prompt by replacing its subject or its relation with other words.

    The new words have as many tokens as the old ones, so that the clean and the corrupted run can
    be compared position by position (Zhang and Nanda 2023, arXiv 2309.16042).

    - A relation is replaced by another relation of the same domain, about the same subject. Its
      words are put into this fact's template if they fit there, otherwise its own template is used.
    - A subject is replaced by another subject of the same relation that has another object, or else
      by a subject of the same domain.

    If `pool` has no such words, they are looked for among the facts that come with kedit. Prompts
    that change the fewest tokens outside of the replaced part are preferred. The choice among
    equally good ones depends only on `seed` and the prompt, never on what the model says.

    Raises:
        NoReplacement: no other words have the same number of tokens at the same positions.
    """
    prompt = fact_prompt(model, fact)
    part_positions = set(prompt.positions(part))
    for candidates in _candidates(fact, part, pool):
        found: dict[str, tuple[int, Prompt, tuple[int, ...]]] = {}
        for text, other in candidates.items():
            candidate = fact_prompt(model, other)
            if len(candidate.tokens) != len(prompt.tokens) or candidate.given != prompt.given:
                continue
            if part == "relation" and candidate.subject != prompt.subject:
                continue
            differs = (candidate.tokens != prompt.tokens).nonzero()[:, 0].tolist()
            if part_positions & set(differs):
                n_outside = len(set(differs) - part_positions)
                found[text] = (n_outside, candidate, tuple(differs))
        if found:
            fewest = min(outside for outside, *_ in found.values())
            best = sorted(text for text, (outside, *_) in found.items() if outside == fewest)
            text = random.Random(prompt_seed(seed, fact)).choice(best)
            _, candidate, differs = found[text]
            return Corruption(Run(candidate.tokens[None]), differs, f"replaced by {text!r}")
    raise NoReplacement(
        f"no other {part}, of the given facts or of those that come with kedit, has the same "
        f"number of tokens at the same positions as that of {fact.prompt!r}: corrupt it by noise"
    )


def prompt_seed(seed: int, fact: Fact) -> int:
    """Derives a fact's seed from its prompt, so that its noise does not depend on other facts."""
    return zlib.crc32(f"{seed}:{fact.prompt}".encode())


def embedding_std(model: AnyModel, texts: Iterable[str]) -> float:
    """Standard deviation of all embedding entries of the texts' tokens; texts are encoded alone."""
    ids = [token for text in texts for token in plain_ids(model, text)]
    return embeddings(model, ids).std().item()


@torch.no_grad()
def embeddings(model: AnyModel, ids: Sequence[int]) -> Float[Tensor, "token d_model"]:
    """Token embeddings at hook_embed, where noise is added (Gemma scales them before this hook)."""
    embed = token_embedding(model)
    tokens: Int[Tensor, "1 token"] = torch.tensor([list(ids)], device=embed.W_E.device)
    return model.hook_dict[embedding_hook(model)](embed(tokens))[0].float()


def _corrupted_words(facts: Iterable[Fact], part: str) -> list[str]:
    if part == "subject":
        return [fact.subject for fact in facts]
    return [
        " ".join(fact.prompt[start:end] for start, end in fact.relation_spans) for fact in facts
    ]


def _candidates(fact: Fact, part: str, pool: Sequence[Fact]) -> Iterator[dict[str, Fact]]:
    """Yields groups of possible replacements for the prompt, by text; the best group first."""
    find = _other_subjects if part == "subject" else _other_relations
    sources = [[other for other in pool if other.relation.domain == fact.relation.domain]]
    if pool is not builtin.load():
        sources += _builtin_sources(fact)
    for source in sources:
        yield from find(fact, source)


def _builtin_sources(fact: Fact) -> Iterator[list[Fact]]:
    """Yields the facts that come with kedit and share the fact's domain; all, if none is known.

    A fact from the user's file may name no domain, or one that kedit does not have. The domains of
    built-in facts with the same subject or relation therefore count as the fact's, too.
    """
    relation, facts = fact.relation, builtin.load()
    named = {relation.id.casefold(), relation.name.casefold()}
    domains = {relation.domain} - {""}
    domains |= {
        other.relation.domain
        for other in facts
        if other.subject == fact.subject
        or named & {other.relation.id.casefold(), other.relation.name.casefold()}
    }
    yield [other for other in facts if other.relation.domain in domains]
    if not domains:
        yield list(facts)


def _other_subjects(fact: Fact, source: Sequence[Fact]) -> Iterator[dict[str, Fact]]:
    """Yields the fact's prompt with other subjects: of its relation first, then of all facts.

    Subjects that have the same object by this relation are left out: they would corrupt nothing.
    """
    related = [other for other in source if _is_relation(other, fact)]
    for group in (related, source):
        swapped = [
            replace(fact, subject=other.subject)
            for other in group
            if other.subject != fact.subject
            and not (_is_relation(other, fact) and other.object == fact.object)
        ]
        yield {other.prompt: other for other in swapped}


def _other_relations(fact: Fact, source: Sequence[Fact]) -> Iterator[dict[str, Fact]]:
    """Yields prompts that put the fact's subject into other relations.

    Each other relation gives two prompts: its words in this fact's template, and its own template.
    """
    # a relation by which the subject has the same object would corrupt nothing
    same = {
        other.relation.id
        for other in source
        if other.subject == fact.subject and other.object == fact.object
    }
    others = [
        other for other in source if other.relation.id not in same and not _is_relation(other, fact)
    ]
    wordings = {(other.template, other.relation_words): other for other in others}.values()
    swapped = [_in_template(fact, other) for other in wordings]
    # the fact's object and rival stay: they decide how many of the object's tokens end the prompt
    swapped += [
        replace(fact, template=other.template, relation_words=other.relation_words)
        for other in wordings
    ]
    yield {other.prompt: other for other in swapped if other is not None}


def _is_relation(other: Fact, fact: Fact) -> bool:
    """Whether both facts have the same relation: by its id, or by its name in another data set."""
    first, second = other.relation, fact.relation
    return first.id == second.id or first.name.casefold() == second.name.casefold()


def _in_template(fact: Fact, other: Fact) -> Fact | None:
    """Puts the relation words of `other` into the template of `fact`; None if they do not fit.

    They fit if both templates have the same text before and between the relation words and, if the
    subject comes last, between the last relation words and the subject. The text that follows both
    may differ: it is the fact's.
    """
    around, other_around = _around(fact), _around(other)
    if not fact.relation_words or len(around) != len(other_around):
        return None
    *inner, last = zip(around, other_around, strict=True)
    tails = [text.split("{}")[0] if "{}" in text else "" for text in last]
    if any(a != b for a, b in inner) or tails[0] != tails[1]:
        return None
    pieces = [
        text for pair in zip(around, (*other.relation_words, ""), strict=True) for text in pair
    ]
    return replace(fact, template="".join(pieces), relation_words=other.relation_words)


def _around(fact: Fact) -> list[str]:
    """The pieces of the template before, between and after the relation words."""
    rest, pieces = fact.template, []
    for words in fact.relation_words:
        before, _, rest = rest.partition(words)
        pieces.append(before)
    return [*pieces, rest]
