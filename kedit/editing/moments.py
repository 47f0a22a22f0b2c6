"""Measures C, the second moment of the keys of running text, which an edit should disturb little.

Chunks of text run through the model up to the highest site, and only the sum of k kᵀ over their
tokens is kept. Sums are saved in the cache folder, finished or not. So an interrupted
computation continues where it stopped, with bit-identical results, and a moment over more tokens is
used where fewer are requested.
"""

import contextlib
import functools
import hashlib
import itertools
import json
import logging
import math
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.cache import alone, cache_dir, hashed, load, store
from kedit.data.corpus import SELF, Corpus, corpus_of
from kedit.editing.second_moment import Moment
from kedit.editing.write_sites import WriteSite, listed, read_keys
from kedit.errors import InputError
from kedit.models.prompts import bos_ids, device, plain_ids
from kedit.models.sites import live_hooks
from kedit.progress import progress

log = logging.getLogger("kedit")

FORMAT = 2  # version of the cache files; with another number, all of them are computed again
WINDOW = 256  # tokens per chunk, without BOS
# tokens per forward; fixed, because with a size that depends on free memory the sums would differ
# in their last bits
TOKENS_PER_BATCH = 2048
# requested and smallest number of tokens per dimension of the keys: arXiv 2506.04226 finds 2 to 10
# sufficient
TOKENS_PER_DIM, FEWEST_PER_DIM = 4, 2
BLOCK = 1024  # rows of the moment that are updated at once
SAVE_AFTER = 60.0  # seconds between saves: the most work that is lost if the process is killed
PROBE = "In 1889, Gustave's tower: déjà 300 m high!\n"  # its tokens differ between tokenizers
# entries of a model's configuration on which moments don't depend
IRRELEVANT = {"device", "n_devices", "model_name", "tokenizer_name", "seed"}


# Moments that somebody still holds, by the key of their sum and their device: editors that spare
# the same text at the same sites share them, since at 1.5 billion parameters one of them takes 0.6
# to 0.9 GB.
_HELD: "weakref.WeakValueDictionary[tuple[str, str], Moment]" = weakref.WeakValueDictionary()


def moment(
    model: HookedTransformer,
    sites: Sequence[WriteSite],
    source: str = "",
    n_tokens: int = 0,
    seed: int = 0,
    cache: bool = True,
) -> Moment:
    """Returns the moment of one group of sites; see `moments`."""
    return moments(model, [sites], source, n_tokens, seed, cache)[0]


# six parameters: experiments pass the text, its length and its seed on from their options
def moments(
    model: HookedTransformer,
    groups: Sequence[Sequence[WriteSite]],
    source: str = "",
    n_tokens: int = 0,
    seed: int = 0,
    cache: bool = True,
) -> list[Moment]:
    """Measures the moments of several groups of sites in one pass over the text.

    The text is read from its start, in whole chunks. BOS is not counted: its key is the same in
    every chunk and unlike any word's (in Gemma 3 270M, |k|² at W_out is 15 times a word's at layer
    0, and 3 millionths of it at layer 14). In models without BOS (GPT-2) every token counts, as in
    Meng et al.'s code.

    Documents are packed into chunks (`kedit.data.corpus`), so a token can see the end of the
    previous document. Meng et al.'s code reads one document at a time, up to the model's context
    length. This gives another C and, through C⁻¹, another edit. On the toy, whose documents have
    ten tokens, C differs by 57 % and ROME's delta by 70 to 80 %. On a small GPT-2 trained on such
    documents, C differs by 11 % and a delta by 70 to 90 %. To get the edit with their C, pass their
    C to the editor (`kedit.editing.spared`).

    Args:
        groups: the sites of each moment, of one layer or of several.
        source, seed: see `kedit.data.corpus.corpus_of`.
        n_tokens: smallest number of tokens in each mean. 0: TOKENS_PER_DIM per dimension of the
            group's stacked key; if the text is shorter, all of it, provided it has FEWEST_PER_DIM
            per dimension.
        cache: whether to use and save cached sums. A cached sum of the same text over at least as
            many tokens is used as it is; one over fewer tokens is extended. The sum of one site is
            taken out of the sum of both sites of its layer, if that is cached. Sums are identified
            by the weights below the sites, so after an edit only the moments above it are computed
            again. While the model has live hooks, nothing is cached.

    Raises:
        InputError: the text cannot be read or is too short, or the model has no such site.
    """
    corpus = corpus_of(str(model.cfg.model_name), source, seed)
    cache = cache and not live_hooks(model)
    window = min(WINDOW, model.cfg.n_ctx - len(bos_ids(model)))
    jobs = _jobs(model, groups, corpus, n_tokens, window, cache)
    on = str(device(model))
    held = {job: _held(job, window, on) for job in jobs}
    found = {job: second for job, second in held.items() if second is not None}
    missing = [job for job in held if job not in found]
    # processes that need the same sums at once, such as the workers of a study, read the text once
    keys = " ".join(sorted(filter(None, (job.key for job in missing))))
    with alone(hashlib.sha256(keys.encode()).hexdigest()) if keys else contextlib.nullcontext():
        sums = _sums(model, missing, corpus, window)
    for job, total in sums.items():
        n_read = total.n_chunks * window
        _mirror(total.upper)
        matrix = total.upper.div_(n_read)
        found[job] = Moment(job.sites, job.d_keys, matrix, n_read, corpus.name)
        if job.key:
            _HELD[job.key, on] = found[job]
    return [found[job] for job in jobs]


@dataclass(frozen=True)
class _Job:
    """A moment to compute.

    Args:
        n_chunks: number of chunks to sum over.
        fewest: smallest number of chunks that is acceptable if the text is too short.
        key: identifies the sum in the cache, whatever its number of chunks; "" if it is not cached.
        both_key: the key of the sum of both sites of the layer, which contains the sum of one site;
            "" if the job is not of one site, or if nothing is cached.
    """

    sites: tuple[WriteSite, ...]
    d_keys: tuple[int, ...]
    n_chunks: int
    fewest: int
    key: str
    both_key: str = ""


@dataclass
class _Sum:
    """The sum of k kᵀ over the first `n_chunks` chunks, in float64.

    Only the upper triangle is used. Entries below the diagonal may hold anything: `_add` leaves
    partial sums there, in the blocks on the diagonal.
    """

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
            raise InputError(
                f"a moment needs sites, each of them once, but got {listed(sites) or 'none'}"
            )
        d_keys = tuple(site.d_key(model) for site in sites)
        requested, fewest = (
            n_tokens or per_dim * sum(d_keys) for per_dim in (TOKENS_PER_DIM, FEWEST_PER_DIM)
        )
        both = (WriteSite(sites[0].layer, "attn"), WriteSite(sites[0].layer, "mlp"))
        key, both_key = (
            _key(model, group, corpus, window, digest_of) if cache and group else ""
            for group in (sites, both if len(sites) == 1 and not model.cfg.attn_only else ())
        )
        numbers = (math.ceil(requested / window), math.ceil(fewest / window))
        jobs.append(_Job(sites, d_keys, *numbers, key, both_key))
    return jobs


def _held(job: _Job, window: int, on: str) -> Moment | None:
    """Returns a moment over enough tokens that is still in use on a device, or None."""
    for key in filter(None, (job.key, job.both_key)):
        second = _HELD.get((key, on))
        if second is not None and second.n_tokens >= job.n_chunks * window:
            return second if key == job.key else second.of(job.sites[0])
    return None


def _sums(
    model: HookedTransformer, jobs: Sequence[_Job], corpus: Corpus, window: int
) -> dict[_Job, _Sum]:
    """Returns each job's sum over the requested number of chunks or more.

    Cached sums are continued.

    Raises:
        InputError: the text has fewer chunks than a job needs at least.
    """
    on, n_bos = device(model), len(bos_ids(model))
    sums = {job: _from_cache(job, on) for job in jobs}
    unfinished = {job: sums[job] for job in jobs if sums[job].n_chunks < job.n_chunks}
    if not unfinished:
        return sums
    sites = sorted({site for job in unfinished for site in job.sites})
    n_chunks = max(job.n_chunks for job in unfinished)
    n_done = n_cached = min(total.n_chunks for total in unfinished.values())
    n_batch = max(1, TOKENS_PER_BATCH // (window + n_bos))
    chunks = corpus.chunks(model, window, n_done)
    if corpus.file is not None:  # so that a file that is too short is refused before any work
        rest = list(itertools.islice(chunks, n_chunks - n_done))
        _require_enough(unfinished, corpus, n_done + len(rest), window)
        n_chunks, chunks = n_done + len(rest), iter(rest)
    saved = time.monotonic()
    with progress("tokens") as bars:
        bar = bars.add_task(
            f"reading {corpus.name}", total=n_chunks * window, completed=n_done * window
        )
        while batch := list(itertools.islice(chunks, min(n_batch, n_chunks - n_done))):
            keys = read_keys(model, torch.tensor(batch, device=on), sites)
            for job, total in unfinished.items():
                # each moment stops at its own number of chunks, so it doesn't depend on the other
                # moments of this pass
                start, stop = total.n_chunks - n_done, min(len(batch), job.n_chunks - n_done)
                if start < stop:
                    rows = [keys[site][start:stop, n_bos:].flatten(0, 1) for site in job.sites]
                    _add(total.upper, torch.cat(rows, 1))
                    total.n_chunks = n_done + stop
            n_done += len(batch)
            if n_done < n_chunks and time.monotonic() - saved >= SAVE_AFTER:
                _save(model, unfinished, corpus)
                saved = time.monotonic()
            bars.update(bar, completed=n_done * window)
    if corpus.file is None:
        _require_enough(unfinished, corpus, n_done, window)
    if n_done > n_cached:  # otherwise the text has no more chunks than the cached sum
        _save(model, unfinished, corpus)
    return sums


def _require_enough(jobs: Iterable[_Job], corpus: Corpus, n_chunks: int, window: int) -> None:
    """Raises InputError for a text that is too short; warns if less than requested is used."""
    for job in jobs:
        if n_chunks < job.fewest:
            raise InputError(
                f"{corpus.name} has {n_chunks * window} tokens in whole chunks of {window}, but "
                f"{job.fewest * window} are needed for the keys of {listed(job.sites)}: use a "
                "longer text (--text FILE, or --text self for text that the model generates), or "
                "fewer tokens (n_tokens, or --tokens-per-dim)"
            )
        if n_chunks < job.n_chunks:
            log.warning(
                "%s has only %d tokens, %.1f for each number in a key of %s; %d were requested",
                corpus.name, n_chunks * window, n_chunks * window / sum(job.d_keys),
                listed(job.sites), job.n_chunks * window,
            )  # fmt: skip


def _from_cache(job: _Job, on: torch.device) -> _Sum:
    """Returns a job's sum from the cache, or an empty sum."""
    found = load(_file(job.key)) if job.key else None
    n_found = 0 if found is None else int(found["n_chunks"])
    if n_found < job.n_chunks and job.both_key and (both := load(_file(job.both_key))) is not None:
        n_both = int(both["n_chunks"])
        if n_both >= job.n_chunks:
            # stacked in the order of `WriteSite`: W_O's keys come first
            (width,) = job.d_keys
            rows = slice(None, width) if job.sites[0].half == "attn" else slice(-width, None)
            return _Sum(both["upper"][rows, rows].to(on, copy=True), n_both)
    if found is not None:
        return _Sum(found["upper"].to(on), n_found)
    d_keys = sum(job.d_keys)
    return _Sum(torch.zeros(d_keys, d_keys, dtype=torch.float64, device=on))


def _file(key: str) -> Path:
    """Returns the file of a cached sum."""
    return cache_dir() / "moments" / f"{key}.safetensors"


def _save(model: HookedTransformer, sums: Mapping[_Job, _Sum], corpus: Corpus) -> None:
    """Saves the sums in the cache, reduced to their upper triangles."""
    for job, total in sums.items():
        # Drops the meaningless entries below the diagonal: `moments` mirrors the upper triangle.
        total.upper.triu_()
        if job.key:
            described = {"model": str(model.cfg.model_name), "sites": listed(job.sites)}
            numbers = {"upper": total.upper.cpu(), "n_chunks": torch.tensor(total.n_chunks)}
            store(_file(job.key), numbers, described | {"corpus": corpus.name})


def _add(total: Float[Tensor, "d_keys d_keys"], keys: Float[Tensor, "token d_keys"]) -> None:
    """Adds the upper triangle of keysᵀ @ keys to `total`.

    It is done in blocks of rows, each from its diagonal block to the right edge. This skips almost
    half the work, and leaves meaningless entries below the diagonal within the diagonal blocks (x),
    which `triu_` drops:

        # # # # # #
        x # # # # #
            # # # #
            x # # #
    """
    keys = keys.to(total)
    for start in range(0, len(total), BLOCK):
        rows = slice(start, start + BLOCK)
        total[rows, start:].addmm_(keys[:, rows].T, keys[:, start:])


def _mirror(upper: Float[Tensor, "d_keys d_keys"]) -> None:
    """Writes the entries above the diagonal below it too, in blocks of rows, without a copy."""
    for start in range(0, len(upper), BLOCK):
        stop = start + BLOCK
        upper[stop:, start:stop] = upper[start:stop, stop:].T
        block = upper[start:stop, start:stop]
        block.copy_(block.triu() + block.triu(1).T)


def _key(
    model: HookedTransformer,
    sites: tuple[WriteSite, ...],
    corpus: Corpus,
    window: int,
    digest_of: Callable[[Tensor], str],
) -> str:
    """Returns a hash of everything that the sum depends on, except the number of chunks."""
    # text that the model generates itself depends on all of its weights
    generated = corpus.source == SELF
    weights = dict(model.named_parameters()) if generated else _below(model, sites)
    facts = {
        "format": FORMAT,
        "config": {k: str(v) for k, v in model.cfg.to_dict().items() if k not in IRRELEVANT},
        "weights": {name: digest_of(weight) for name, weight in weights.items()},
        "tokenizer": [*bos_ids(model), *plain_ids(model, PROBE)],
        "sites": [vars(site) for site in sites],
        "corpus": corpus.digest(),
        "window": window,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _below(model: HookedTransformer, sites: tuple[WriteSite, ...]) -> dict[str, Tensor]:
    """Returns the parameters that keys at `sites` depend on, plus a few of the highest layer."""
    top = max(site.layer for site in sites)
    positions = getattr(model, "pos_embed", None)
    parts = [model.embed, *([positions] if positions else []), *model.blocks[: top + 1]]
    below = {id(weight) for part in parts for weight in part.parameters()}
    # a site's matrix is applied after its key is read, so an edit of it doesn't change the key
    after_keys = {WriteSite(top, "mlp").parameter}
    if WriteSite(top, "mlp") not in sites:
        after_keys.add(WriteSite(top, "attn").parameter)
    return {
        name: weight
        for name, weight in model.named_parameters()
        if id(weight) in below and name not in after_keys
    }
