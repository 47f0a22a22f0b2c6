"""Running text in chunks: kedit's own, a file, a data set of the hub, or sampled from the model.

Documents are packed: they follow one another, separated by new lines, and are cut into chunks.

    document 1 | document 2 | document 3 ...    (| is a new line)
    [ chunk 0 ][ chunk 1 ][ chunk 2 ] ...       (all of the same number of tokens)

There is no end token between documents, since an edit needs to spare words only: the key of an end
token would enter the statistics of keys.
"""

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from transformer_lens import HookedTransformer

from kedit import data
from kedit.data.fields import Record, field
from kedit.data.named import HELD_OUT, HUB, KEDIT, SELF
from kedit.data.read import UNREADABLE, open_bytes, open_text, records
from kedit.errors import InputError
from kedit.forward.generation import sampled
from kedit.forward.reading import Tokens
from kedit.models.load import quiet
from kedit.models.prompts import bos_ids, plain_ids

SHIPPED = {KEDIT: "statistics.txt", HELD_OUT: "held_out.txt"}  # in the package kedit.data.text
NAMES = {KEDIT: "kedit's text", HELD_OUT: "the held-out part of kedit's text"}
PIECE = 2**17  # characters that are tokenized at once, about
CHUNKS_PER_BATCH = 32  # chunks that are sampled at once from the model; they depend on this number


@dataclass(frozen=True)
class Corpus:
    """Running text from one source.

    Args:
        source: "kedit" for the text that ships with kedit; "kedit:held-out" for other documents of
            that text; a text file or a .jsonl file with a field "text", perhaps compressed (.xz or
            .gz); "hf:NAME[:CONFIG[:SPLIT]]" for a data set of the Hugging Face hub, whose split is
            "train" unless one is named; or "self" for text sampled from the model itself, without
            a prompt.
        seed: seed with which "self" is sampled; other sources do not depend on it.
    """

    source: str = SELF
    seed: int = 0

    @property
    def file(self) -> Path | None:
        """The file that the text is read from; None for the hub and for sampled text."""
        if self.source in SHIPPED:
            return Path(data.__file__).with_name("text") / SHIPPED[self.source]
        is_file = self.source != SELF and not self.source.startswith(HUB)
        return Path(self.source) if is_file else None

    @property
    def name(self) -> str:
        """The name of the text in tables, figures and messages."""
        if self.source == SELF:
            return f"the model's own text, seed {self.seed}"
        if self.file is not None:
            return NAMES.get(self.source, self.file.name)
        return self.source

    def digest(self) -> str:
        """Returns a text that identifies the corpus, independent of the path of its file.

        A file is identified by its contents, a data set of the hub by its name, and sampled text by
        its seed; the caller must add which model the text is sampled from.

        Raises:
            InputError: the file cannot be read.
        """
        if self.file is None:
            is_sampled = self.source == SELF
            return f"{self.name}, {CHUNKS_PER_BATCH} chunks at once" if is_sampled else self.name
        digest = hashlib.sha256(b"records" if self._has_records else b"text")
        try:
            with open_bytes(self.file) as raw:
                while chunk := raw.read(1 << 20):
                    digest.update(chunk)
        except OSError as error:
            raise self._unreadable(error) from None
        return digest.hexdigest()

    def token_ids(self, model: HookedTransformer) -> Iterator[Tokens]:
        """Yields the tokens of a file or data set, piece by piece, without BOS.

        Raises:
            InputError: the text cannot be read, or a record has no text.
        """
        for piece in _pieces(self.lines()):
            with quiet():  # without the warning that a piece is longer than the context
                ids = plain_ids(model, piece)
            yield ids

    def chunks(self, model: HookedTransformer, window: int, first: int = 0) -> Iterator[Tokens]:
        """Yields chunks of `window` tokens, after a BOS that is not counted.

        The chunks of a file or data set contain all its tokens in order, except a rest that does
        not fill a chunk. There are infinitely many chunks of sampled text, each of which begins a
        new text.

        Args:
            window: number of tokens per chunk.
            first: number of the chunk to begin with, from 0.

        Raises:
            InputError: as for `token_ids`.
        """
        start = tuple(bos_ids(model))
        if self.source == SELF:
            packed = _sampled_text(model, window, self.seed, first)
        else:
            packed = itertools.islice(_packed(self.token_ids(model), window), first, None)
        for chunk in packed:
            yield (*start, *chunk)

    @property
    def _has_records(self) -> bool:
        return self.file is not None and ".jsonl" in self.file.suffixes

    def lines(self) -> Iterator[str]:
        """Yields the lines of a text file, or else whole documents; each ends with a new line."""
        if self.file is not None and not self._has_records:
            yield from self._file_lines(self.file)
            return
        rows = _hub_rows(self.source) if self.file is None else records(self.file)
        for location, row in rows:
            text = row.get("text")
            if isinstance(text, str) and not text.strip():
                continue  # expected: every second row of WikiText is empty
            text = field(location, row, "text")
            yield text if text.endswith("\n") else f"{text}\n"

    def _file_lines(self, path: Path) -> Iterator[str]:
        try:
            with open_text(path) as lines:
                yield from lines
        except UNREADABLE as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: Exception) -> InputError:
        return InputError(f"{self.source}: cannot be read as text: {error}")


def corpus_of(model_name: str, source: str, seed: int = 0, held_out: bool = False) -> Corpus:
    """Returns the corpus that a setting names.

    Args:
        source: as in `Corpus`; "" for the text that ships with kedit. For the toy model, "" is text
            sampled from it, since the toy's training data has nothing of the world of kedit's text.
        held_out: whether "" names the held-out part of kedit's text.
    """
    default = SELF if model_name == "toy" else HELD_OUT if held_out else KEDIT
    return Corpus(source or default, seed)


def _hub_rows(source: str) -> Iterator[tuple[str, Record]]:
    """Streams the rows of a data set of the Hugging Face hub, each with its location."""
    import datasets  # imported here because it takes a second, and files do not need it

    _, name, config, split = [*source.split(":", 3), "", ""][:4]
    try:
        with quiet():
            rows = datasets.load_dataset(
                name, config or None, split=split or "train", streaming=True
            )
        for number, row in enumerate(rows):
            yield f"{source}, row {number}", row
    # any exception: network, hub and file formats raise their own kinds
    except Exception as error:
        raise InputError(
            f"{source}: cannot be read from the Hugging Face hub (no network, or no such name, "
            "configuration or split; expected hf:NAME:CONFIG:SPLIT): give a text file instead. "
            f"The hub's error: {str(error)[:150]}"
        ) from error


def _pieces(lines: Iterable[str]) -> Iterator[str]:
    """Joins lines into pieces of about PIECE characters, which are tokenized at once.

    A piece ends before a line that is not blank, so that the tokens are those of the whole text.
    The exception is blank lines right before the end of a piece: in the whole text, they may share
    a token with the following line.
    """
    held: list[str] = []
    size = 0
    for line in lines:
        if size >= PIECE and line.strip():
            yield "".join(held)
            held, size = [], 0
        held.append(line)
        size += len(line)
    if held:
        yield "".join(held)


def _packed(pieces: Iterable[Tokens], window: int) -> Iterator[Tokens]:
    """Cuts the tokens of all pieces into chunks of `window` tokens and drops the rest."""
    held: Tokens = ()
    for ids in pieces:
        held += ids
        full = len(held) // window * window
        for start in range(0, full, window):
            yield held[start : start + window]
        held = held[full:]


def _sampled_text(model: HookedTransformer, window: int, seed: int, first: int) -> Iterator[Tokens]:
    """Samples text from the model without a prompt, from chunk number `first` on.

    Chunks are sampled in batches of CHUNKS_PER_BATCH. Each batch has its own seed, so that it does
    not need the batches before it. If a text ends within its chunk, another text follows.
    """
    newline = plain_ids(model, "\n")
    opening = tuple(bos_ids(model)) or newline  # sampling needs a first token
    for group in itertools.count(first // CHUNKS_PER_BATCH):
        chunks: list[Tokens] = [()] * CHUNKS_PER_BATCH
        for attempt in itertools.count():
            short = [number for number, chunk in enumerate(chunks) if len(chunk) < window]
            if not short:
                break
            missing = window - min(len(chunks[number]) for number in short)
            batch_seed = hashlib.sha256(f"{seed} {group} {attempt}".encode()).digest()
            continuations = sampled(
                model,
                [opening] * len(short),
                len(opening) + missing,
                model.cfg.d_vocab,
                int.from_bytes(batch_seed[:7], "big"),
            )
            for number, text in zip(short, continuations, strict=True):
                chunks[number] += (*text, *newline)
        yield from (chunk[:window] for chunk in chunks[max(0, first - group * CHUNKS_PER_BATCH) :])
