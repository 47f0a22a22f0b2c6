"""Where running text comes from: a file, a data set of the hub, or what the model itself says.

It is packed: documents follow one another, a new line behind each, and what they give is cut into
chunks of one length. No end token stands between them: its key is no word's, and it is no part of
the text that an edit should leave alone.
"""

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from transformer_lens import HookedTransformer

from kedit.data.fields import Record, field
from kedit.data.read import UNREADABLE, open_bytes, open_text, records
from kedit.errors import InputError
from kedit.generation import sampled
from kedit.model import quiet
from kedit.prompts import bos_ids, plain_ids
from kedit.reading import Tokens

HUB = "hf:"
PIECE = 2**17  # characters that are tokenized at once
TOGETHER = 32  # chunks of its own text that a model says at once


@dataclass(frozen=True)
class Corpus:
    """Running text that a model can be shown.

    Args:
        source: a text file, a .jsonl file with a field "text" (either of them also .xz or .gz),
            "hf:NAME[:CONFIG[:SPLIT]]" for a data set of the Hugging Face hub ("train" unless a
            split is named), or "" for what the model says when nothing is said to it.
        seed: of the model's own text; nothing else depends on it.
    """

    source: str = ""
    seed: int = 0

    @property
    def is_file(self) -> bool:
        return bool(self.source) and not self.source.startswith(HUB)

    @property
    def name(self) -> str:
        """What a reader calls it."""
        if self.is_file:
            return Path(self.source).name
        return self.source or f"the model's own text, seed {self.seed}"

    def digest(self) -> str:
        """What tells it from every other corpus, wherever its file lies.

        A data set of the hub is told by its name alone, the model's own text by its seed: of which
        model is for the caller to add.

        Raises:
            InputError: the file cannot be read.
        """
        if not self.is_file:
            return self.name if self.source else f"{self.name}, {TOGETHER} chunks at once"
        digest = hashlib.sha256(b"records" if self._has_records else b"text")
        try:
            with open_bytes(Path(self.source)) as raw:
                while chunk := raw.read(1 << 20):
                    digest.update(chunk)
        except OSError as error:
            raise self._refusal(error) from None
        return digest.hexdigest()

    def token_ids(self, model: HookedTransformer) -> Iterator[Tokens]:
        """All tokens of a file or a data set from its start on, piece by piece, without BOS.

        Raises:
            InputError: it cannot be read, or a record has no text.
        """
        for piece in _pieces(self._lines()):
            with quiet():  # the tokenizer would warn that no context holds them all
                ids = plain_ids(model, piece)
            yield ids

    def chunks(self, model: HookedTransformer, window: int, first: int = 0) -> Iterator[Tokens]:
        """Chunks of `window` tokens, from chunk number `first` on; BOS in front, not counted.

        Of a file or a data set every token is in one chunk, in order, but for those at its end that
        fill no chunk. The model's own text has no end, and each chunk of it begins a new one.

        Raises:
            InputError: as `token_ids`.
        """
        start = tuple(bos_ids(model))
        if self.source:
            packed = itertools.islice(_packed(self.token_ids(model), window), first, None)
        else:
            packed = _own_text(model, window, self.seed, first)
        for chunk in packed:
            yield (*start, *chunk)

    @property
    def _has_records(self) -> bool:
        return ".jsonl" in Path(self.source).suffixes

    def _lines(self) -> Iterator[str]:
        """Lines of a text file, or else whole documents; each ends with a new line."""
        if self.is_file and not self._has_records:
            yield from self._file_lines()
            return
        rows = records(self.source) if self.is_file else _hub_rows(self.source)
        for place, row in rows:
            text = row.get("text")
            if isinstance(text, str) and not text.strip():
                continue  # usual: WikiText has an empty row between any two
            text = field(place, row, "text")
            yield text if text.endswith("\n") else f"{text}\n"

    def _file_lines(self) -> Iterator[str]:
        path = Path(self.source)
        try:
            with open_text(path) as lines:
                yield from lines
        except UNREADABLE as error:
            raise self._refusal(error) from None

    def _refusal(self, error: Exception) -> InputError:
        return InputError(f"{self.source}: cannot be read as text: {error}")


def _hub_rows(source: str) -> Iterator[tuple[str, Record]]:
    """Rows of a data set of the Hugging Face hub, each with its place, read as they are needed."""
    import datasets  # not above: it takes a second, and files need none of it

    _, name, config, split = [*source.split(":", 3), "", ""][:4]
    try:
        with quiet():
            rows = datasets.load_dataset(
                name, config or None, split=split or "train", streaming=True
            )
        for number, row in enumerate(rows):
            yield f"{source}, row {number}", row
    # of any kind: the network's, the hub's, the file formats' below it
    except Exception as error:
        raise InputError(
            f"{source}: cannot be had from the Hugging Face hub (no network, or no such name, "
            "configuration or split; hf:NAME:CONFIG:SPLIT is wanted): give a text file instead. "
            f"It said: {str(error)[:150]}"
        ) from error


def _pieces(lines: Iterable[str]) -> Iterator[str]:
    """Lines in pieces that are tokenized at once, of about PIECE characters.

    Cut in front of a line that is not blank, so that tokens are those of the whole text; but for
    blank lines right before a cut, which may have been tokenized together with what follows.
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
    held: Tokens = ()
    for ids in pieces:
        held += ids
        full = len(held) // window * window
        for start in range(0, full, window):
            yield held[start : start + window]
        held = held[full:]


def _own_text(model: HookedTransformer, window: int, seed: int, first: int) -> Iterator[Tokens]:
    """What the model says when nothing is said to it, from chunk number `first` on.

    Chunks are said TOGETHER at a time, each time by a seed of their own, so that later ones can be
    had without those before them. A text that ends within its chunk is followed by another.
    """
    newline = plain_ids(model, "\n")
    opening = tuple(bos_ids(model)) or newline
    for group in itertools.count(first // TOGETHER):
        chunks: list[Tokens] = [()] * TOGETHER
        for attempt in itertools.count():
            short = [number for number, chunk in enumerate(chunks) if len(chunk) < window]
            if not short:
                break
            room = window - min(len(chunks[number]) for number in short)
            drawn = hashlib.sha256(f"{seed} {group} {attempt}".encode()).digest()
            said = sampled(
                model,
                [opening] * len(short),
                len(opening) + room,
                model.cfg.d_vocab,
                int.from_bytes(drawn[:7], "big"),
            )
            for number, text in zip(short, said, strict=True):
                chunks[number] += (*text, *newline)
        yield from (chunk[:window] for chunk in chunks[max(0, first - group * TOGETHER) :])
