"""Running text: packed without loss, the same from every kind of file, and told apart by digest."""

import gzip
import itertools
import json
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from transformer_lens import HookedTransformer

from kedit.data import corpus as room
from kedit.data.corpus import HELD_OUT, KEDIT, SELF, Corpus, corpus_of
from kedit.errors import InputError
from kedit.models.prompts import decoded, plain_ids
from kedit.studies.documents import UNWANTED
from tests.conftest import FamilyOf

LINES = ["Ada Alder was born in Corum.", "The language of Bruno Birch is Danish.", " Hugo — Holly"]
TEXT = "".join(f"{line}\n" for line in LINES * 20)


@pytest.fixture
def text(tmp_path: Path) -> str:
    file = tmp_path / "text.txt"
    file.write_text(TEXT, encoding="utf-8")
    return str(file)


@pytest.fixture(params=["toy", "bosless_gpt2"])
def model(request: pytest.FixtureRequest) -> HookedTransformer:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("piece", [1, 100, 10**6])
def test_no_token_is_lost_or_doubled_and_none_is_padding(
    model: HookedTransformer, text: str, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "PIECE", piece)
    whole = plain_ids(model, TEXT)
    assert sum(Corpus(text).token_ids(model), ()) == whole
    n_bos = int(model.cfg.default_prepend_bos)
    chunks = list(Corpus(text).chunks(model, 20))
    assert all(len(chunk) == 20 + n_bos for chunk in chunks)
    assert all(chunk[:n_bos] == (0,) * n_bos for chunk in chunks)
    packed = sum((chunk[n_bos:] for chunk in chunks), ())
    assert packed == whole[: len(packed)] and len(whole) - len(packed) < 20
    assert list(Corpus(text).chunks(model, 20, first=3)) == chunks[3:]


def test_blank_lines_at_a_cut_stay_with_the_text_before_it(
    toy: HookedTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "PIECE", 1)
    file = tmp_path / "text.txt"
    file.write_text("one\n\n \ntwo", encoding="utf-8")
    pieces = [decoded(toy, *ids) for ids in Corpus(str(file)).token_ids(toy)]
    assert pieces == ["one\n\n \n", "two"]


def test_every_kind_of_file_gives_the_same_tokens(toy: HookedTransformer, tmp_path: Path) -> None:
    records = "".join(json.dumps({"text": line, "n": 1}) + "\n" for line in ["", *LINES * 20, " "])
    written = {
        "a.txt": TEXT.encode(),
        "b.txt": b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode(),
        "a.txt.xz": lzma.compress(TEXT.encode()),
        "a.txt.gz": gzip.compress(TEXT.encode()),
        "a.jsonl": records.encode(),
        "a.jsonl.gz": gzip.compress(records.encode()),
    }
    for name, content in written.items():
        (tmp_path / name).write_bytes(content)
        ids = sum(Corpus(str(tmp_path / name)).token_ids(toy), ())
        assert ids == plain_ids(toy, TEXT), name


def test_a_digest_is_of_the_content_and_of_how_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    files = [tmp_path / name for name in ("a.txt", "there/b.txt", "a.jsonl", "c.txt")]
    for file, content in zip(files, ["one", "one", "one", "two"], strict=True):
        file.write_text(content, encoding="utf-8")
    same, moved, records, other = (Corpus(str(file), seed) for seed, file in enumerate(files))
    assert same.digest() == moved.digest()
    corpora = [
        same, records, other, Corpus(KEDIT), Corpus(HELD_OUT), Corpus(), Corpus(SELF, 1),
        Corpus("hf:a"), Corpus("hf:a:b"),
    ]  # fmt: skip
    assert len({corpus.digest() for corpus in corpora}) == len(corpora)
    assert [corpus.name for corpus in (same, Corpus(SELF, 1), Corpus(KEDIT), Corpus("hf:a"))] == [
        "a.txt",
        "the model's own text, seed 1",
        "kedit's text",
        "hf:a",
    ]


def test_kedits_text_is_the_default_of_all_models_but_the_toy() -> None:
    assert corpus_of("gpt2", "") == Corpus(KEDIT) != Corpus(HELD_OUT)
    assert corpus_of("gpt2", "", held_out=True) == Corpus(HELD_OUT)
    assert corpus_of("toy", "", 3) == corpus_of("toy", "", 3, held_out=True) == Corpus(SELF, 3)
    assert corpus_of("toy", KEDIT) == Corpus(KEDIT) and corpus_of("gpt2", "a.txt").source == "a.txt"


def test_kedits_text_is_clean_and_its_parts_share_no_document() -> None:
    parts = [Corpus(source).file for source in (KEDIT, HELD_OUT)]
    read, held_out = (file.read_text(encoding="utf-8") for file in parts if file is not None)
    assert 180_000 < len(read.encode()) < 250_000 and len(held_out.encode()) > 15_000
    documents = [set(text.strip().split("\n\n")) for text in (read, held_out)]
    assert not documents[0] & documents[1]
    assert not UNWANTED.search(read + held_out)


@pytest.mark.parametrize("bos", [True, False])
def test_the_model_goes_on_saying_the_same_by_seed(
    family: FamilyOf, bosless_gpt2: HookedTransformer, monkeypatch: pytest.MonkeyPatch, bos: bool
) -> None:
    monkeypatch.setattr(room, "CHUNKS_PER_BATCH", 16)
    # of random weights: the toy may say the same over and over, whatever the seed
    model = family("gpt2").model if bos else bosless_gpt2

    def said(seed: int, first: int = 0) -> list[room.Tokens]:
        return list(itertools.islice(Corpus(SELF, seed).chunks(model, 12, first), 20 - first))

    chunks = said(3)
    assert len(chunks) == 20 > room.CHUNKS_PER_BATCH and len(set(chunks)) > 15
    assert chunks == said(3) != said(4)
    assert said(3, first=5) == chunks[5:] and said(3, first=17) == chunks[17:]


def test_a_text_that_ends_is_followed_by_another(
    toy: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: list[tuple[int, int]] = []

    def sampled(model: Any, prompts: list[Any], length: int, top_k: int, seed: int) -> list[Any]:
        rounds.append((len(prompts), length))
        # the first says nothing at all, the others all that they may
        return [(), *[(7,) * (length - 1)] * (len(prompts) - 1)][: len(prompts)]

    monkeypatch.setattr(room, "sampled", sampled)
    (newline,) = plain_ids(toy, "\n")
    chunks = list(itertools.islice(Corpus().chunks(toy, 3), 2))
    assert chunks == [(0, newline, newline, newline), (0, 7, 7, 7)]
    assert rounds == [(room.CHUNKS_PER_BATCH, 4), (1, 3), (1, 2)]


def test_a_data_set_of_the_hub_is_read_as_far_as_needed(
    toy: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []

    def rows() -> Iterator[dict[str, str]]:
        yield from ({"text": line} for line in ("", *LINES))
        raise AssertionError("read too far")

    def load_dataset(name: str, config: str | None, *, split: str, streaming: bool) -> Any:
        asked.append((name, config, split, streaming))
        return rows()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(room, "PIECE", 1)
    wanted = plain_ids(toy, f"{LINES[0]}\n")
    for source in ("hf:org/name", "hf:org/name:config", "hf:org/name::test"):
        assert next(Corpus(source).token_ids(toy)) == wanted
    assert asked == [
        ("org/name", None, "train", True),
        ("org/name", "config", "train", True),
        ("org/name", None, "test", True),
    ]


def test_a_data_set_that_cannot_be_had_is_refused(toy: HookedTransformer) -> None:
    with pytest.raises(
        InputError, match="hf:org/absent: cannot be read from .*give a text file instead"
    ):
        next(Corpus("hf:org/absent").chunks(toy, 4))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("latin.txt", "é".encode("latin-1"), "latin.txt: cannot be read as text: .*utf-8"),
        ("cut.txt.xz", lzma.compress(b"a" * 999)[:-9], "cut.txt.xz: cannot be read as text"),
        ("no.jsonl", b'{"words": "a", "n": 1}\n', "no.jsonl, line 1: field 'text' is missing"),
        ("list.jsonl", b'{"text": ["a"]}\n', "list.jsonl, line 1: field 'text'"),
    ],
)
def test_a_file_without_text_is_refused(
    toy: HookedTransformer, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(Corpus(str(tmp_path / name)).token_ids(toy))


def test_a_file_that_is_not_there_is_refused(toy: HookedTransformer, tmp_path: Path) -> None:
    absent = Corpus(str(tmp_path / "absent.txt"))
    for ending in (".txt", ".jsonl", ".txt.xz"):
        nul = Corpus(f"a\0b{ending}")
        for read in (nul.digest, lambda nul=nul: next(nul.token_ids(toy))):
            with pytest.raises(InputError, match="cannot be read"):
                read()
    with pytest.raises(InputError, match="absent.txt: cannot be read as text"):
        absent.digest()
    with pytest.raises(InputError, match="absent.txt: cannot be read as text"):
        next(absent.chunks(toy, 4))
