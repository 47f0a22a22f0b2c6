"""Where can a fact's relation be read off the model's states? Linear probes, held to a control.

A relation that can be decoded at a site is there; whether the model uses it there is another
question, which patching answers (Belinkov 2022). And a probe that has learnt which words stand in
the prompt decodes it as well: the control task (Hewitt and Liang 2019) asks how much of
the accuracy such a probe would have.
"""

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.utilities.components_utils import get_act_name

from kedit.errors import InputError
from kedit.facts import Fact
from kedit.forward.openings import Tokens
from kedit.models.prompts import device, encode
from kedit.results.decoding import Decoded
from kedit.stats import Interval, bootstrap_ratio, rate_interval

SITES = ("resid_post", "mlp_out", "attn_out", "z")
ROWS = 64  # of a batch
COMPONENTS = 64  # that a probe reads
TOLERANCE = 1e-3  # of the gradient; scikit-learn's 1e-4 is no more accurate, in twice the time

Split = Literal["subject", "wording"]
ReadAt = tuple[str, int, int | None]  # site, layer, head
Part = tuple[Int[ndarray, " train"], Int[ndarray, " held_out"]]


@dataclass(frozen=True, eq=False)
class Features:
    """What stands at one position of each fact's prompt.

    Args:
        relations, subjects, wordings: of each fact: its relation's id, its subject, its template.
        resid_post, mlp_out, attn_out: the latter two as they reach the residual stream.
        z: the heads' outputs before W_O.
    """

    relations: tuple[str, ...]
    subjects: tuple[str, ...]
    wordings: tuple[str, ...]
    resid_post: Float[Tensor, "fact layer d_model"]
    mlp_out: Float[Tensor, "fact layer d_model"]
    attn_out: Float[Tensor, "fact layer d_model"]
    z: Float[Tensor, "fact layer head d_head"]

    def groups(self, split: Split) -> tuple[str, ...]:
        """Of each fact, what must not be in both parts."""
        return {"subject": self.subjects, "wording": self.wordings}[split]


@torch.no_grad()
def read_features(model: HookedTransformer, facts: Sequence[Fact], role: str = "last") -> Features:
    """The states at the last position of each prompt that has this role.

    What follows is not seen from there: at the subject of "{} was born in" there is no relation.

    Args:
        role: one of kedit.models.prompts.ROLES; a subject that ends its prompt has its last token
            "last".

    Raises:
        InputError: no facts, or a prompt without such a position.
    """
    if not facts:
        raise InputError("no facts to read: at least one is wanted")
    openings = [_opening(model, fact, role) for fact in facts]
    texts = sorted(dict.fromkeys(openings), key=len)  # equal openings have equal states
    read = [
        _read(model, same[start : start + ROWS])
        for same in (list(group) for _, group in groupby(texts, len))
        for start in range(0, len(same), ROWS)
    ]
    rows = [texts.index(opening) for opening in openings]
    return Features(
        relations=tuple(fact.relation.id for fact in facts),
        subjects=tuple(fact.subject for fact in facts),
        wordings=tuple(fact.template for fact in facts),
        **{site: torch.cat([part[site] for part in read])[rows] for site in SITES},
    )


def decode(
    features: Features, split: Split, folds: int = 5, seed: int = 0, draws: int = 2000
) -> list[Decoded]:
    """A probe of the relation at every site, layer and head: always asked about unseen facts.

    The probe is a multinomial logistic regression (L2, C = 1, classes weighed alike) on the first
    COMPONENTS principal components of the standardised features, scaled together to a mean square
    of one; all of this is found on the training part. So a probe reads no more numbers of the
    residual stream than of a head, is held down as much, and is fitted in milliseconds.

    Args:
        split: "subject": no subject is in both parts, but wordings are, and a probe of the words
            does well, on the control task too. "wording": no wording is in both, so that what is
            decoded goes beyond the words. The control is then at chance: its relations of the
            wordings held out are anyone's guess. With two or three wordings a relation, features
            of no use come out below chance: least has been seen of the relation asked about.
        seed: of the parts, of the bootstrap, and of the control's relations, which are drawn as
            often as the facts have them, anew for each fold, lest one draw decide.
        draws: of the bootstrap, which draws held-out subjects or wordings; the probes stay.

    Raises:
        InputError: see `parts`.
    """
    relations = np.unique(features.relations, return_inverse=True)[1]
    wordings = np.unique(features.wordings, return_inverse=True)[1]
    cells, generator = list(_cells(features)), np.random.default_rng(seed)
    hits = np.zeros((len(relations), len(cells), 2))
    for train, held_out in parts(features, split, folds, seed):
        control = generator.choice(relations, wordings.max() + 1)[wordings]
        for index, (_, values) in enumerate(cells):
            known, asked = _components(values[train], values[held_out])
            for task, labels in enumerate((relations, control)):
                said = _said(known, labels[train], asked)
                hits[held_out, index, task] = said == labels[held_out]
    groups = np.unique(features.groups(split), return_inverse=True)[1]
    scores = np.concatenate([hits, hits[..., :1] - hits[..., 1:]], axis=2)
    sums = np.stack([scores[groups == group].sum(0) for group in range(groups.max() + 1)])
    counts = np.bincount(groups).astype(float)
    rates = rate_interval(sums[..., :2], counts)
    gaps = bootstrap_ratio(sums[..., 2], counts, draws, seed)

    def at(found: Interval, *place: int) -> Interval:
        return Interval(*(np.asarray(bound[place]) for bound in found))

    chance = float(np.bincount(relations).max() / len(relations))
    return [
        Decoded(*place, at(rates, cell, 0), at(rates, cell, 1), at(gaps, cell), chance)
        for cell, (place, _) in enumerate(cells)
    ]


def parts(features: Features, split: Split, folds: int = 5, seed: int = 0) -> list[Part]:
    """For each fold, which facts train the probe and which are held out: every fact once.

    Relations are spread over the folds as evenly as whole subjects or wordings can be.

    Raises:
        InputError: fewer than two relations; more folds than subjects or wordings, or than any
            relation has facts; a relation with a single subject or wording.
    """
    relations, groups = features.relations, features.groups(split)
    facts = Counter(relations)
    if len(facts) < 2:
        raise InputError(f"relations: {', '.join(facts)}: two are wanted, to be told apart")
    most = min(len(set(groups)), max(facts.values()))
    if not 2 <= folds <= most:
        raise InputError(f"{folds} folds: 2 to {most} are wanted, for want of {split}s or facts")
    own = Counter(relation for relation, _ in set(zip(relations, groups, strict=True)))
    alone = [relation for relation, n_own in own.items() if n_own < 2]
    if alone:
        raise InputError(f"relation {alone[0]} has a single {split}: two are wanted")
    with warnings.catch_warnings():
        # a rare relation is missing from some folds' held-out part, and that does no harm
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        cut = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        return list(cut.split(np.zeros(len(groups)), relations, groups))


def _opening(model: HookedTransformer, fact: Fact, role: str) -> Tokens:
    """The prompt's tokens up to the last with this role."""
    prompt = encode(model, fact)
    found = [pos for pos, own in enumerate(prompt.roles) if own == role]
    if not found:
        raise InputError(
            f"no {role!r} token in {fact.prompt!r}: it has {sorted(set(prompt.roles))}"
        )
    return tuple(prompt.tokens[: found[-1] + 1].tolist())


def _read(
    model: HookedTransformer, texts: Sequence[Tokens]
) -> dict[str, Float[Tensor, "text layer ..."]]:
    """Each site's states at the last token of equally long texts."""
    tokens, layers = torch.tensor(texts, device=device(model)), range(model.cfg.n_layers)
    _, cache = model.run_with_cache(
        tokens,
        return_cache_object=False,
        names_filter=[get_act_name(site, layer) for site in SITES for layer in layers],
        pos_slice=-1,
        stop_at_layer=model.cfg.n_layers,
        attention_mask=torch.ones_like(tokens),  # else guessed from padding tokens
    )
    states = {site: [cache[get_act_name(site, layer)][:, 0] for layer in layers] for site in SITES}
    return {site: torch.stack(own, 1).float().cpu() for site, own in states.items()}


def _cells(features: Features) -> Iterator[tuple[ReadAt, Float[ndarray, "fact d"]]]:
    """Every site, layer and head, and what the facts have there."""
    for site in SITES:
        values = getattr(features, site).double().numpy()
        for layer in range(values.shape[1]):
            if site == "z":
                for head in range(values.shape[2]):
                    yield (site, layer, head), values[:, layer, head]
            else:
                yield (site, layer, None), values[:, layer]


def _components(
    train: Float[ndarray, "train d"], held_out: Float[ndarray, "held_out d"]
) -> tuple[Float[ndarray, "train component"], Float[ndarray, "held_out component"]]:
    """Both parts in the training part's principal components, of mean square one there."""
    scaler = StandardScaler().fit(train)
    known, asked = (np.asarray(scaler.transform(part)) for part in (train, held_out))
    directions = np.linalg.svd(known, full_matrices=False)[2][:COMPONENTS].T
    known, asked = known @ directions, asked @ directions
    size = known.std() or 1.0  # where all facts look the same
    return known / size, asked / size


def _said(
    known: Float[ndarray, "train component"],
    labels: Int[ndarray, " train"],
    asked: Float[ndarray, "held_out component"],
) -> Int[ndarray, " held_out"]:
    """What a probe trained on `known` says about `asked`."""
    if (labels == labels[0]).all():  # of few wordings, whose drawn relations can be one
        return np.full(len(asked), labels[0])
    probe = LogisticRegression(class_weight="balanced", tol=TOLERANCE, max_iter=10_000)
    return probe.fit(known, labels).predict(asked)
