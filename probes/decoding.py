"""Linear probes: from which of the model's activations can a fact's relation be decoded?

A probe is trained to name the relation from one activation, at one layer and one position. High
accuracy means that the activation contains the relation. It does not mean that the model uses it
there, which patching tests instead (Belinkov 2022). It may even mean only that the probe recognises
the prompt's words. A control task measures this: each wording gets a random relation, which only a
probe that has memorised the wordings can name (Hewitt and Liang 2019). What counts is by how much
the accuracy exceeds the control's.
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
from kedit.stats import bootstrap_ratio, rate_interval

SITES = ("resid_post", "mlp_out", "attn_out", "z")
ROWS_PER_BATCH = 64
COMPONENTS = 64  # principal components that a probe reads
# on the gradient, where fitting stops; scikit-learn's 1e-4 takes twice the time for equal accuracy
TOLERANCE = 1e-3

Split = Literal["subject", "wording"]
ReadAt = tuple[str, int, int | None]  # site, layer, head
Part = tuple[Int[ndarray, " train"], Int[ndarray, " held_out"]]


@dataclass(frozen=True, eq=False)
class Features:
    """The model's activations at one position of each fact's prompt.

    Args:
        relations: each fact's relation, by id.
        subjects: each fact's subject.
        wordings: each fact's template.
        resid_post: residual after each layer.
        mlp_out, attn_out: outputs of MLPs and attention as they are added to the residual stream.
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
        """Each fact's subject or wording, which must not be both in training and held-out data."""
        return {"subject": self.subjects, "wording": self.wordings}[split]


@torch.no_grad()
def read_features(model: HookedTransformer, facts: Sequence[Fact], role: str = "last") -> Features:
    """Reads the activations at the last position of each prompt that has this role.

    A position does not see the words after it: at the subject of "{} was born in", the relation has
    not been read yet.

    Args:
        role: one of kedit.models.prompts.ROLES. The last token of a prompt has the role "last",
            even if it belongs to the subject.

    Raises:
        InputError: there are no facts, or a prompt has no such position.
    """
    if not facts:
        raise InputError("no facts: at least one is needed to read activations of")
    openings = [_opening(model, fact, role) for fact in facts]
    texts = sorted(dict.fromkeys(openings), key=len)  # equal openings have equal activations
    read = [
        _read(model, same_length[start : start + ROWS_PER_BATCH])
        for same_length in (list(group) for _, group in groupby(texts, len))
        for start in range(0, len(same_length), ROWS_PER_BATCH)
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
    """Trains a probe of the relation at every site, layer and head, and tests it on unseen facts.

    The probe is a multinomial logistic regression (L2, C = 1, balanced class weights) on the first
    COMPONENTS principal components of the standardised features. The components are scaled by one
    factor to a mean square of 1. All of this is fitted on the training data. Probes of the residual
    stream thus read as many numbers as probes of a head and are regularised as strongly, so that
    their accuracies can be compared. A probe is fitted in milliseconds.

    Args:
        features: the activations, by `read_features`.
        split: what must not be both in training and held-out data. With "subject", wordings may be
            in both: a probe that recognises the words does well, on the control task, too. With
            "wording", no wording is in both, so that an accurate probe has learnt more than words.
            The control is then at chance, because the random relation of a held-out wording cannot
            be known. With two or three wordings per relation, useless features give accuracies
            below chance: the relation of a held-out wording is the one least seen in training.
        folds: number of parts for cross-validation.
        seed: seed of the folds, of the bootstrap and of the control's relations. These are drawn
            with the frequencies that relations have among the facts, and anew in each fold, so that
            the control does not depend on a single draw.
        draws: number of bootstrap draws of held-out subjects or wordings. The probes are not
            trained again.

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
            seen, unseen = _components(values[train], values[held_out])
            for task, labels in enumerate((relations, control)):
                predicted = _predicted(seen, labels[train], unseen)
                hits[held_out, index, task] = predicted == labels[held_out]
    groups = np.unique(features.groups(split), return_inverse=True)[1]
    # accuracy on relations, on the control, and the difference: (fact, cell, 3)
    scores = np.concatenate([hits, hits[..., :1] - hits[..., 1:]], axis=2)
    sums = np.stack([scores[groups == group].sum(0) for group in range(groups.max() + 1)])
    counts = np.bincount(groups).astype(float)
    rates = rate_interval(sums[..., :2], counts)
    gaps = bootstrap_ratio(sums[..., 2], counts, draws, seed)

    chance = float(np.bincount(relations).max() / len(relations))
    return [
        Decoded(*read_at, rates.at(cell, 0), rates.at(cell, 1), gaps.at(cell), chance)
        for cell, (read_at, _) in enumerate(cells)
    ]


def parts(features: Features, split: Split, folds: int = 5, seed: int = 0) -> list[Part]:
    """Splits the facts into training and held-out indices for each fold; each is held out once.

    A subject (or wording) is never divided between folds. Under this condition, relations are
    spread over the folds as evenly as possible.

    Raises:
        InputError: there are fewer than two relations, a relation has a single subject or wording,
            or `folds` is below 2, above the number of subjects or wordings, or above the number of
            facts of the most frequent relation.
    """
    relations, groups = features.relations, features.groups(split)
    facts = Counter(relations)
    if len(facts) < 2:
        raise InputError(f"relations {', '.join(facts)}: a probe needs at least two to distinguish")
    most = min(len(set(groups)), max(facts.values()))
    if not 2 <= folds <= most:
        raise InputError(
            f"folds {folds}: must be 2 to {most}, because there are not more {split}s or facts"
        )
    n_groups = Counter(relation for relation, _ in set(zip(relations, groups, strict=True)))
    alone = [relation for relation, n in n_groups.items() if n < 2]
    if alone:
        raise InputError(f"relation {alone[0]} has a single {split}: at least two are needed")
    with warnings.catch_warnings():
        # a rare relation is missing from the held-out facts of some folds, which does no harm
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        shuffled = _shuffled(groups, seed)
        return list(StratifiedGroupKFold(folds).split(np.zeros(len(groups)), relations, shuffled))


def _shuffled(groups: Sequence[str], seed: int) -> Int[ndarray, " fact"]:
    """Returns each fact's group as a number, where a seed decides which group gets which number.

    Among groups with equally many facts of every relation, StratifiedGroupKFold takes the smaller
    number first. Its own `shuffle` divides groups without regard to relations before scikit-learn
    1.8 (pull request 32540), and gives the same parts as this from there on.
    """
    names, number = np.unique(np.array(groups), return_inverse=True)
    order = np.arange(len(names))
    np.random.RandomState(seed).shuffle(order)
    return np.argsort(order)[number]


def _opening(model: HookedTransformer, fact: Fact, role: str) -> Tokens:
    """The prompt's tokens up to the last token with this role."""
    prompt = encode(model, fact)
    found = [pos for pos, other in enumerate(prompt.roles) if other == role]
    if not found:
        raise InputError(
            f"{fact.prompt!r} has no token of the role {role!r}: its tokens' roles are "
            f"{', '.join(sorted(set(prompt.roles)))}"
        )
    return tuple(prompt.tokens[: found[-1] + 1].tolist())


def _read(
    model: HookedTransformer, texts: Sequence[Tokens]
) -> dict[str, Float[Tensor, "text layer ..."]]:
    """Reads each site's activations at the last token of texts of the same length."""
    tokens, layers = torch.tensor(texts, device=device(model)), range(model.cfg.n_layers)
    _, cache = model.run_with_cache(
        tokens,
        return_cache_object=False,
        names_filter=[get_act_name(site, layer) for site in SITES for layer in layers],
        device=tokens.device,
        pos_slice=-1,
        stop_at_layer=model.cfg.n_layers,
        attention_mask=torch.ones_like(tokens),  # else guessed from padding tokens
    )
    acts = {site: [cache[get_act_name(site, layer)][:, 0] for layer in layers] for site in SITES}
    return {site: torch.stack(by_layer, 1).float().cpu() for site, by_layer in acts.items()}


def _cells(features: Features) -> Iterator[tuple[ReadAt, Float[ndarray, "fact d"]]]:
    """Yields every site, layer and head, with the facts' activations there."""
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
    """Projects both onto the training data's principal components, scaled to a mean square of 1."""
    scaler = StandardScaler().fit(train)
    seen, unseen = (np.asarray(scaler.transform(values)) for values in (train, held_out))
    directions = np.linalg.svd(seen, full_matrices=False)[2][:COMPONENTS].T
    seen, unseen = seen @ directions, unseen @ directions
    size = seen.std() or 1.0  # 0 where all facts have the same activation
    return seen / size, unseen / size


def _predicted(
    seen: Float[ndarray, "train component"],
    labels: Int[ndarray, " train"],
    unseen: Float[ndarray, "held_out component"],
) -> Int[ndarray, " held_out"]:
    """Trains a probe on `seen` and predicts the labels of `unseen`."""
    # with few wordings, the control may have drawn the same relation for all of them
    if (labels == labels[0]).all():
        return np.full(len(unseen), labels[0])
    probe = LogisticRegression(class_weight="balanced", tol=TOLERANCE, max_iter=10_000)
    return probe.fit(seen, labels).predict(unseen)
