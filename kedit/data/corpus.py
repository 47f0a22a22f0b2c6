"""Running text: what ships with kedit, a file, a data set of the hub, or what the model says.

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
PIECE = 2**17  # characters that are tokenized at once
TOGETHER = 32  # chunks of its own text that a model says at once


@dataclass(frozen=True)
class Corpus:
    """Running text that a model can be shown.

    Args:
        source: "kedit" for the text that ships with kedit, "kedit:held-out" for other documents of
            it, a text file, a .jsonl file with a field "text" (either of them also .xz or .gz),
            "hf:NAME[:CONFIG[:SPLIT]]" for a data set of the Hugging Face hub ("train" unless a
            split is named), or "self" for what the model says when nothing is said to it.
        seed: of the model's own text; nothing else depends on it.
    """

    source: str = SELF
    seed: int = 0

    @property
    def file(self) -> Path | None:
        """The file that it is read from, if it is one."""
        if self.source in SHIPPED:
            return Path(data.__file__).with_name("text") / SHIPPED[self.source]
        is_file = self.source != SELF and not self.source.startswith(HUB)
        return Path(self.source) if is_file else None

    @property
    def name(self) -> str:
        """What a reader calls it."""
        if self.source == SELF:
            return f"the model's own text, seed {self.seed}"
        if self.file is not None:
            return NAMES.get(self.source, self.file.name)
        return self.source

    def digest(self) -> str:
        """What tells it from every other corpus, wherever its file lies.

        A data set of the hub is told by its name alone, the model's own text by its seed: of which
        model is for the caller to add.

        Raises:
            InputError: the file cannot be read.
        """
        if self.file is None:
            is_own = self.source == SELF
            return f"{self.name}, {TOGETHER} chunks at once" if is_own else self.name
        digest = hashlib.sha256(b"records" if self._has_records else b"text")
        try:
            with open_bytes(self.file) as raw:
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
        if self.source == SELF:
            packed = _own_text(model, window, self.seed, first)
        else:
            packed = itertools.islice(_packed(self.token_ids(model), window), first, None)
        for chunk in packed:
            yield (*start, *chunk)

    @property
    def _has_records(self) -> bool:
        return self.file is not None and ".jsonl" in self.file.suffixes

    def _lines(self) -> Iterator[str]:
        """Lines of a text file, or else whole documents; each ends with a new line."""
        if self.file is not None and not self._has_records:
            yield from self._file_lines(self.file)
            return
        rows = _hub_rows(self.source) if self.file is None else records(self.file)
        for location, row in rows:
            text = row.get("text")
            if isinstance(text, str) and not text.strip():
                continue  # usual: WikiText has an empty row between any two
            text = field(location, row, "text")
            yield text if text.endswith("\n") else f"{text}\n"

    def _file_lines(self, path: Path) -> Iterator[str]:
        try:
            with open_text(path) as lines:
                yield from lines
        except UNREADABLE as error:
            raise self._refusal(error) from None

    def _refusal(self, error: Exception) -> InputError:
        return InputError(f"{self.source}: cannot be read as text: {error}")


def corpus_of(model_name: str, source: str, seed: int = 0, held_out: bool = False) -> Corpus:
    """The text that a setting names; for "", the one that ships with kedit.

    That text is about our world, of which the toy has never heard: for the toy, "" is its own text.

    Args:
        held_out: "" is the part of kedit's text that is held out.
    """
    default = SELF if model_name == "toy" else HELD_OUT if held_out else KEDIT
    return Corpus(source or default, seed)


def _hub_rows(source: str) -> Iterator[tuple[str, Record]]:
    """Rows of a data set of the Hugging Face hub, each with its location, read as they are needed."""
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
