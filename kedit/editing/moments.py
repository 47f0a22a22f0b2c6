"""C = E[k kᵀ], the second moment of the keys of running text, not centred: what an edit must spare.

Streamed: chunks of text go through the model up to the highest site and no further, and a sum over
their tokens is all that is kept. Sums lie in the cache folder, finished or not: what was
interrupted goes on where it was, to the same bits, and what was made of more tokens is taken for
less.
"""

import functools
import hashlib
import itertools
import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.cache import hashed, load, store
from kedit.data.corpus import SELF, Corpus, corpus_of
from kedit.editing.write_sites import WriteSite, read_keys
from kedit.errors import InputError
from kedit.models.hugging_face import cache_dir
from kedit.models.prompts import bos_ids, device, plain_ids
from kedit.models.sites import live_hooks
from kedit.progress import progress

log = logging.getLogger("kedit")

FORMAT = 2  # of the files in the cache: another number makes them all anew
WINDOW = 256  # tokens a chunk, BOS not counted
TOGETHER = 2048  # tokens in one forward; not by free memory: sums must not hang on it
# tokens for each dimension of the keys: arXiv 2506.04226 finds 2 to 10 enough
TOKENS_A_KEY, FEWEST_A_KEY = 4, 2
BLOCK = 1024  # rows of the moment that are added to at once
SAVE_AFTER = 60.0  # seconds of work that a kill may cost
RIDGES = (0.0, 1e-10, 1e-8, 1e-6, 1e-4)  # of the mean square of a key's numbers
PROBE = "In 1889, Gustave's tower: déjà 300 m high!\n"  # tells tokenizers apart
NOT_TOLD = {"device", "n_devices", "model_name", "tokenizer_name", "seed"}  # moments do not change


@dataclass(frozen=True, eq=False)
class Moment:
    """E[k kᵀ] over the tokens of a text, k being the keys of `sites` one behind the other.

    Args:
        sites: read at the same tokens, so that several give cross blocks too.
        d_keys: how many numbers the key of each of them has.
        matrix: exactly symmetric; positive semidefinite up to rounding.
        n_tokens: that it is the mean over.
        corpus: the text's name.

    One from elsewhere is handed to an editor as its setting `moments` (`kedit.editing.spared`).
    """

    sites: tuple[WriteSite, ...]
    d_keys: tuple[int, ...]
    matrix: Float[Tensor, "d_keys d_keys"]
    n_tokens: int
    corpus: str

    def block(self, site: WriteSite, other: WriteSite) -> Float[Tensor, "d_key d_other"]:
        """E[k k'ᵀ] of the keys k of one site and k' of another; do not write to it.

        Raises:
            InputError: it is not a moment of both.
        """
        return self.matrix[self._rows(site), self._rows(other)]

    def at(self, rows: Mapping[WriteSite, Int[Tensor, " row"]]) -> "Moment":
        """The moment of some numbers of each site's key, of chosen heads, say."""
        starts = [self._rows(site).start for site in self.sites]
        chosen = [start + rows[site] for start, site in zip(starts, self.sites, strict=True)]
        index = torch.cat(chosen)
        widths = tuple(map(len, chosen))
        return replace(self, d_keys=widths, matrix=self.matrix[index][:, index])

    def shrunk(self, share: float) -> "Moment":
        """With so much of each site's mean diagonal added to its diagonal.

        Directions in which a sample of text has next to no energy look free to write along, and
        other text is not free of them: the fewer tokens and the worse C's condition, the more.
        """
        if not share:
            return self
        diagonal = self.matrix.diagonal()
        means = [diagonal[self._rows(site)].mean().expand(n) for site, n in self._widths]
        matrix = self.matrix.clone()
        matrix.diagonal().add_(share * torch.cat(means))
        return replace(self, matrix=matrix)

    def of(self, site: WriteSite) -> "Moment":
        """The moment of one of the sites."""
        width = self.d_keys[self.sites.index(site)] if site in self.sites else 0
        return Moment((site,), (width,), self.block(site, site), self.n_tokens, self.corpus)

    @functools.cached_property
    def condition(self) -> float:
        """Largest eigenvalue over smallest; infinite where the smallest is zero but for rounding.

        In Gemma 3 270M, at layer 5 and by default: 2e4 at W_out, 6e5 at W_O. Takes the cube of the
        keys' length in time: half a second for 2,048 numbers, minutes for 16,384.
        """
        values = torch.linalg.eigvalsh(self.matrix)
        smallest, largest = float(values[0]), float(values[-1])
        return largest / smallest if smallest > largest * self._rounding else math.inf

    def solve(self, columns: Float[Tensor, "d_keys n"]) -> Float[Tensor, "d_keys n"]:
        """C⁻¹x of each column x, in float64.

        Where C is singular (fewer tokens than numbers in a key, or neurons that never fire) it is
        (C + r·I)⁻¹x, r being the least of RIDGES, times the mean of C's diagonal, with which it is
        not; a warning says so.
        """
        return torch.cholesky_solve(columns.to(self.matrix), self._factor)

    @functools.cached_property
    def _factor(self) -> Tensor:
        """The lower Cholesky factor of C, or of C with a ridge."""
        diagonal = self.matrix.diagonal()
        for ridge in RIDGES:
            factor = self.matrix.clone()
            factor.diagonal().add_(ridge * diagonal.mean())
            factor, failed = torch.linalg.cholesky_ex(factor)
            # a pivot made of rounding passes for positive, and C⁻¹ is then of its size
            if not failed and factor.diagonal().min() ** 2 > self._rounding * diagonal.max():
                if ridge:
                    log.warning(
                        "The moment of %s over %d tokens is singular: %.0e of its mean diagonal is "
                        "added to it (more text may mend that)",
                        _told(self.sites),
                        self.n_tokens,
                        ridge,
                    )
                return factor
        raise InputError(
            f"the moment of {_told(self.sites)} cannot be inverted: keys are zero or not finite, "
            "or it has negative eigenvalues"
        )

    @property
    def _widths(self) -> list[tuple[WriteSite, int]]:
        return list(zip(self.sites, self.d_keys, strict=True))

    @property
    def _rounding(self) -> float:
        return len(self.matrix) * torch.finfo(self.matrix.dtype).eps

    def _rows(self, site: WriteSite) -> slice:
        if site not in self.sites:
            raise InputError(f"this is the moment of {_told(self.sites)}, not of {_told((site,))}")
        index = self.sites.index(site)
        start = sum(self.d_keys[:index])
        return slice(start, start + self.d_keys[index])


def moment(
    model: HookedTransformer,
    sites: Sequence[WriteSite],
    source: str = "",
    n_tokens: int = 0,
    seed: int = 0,
    cache: bool = True,
) -> Moment:
    """The moment of one group of sites: `moments` says the rest."""
    return moments(model, [sites], source, n_tokens, seed, cache)[0]


# six parameters: text, its length and its seed are settings that experiments hand through
def moments(
    model: HookedTransformer,
    groups: Sequence[Sequence[WriteSite]],
    source: str = "",
    n_tokens: int = 0,
    seed: int = 0,
    cache: bool = True,
) -> list[Moment]:
    """The moments of several groups of sites, from one pass over the text.

    Read from the start of the text, in whole chunks. BOS counts in none of them: its key is the
    same in all, and no word's (in Gemma 3 270M |k|² at W_out is 15 times a word's at layer 0, 3
    millionths of it at layer 14). Without BOS (GPT-2) every token counts, as in Meng et al.'s code.

    Documents are packed into chunks (`kedit.data.corpus`), so that a token sees the end of the
    document before its own. Meng et al.'s code reads one document at a time, up to the model's
    context. That is another C, and through C⁻¹ another edit: on the toy, whose documents have ten
    tokens, C differs by 57 % and ROME's delta by 70 to 80 %; on a small GPT-2 trained on such
    documents C by 11 %, a delta by 70 to 90 %. For the edit of their C, hand it in
    (`kedit.editing.spared`).

    Args:
        groups: for each moment its sites, those of one layer or of several.
        source, seed: as `kedit.data.corpus.corpus_of` has them.
        n_tokens: of which each moment is the mean, at least; by default TOKENS_A_KEY for each
            number that the stacked key of its group has, or as many as the text has, if these are
            FEWEST_A_KEY or more.
        cache: whether sums are kept, and taken if they are there: a moment of the same text over at
            least as many tokens is taken as it is, and one over fewer is added to. They are known
            by the weights below the sites, so that an edit has only the moments above it made anew.
            While the model has live hooks, nothing is kept.

    Raises:
        InputError: the text cannot be read or is too short, or the model has no such site.
    """
    corpus = corpus_of(str(model.cfg.model_name), source, seed)
    cache = cache and not live_hooks(model)
    window = min(WINDOW, model.cfg.n_ctx - len(bos_ids(model)))
    jobs = _jobs(model, groups, corpus, n_tokens, window, cache)
    sums = _sums(model, list(dict.fromkeys(jobs)), corpus, window)
    return [
        Moment(
            job.sites,
            job.d_keys,
            (sums[job].upper + sums[job].upper.triu(1).T).cpu() / (sums[job].n_chunks * window),
            sums[job].n_chunks * window,
            corpus.name,
        )
        for job in jobs
    ]


@dataclass(frozen=True)
class _Job:
    """A moment to be made.

    Args:
        n_chunks, fewest: how many chunks are wanted, and how many must be had.
        key: tells its sum from all that are over other tokens, but for their number; "" if it is
            not to be kept.
    """

    sites: tuple[WriteSite, ...]
    d_keys: tuple[int, ...]
    n_chunks: int
    fewest: int
    key: str

    @property
    def file(self) -> Path:
        return cache_dir() / "moments" / f"{self.key}.safetensors"


@dataclass
class _Sum:
    """The sum of k kᵀ over the first `n_chunks` chunks, its upper triangle only, in float64."""

    upper: Float[Tensor, "d_keys d_keys"]
    n_chunks: int = 0


def _jobs(
    model: HookedTransformer,
    groups: Sequence[Sequence[WriteSite]],
    corpus: Corpus,
    n_tokens: int,
    window: int,
    cache: bool,
) -> list[_Job]:
    digest_of = functools.cache(hashed)  # most weights lie below several groups
    jobs = []
    for sites in map(tuple, groups):
        if not sites or len(set(sites)) < len(sites):
            raise InputError(f"sites are wanted, each of them once, not {_told(sites) or 'none'}")
        d_keys = tuple(site.d_key(model) for site in sites)
        wanted, fewest = (n_tokens or each * sum(d_keys) for each in (TOKENS_A_KEY, FEWEST_A_KEY))
        key = _key(model, sites, corpus, window, digest_of) if cache else ""
        numbers = (math.ceil(wanted / window), math.ceil(fewest / window))
        jobs.append(_Job(sites, d_keys, *numbers, key))
    return jobs


def _sums(
    model: HookedTransformer, jobs: Sequence[_Job], corpus: Corpus, window: int
) -> dict[_Job, _Sum]:
    """Each job's sum, over as many chunks as it wants at least; those kept are gone on with.

    Raises:
        InputError: the text has fewer chunks than a job must have.
    """
    place, n_bos = device(model), len(bos_ids(model))
    sums = {job: _kept(job, place) for job in jobs}
    todo = {job: sums[job] for job in jobs if sums[job].n_chunks < job.n_chunks}
    if not todo:
        return sums
    sites = sorted({site for job in todo for site in job.sites})
    n_chunks = max(job.n_chunks for job in todo)
    n_done = before = min(own.n_chunks for own in todo.values())
    together = max(1, TOGETHER // (window + n_bos))
    chunks = corpus.chunks(model, window, n_done)
    if corpus.file is not None:  # one that is too short is refused before any work
        ahead = list(itertools.islice(chunks, n_chunks - n_done))
        _require_enough(todo, corpus, n_done + len(ahead), window)
        n_chunks, chunks = n_done + len(ahead), iter(ahead)
    saved = time.monotonic()
    with progress("tokens") as bars:
        bar = bars.add_task(
            f"reading {corpus.name}", total=n_chunks * window, completed=n_done * window
        )
        while batch := list(itertools.islice(chunks, min(together, n_chunks - n_done))):
            keys = read_keys(model, torch.tensor(batch, device=place), sites)
            for job, own in todo.items():
                # each moment is over its own number of chunks, whatever else is made in the pass
                start, stop = own.n_chunks - n_done, min(len(batch), job.n_chunks - n_done)
                if start < stop:
                    rows = [keys[site][start:stop, n_bos:].flatten(0, 1) for site in job.sites]
                    _add(own.upper, torch.cat(rows, 1))
                    own.n_chunks = n_done + stop
            n_done += len(batch)
            if n_done < n_chunks and time.monotonic() - saved >= SAVE_AFTER:
                _keep(model, todo, corpus)
                saved = time.monotonic()
            bars.update(bar, completed=n_done * window)
    if corpus.file is None:
        _require_enough(todo, corpus, n_done, window)
    if n_done > before:  # else the text has no more than what is kept
        _keep(model, todo, corpus)
    return sums


def _require_enough(jobs: Iterable[_Job], corpus: Corpus, n_chunks: int, window: int) -> None:
    """Raises InputError for a text with fewer chunks than a job must have."""
    for job in jobs:
        if n_chunks < job.fewest:
            raise InputError(
                f"{corpus.name} has {n_chunks * window} tokens in whole chunks of {window}, "
                f"{job.fewest * window} are wanted for the keys of {_told(job.sites)}: give more "
                "text (--text FILE, or --text self for what the model itself says), or ask for "
                "fewer tokens (n_tokens, or --tokens-per-dim)"
            )
        if n_chunks < job.n_chunks:
            log.warning(
                "%s has %d tokens, %.1f for each number in a key of %s; %d were asked for",
                corpus.name, n_chunks * window, n_chunks * window / sum(job.d_keys),
                _told(job.sites), job.n_chunks * window,
            )  # fmt: skip


def _kept(job: _Job, place: torch.device) -> _Sum:
    """What the cache has of a sum; a sum over nothing if it has nothing."""
    found = load(job.file) if job.key else None
    if found is not None:
        return _Sum(found["upper"].to(place), int(found["n_chunks"]))
    width = sum(job.d_keys)
    return _Sum(torch.zeros(width, width, dtype=torch.float64, device=place))


def _keep(model: HookedTransformer, sums: Mapping[_Job, _Sum], corpus: Corpus) -> None:
    for job, own in sums.items():
        own.upper.triu_()
        if job.key:
            told = {"model": str(model.cfg.model_name), "sites": _told(job.sites)}
            numbers = {"upper": own.upper.cpu(), "n_chunks": torch.tensor(own.n_chunks)}
            store(job.file, numbers, told | {"corpus": corpus.name})


def _add(total: Float[Tensor, "d_keys d_keys"], keys: Float[Tensor, "token d_keys"]) -> None:
    """Adds keysᵀ @ keys to the upper triangle of `total`, and something to the rest."""
    keys = keys.to(total)
    for start in range(0, len(total), BLOCK):
        rows = slice(start, start + BLOCK)
        total[rows, start:].addmm_(keys[:, rows].T, keys[:, start:])


def _key(
    model: HookedTransformer,
    sites: tuple[WriteSite, ...],
    corpus: Corpus,
    window: int,
    digest_of: Callable[[Tensor], str],
) -> str:
    """A digest of all that the sum's numbers hang on, but for how many chunks it is over."""
    # all of the model says its own text
    own = corpus.source == SELF
    weights = dict(model.named_parameters()) if own else _below(model, sites)
    facts = {
        "format": FORMAT,
        "config": {k: str(v) for k, v in model.cfg.to_dict().items() if k not in NOT_TOLD},
        "weights": {name: digest_of(weight) for name, weight in weights.items()},
        "tokenizer": [*bos_ids(model), *plain_ids(model, PROBE)],
        "sites": [vars(site) for site in sites],
        "corpus": corpus.digest(),
        "window": window,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _below(model: HookedTransformer, sites: tuple[WriteSite, ...]) -> dict[str, Tensor]:
    """The parameters that keys at `sites` hang on, and a few more of the highest layer."""
    top = max(site.layer for site in sites)
    positions = getattr(model, "pos_embed", None)
    parts = [model.embed, *([positions] if positions else []), *model.blocks[: top + 1]]
    below = {id(weight) for part in parts for weight in part.parameters()}
    # what the sites themselves write comes behind their keys: an edit of it leaves them as they are
    behind = {WriteSite(top, "mlp").parameter}
    if WriteSite(top, "mlp") not in sites:
        behind.add(WriteSite(top, "attn").parameter)
    return {
        name: weight
        for name, weight in model.named_parameters()
        if id(weight) in below and name not in behind
    }


def _told(sites: Sequence[WriteSite]) -> str:
    return " + ".join(site.parameter for site in sites)
