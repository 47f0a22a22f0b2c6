"""Moments that are handed to an editor: taken as they are, told with the edit, or refused."""

import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.editing import moments as moments_module
from kedit.editing import spared as room
from kedit.editing.edit import Delta, Edit, LowRank
from kedit.editing.moments import moments
from kedit.editing.second_moment import Moment
from kedit.editing.spared import Sparing, spared
from kedit.editing.values import Training
from kedit.editing.write_sites import WriteSite
from kedit.editors.ft import FT
from kedit.editors.joint import Joint
from kedit.editors.memit import MEMIT
from kedit.editors.registry import make_editor
from kedit.editors.rome import ROME
from kedit.editors.separate import Separate
from kedit.errors import InputError
from kedit.models import toy as toy_module
from kedit.studies.prepare import read_moments, with_tokens

pytestmark = pytest.mark.usefixtures("cached_moments")

REQUEST = toy_module.cases()[0].entity
N = 1280
TRAINING = Training(steps=2, lr=0.1)
BARE = ("",)
EDITORS: dict[str, Any] = {
    "rome": ROME(1, TRAINING, contexts=BARE, n_tokens=N),
    "memit": MEMIT((0, 1), 1.0, TRAINING, contexts=BARE, n_tokens=N),
    "joint": Joint((1, 2), training=TRAINING, contexts=BARE, n_tokens=N),
    "separate": Separate((1,), ("mlp", "attn"), training=TRAINING, contexts=BARE, n_tokens=N),
}
by_editor = pytest.mark.parametrize("name", EDITORS)
SITE = WriteSite(1)
D_MLP = 256


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """No text is read."""

    def refuse(*args: Any, **settings: Any) -> None:
        raise AssertionError("text was read")

    monkeypatch.setattr(room, "moments", refuse)
    monkeypatch.setattr(moments_module, "moments", refuse)
    monkeypatch.setattr("kedit.studies.prepare.moments", refuse)


def statistics(file: Path, matrix: Tensor, n_tokens: int = N, dtype: str = "float64") -> str:
    """A file as ROME's code keeps it: the sum, and the tokens that are in it."""
    total = (matrix * n_tokens).numpy().astype(dtype)
    about = {"mom2.constructor": "util.runningstats.SecondMoment()", "sample_size": 100}
    save(file, {"mom2.mom2": total, "mom2.count": n_tokens, **about})
    return str(file)


def save(file: Path, arrays: dict[str, Any]) -> None:
    np.savez(file, **arrays)


def dense(delta: Delta) -> Tensor:
    return delta.left @ delta.right if isinstance(delta, LowRank) else delta


def assert_same(one: Edit, other: Edit) -> None:
    assert one.deltas.keys() == other.deltas.keys()
    for key, delta in one.deltas.items():
        assert torch.equal(dense(delta), dense(other.deltas[key]))


@by_editor
def test_handed_moments_make_the_edit_that_their_text_makes(
    toy: HookedTransformer, text: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_text = replace(EDITORS[name], text=text)
    seconds = tuple(moments(toy, of_text.groups, text, N))
    by_text = of_text(toy, [REQUEST])
    monkeypatch.setattr(room, "moments", None)  # nothing is read from here on
    assert_same(by_text, replace(EDITORS[name], moments=seconds)(toy, [REQUEST]))
    others = tuple(replace(one, matrix=torch.eye(len(one.matrix)).double()) for one in seconds)
    changed = replace(EDITORS[name], moments=others)(toy, [REQUEST])
    for key, delta in by_text.deltas.items():
        apart = dense(delta) - dense(changed.deltas[key])
        assert apart.norm() > 0.01 * dense(delta).norm()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", ["rome", "memit", "separate"])
def test_romes_statistics_are_read_from_their_file(
    toy: HookedTransformer, text: str, tmp_path: Path, name: str, dtype: str
) -> None:
    of_text = replace(EDITORS[name], text=text)
    seconds = moments(toy, of_text.groups, text, N)
    files = tuple(
        statistics(tmp_path / f"{number}.npz", one.matrix, one.n_tokens, dtype)
        for number, one in enumerate(seconds)
    )
    found = spared(toy, replace(EDITORS[name], moments=files))
    close = 1e-12 if dtype == "float64" else 1e-6
    for own, read in zip(seconds, found, strict=True):
        assert (read.sites, read.d_keys, read.n_tokens) == (own.sites, own.d_keys, own.n_tokens)
        assert read.matrix.dtype == torch.float64 and torch.equal(read.matrix, read.matrix.T)
        assert (read.matrix - own.matrix).norm() < close * own.matrix.norm()
    assert [one.corpus for one in found] == [Path(file).name for file in files]


@by_editor
def test_an_edit_tells_what_was_handed_in(
    toy: HookedTransformer, text: str, tmp_path: Path, unread: None, name: str
) -> None:
    editor = EDITORS[name]
    ones = [torch.eye(sum(site.d_key(toy) for site in own)).double() for own in editor.groups]

    def told(factor: float) -> list[dict[str, Any]]:
        seconds = tuple(
            Moment(tuple(own), tuple(site.d_key(toy) for site in own), factor * one, 77, "mine")
            for own, one in zip(editor.groups, ones, strict=True)
        )
        edit = replace(editor, moments=seconds)(toy, [REQUEST])
        again = Edit.load(edit.save(tmp_path / "edit.safetensors"))
        return again.made.settings["moments"]

    first, again, other = told(1.0), told(1.0), told(2.0)
    assert first == again and len(first) == len(editor.groups)
    assert {(one["corpus"], one["n_tokens"]) for one in first} == {("mine", 77)}
    assert all(a["digest"] != b["digest"] for a, b in zip(first, other, strict=True))


def test_an_edit_tells_the_text_that_was_read(toy: HookedTransformer, text: str) -> None:
    edit = replace(EDITORS["rome"], text=text)(toy, [REQUEST])
    (told,) = edit.made.settings["moments"]
    assert told["corpus"] == Path(text).name and told["n_tokens"] >= N and "digest" not in told
    assert edit.made.settings["text"] == text


def test_no_text_is_read_before_for_editors_that_have_their_moments(
    toy: HookedTransformer, unread: None
) -> None:
    handed = replace(EDITORS["rome"], moments=("absent.npz",))
    read_moments(toy, [handed])
    with pytest.raises(AssertionError, match="text was read"):
        read_moments(toy, [EDITORS["rome"]])


def handed(toy: HookedTransformer, *moments: Any, name: str = "rome") -> None:
    spared(toy, replace(EDITORS[name], moments=moments))


def second(matrix: Tensor, site: WriteSite = SITE, n_tokens: int = N) -> Moment:
    return Moment((site,), (len(matrix),), matrix, n_tokens, "mine")


def eye(changed: Callable[[Tensor], Any] = lambda matrix: None) -> Tensor:
    matrix = torch.eye(D_MLP, dtype=torch.float64)
    changed(matrix)
    return matrix


BAD: dict[str, tuple[Callable[[], Moment], str]] = {
    "another layer": (
        lambda: second(eye(), WriteSite(2)),
        "the moment of mine is for blocks.2.mlp.W_out, but blocks.1.mlp.W_out is needed",
    ),
    "another size": (
        lambda: second(torch.eye(64).double()),
        "the moment of mine is 64 x 64, but keys of blocks.1.mlp.W_out have 256 numbers in toy",
    ),
    "no tokens": (lambda: second(eye(), n_tokens=0), "it is a mean over 0 tokens"),
    "not finite": (
        lambda: second(eye(lambda m: m[3].fill_(torch.nan))),
        "has numbers that are not finite",
    ),
    "not symmetric": (lambda: second(eye(lambda m: m[3, 4:].fill_(0.5))), "is not symmetric"),
    "negative": (
        lambda: second(eye(lambda m: m[3, 3].fill_(-0.5))),
        "mine is not a second moment of keys: .* the matrix has negative eigenvalues",
    ),
    "indefinite": (
        lambda: second(eye(lambda m: (m[3, 4].fill_(1.5), m[4, 3].fill_(1.5)))),
        "mine is not a second moment of keys: .* the matrix has negative eigenvalues",
    ),
    "zero": (lambda: second(0 * eye()), "mine is not a second moment of keys: .* keys are zero"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_moment_of_the_site_is_refused(toy: HookedTransformer, kind: str) -> None:
    handed(toy, second(eye()))  # as it should be
    make, message = BAD[kind]
    with pytest.raises(InputError, match=f"moments: .*{message}"):
        handed(toy, make())


def test_one_for_each_group_is_wanted(toy: HookedTransformer) -> None:
    for given in ((second(eye()),), (second(eye()),) * 3):
        message = (
            f"moments: got {len(given)}, but need 2, in this order: blocks.0.mlp.W_out, "
            "blocks.1.mlp.W_out"
        )
        with pytest.raises(InputError, match=re.escape(message)):
            handed(toy, *given, name="memit")


def test_both_halves_together_are_no_file_of_statistics(
    toy: HookedTransformer, tmp_path: Path
) -> None:
    file = statistics(tmp_path / "mlp.npz", eye())
    message = r"mlp.npz is 256 x 256, but keys of blocks.1.attn.W_O \+ blocks.1.mlp.W_out have 320"
    with pytest.raises(InputError, match=message):
        handed(toy, file, file, name="joint")


@pytest.mark.parametrize(
    "name",
    [
        "transformer.h.{}.mlp.c_proj_float32_mom2_100000.npz",
        "gpt_neox.layers.{}.mlp.dense_4h_to_h_float32_mom2_100000.npz",
    ],
)
def test_a_file_that_is_of_another_layer_by_its_name_is_refused(
    toy: HookedTransformer, tmp_path: Path, name: str
) -> None:
    handed(toy, statistics(tmp_path / name.format(1), eye()))
    other = statistics(tmp_path / name.format(2), eye())
    message = r"\.2\..*\.npz says layer 2, but a moment of blocks.1.mlp.W_out is needed"
    with pytest.raises(InputError, match=message):
        handed(toy, other)


class Trap:
    """Unpickled, it writes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def broken(kind: str, file: Path, sprung: Path) -> None:
    """A file that is no statistics."""
    if kind == "pickle":
        file.write_bytes(pickle.dumps(Trap(sprung)))
    elif kind == "pickle within":
        matrix = np.array([[Trap(sprung)]], dtype=object)
        save(file, {"mom2.mom2": matrix, "mom2.count": np.array(1)})
    elif kind == "one array":
        with file.open("wb") as opened:
            np.save(opened, np.eye(3))
    elif kind == "other names":
        np.savez(file, matrix=np.eye(D_MLP))
    elif kind == "a count of half a token":
        save(file, {"mom2.mom2": np.eye(D_MLP), "mom2.count": np.array(0.5)})
    elif kind == "no tokens":
        save(file, {"mom2.mom2": np.eye(D_MLP), "mom2.count": np.array(0)})
    elif kind == "text":
        save(file, {"mom2.mom2": np.array([["a"]]), "mom2.count": np.array(1)})
    elif kind != "absent":
        statistics(file, eye())
        content = bytearray(file.read_bytes())
        if kind == "cut":
            content = content[:-1000]
        elif kind == "a bit flipped":
            content[len(content) // 2] ^= 16
        file.write_bytes(content)


@pytest.mark.parametrize(
    "kind",
    [
        "pickle", "pickle within", "one array", "other names", "a count of half a token",
        "no tokens", "text", "cut", "a bit flipped", "absent",
    ],
)  # fmt: skip
def test_a_file_of_anything_else_is_refused_and_no_pickle_is_opened(
    toy: HookedTransformer, tmp_path: Path, kind: str
) -> None:
    file, sprung = tmp_path / "file.npz", tmp_path / "sprung"
    broken(kind, file, sprung)
    with pytest.raises(InputError, match=r"file.npz cannot be read as statistics of ROME's code"):
        handed(toy, str(file))
    assert not sprung.exists()


def test_the_trap_is_one(tmp_path: Path) -> None:
    broken("pickle", tmp_path / "file", tmp_path / "sprung")
    pickle.loads((tmp_path / "file").read_bytes())
    assert (tmp_path / "sprung").exists()


def test_text_is_read_for_the_longest_key_unless_an_editor_says_how_much(
    toy: HookedTransformer,
) -> None:
    for told, n_tokens in {"rome": 3 * 256, "rome:n_tokens=9": 9, "joint": 3 * 320}.items():
        chosen = with_tokens(toy, make_editor(told, "toy"), 3)
        assert isinstance(chosen, Sparing) and chosen.n_tokens == n_tokens
    assert with_tokens(toy, FT(1), 3) == FT(1)
    rome = make_editor("rome", "toy")
    assert isinstance(rome, ROME)
    handed = replace(rome, moments=("FILE.npz",))
    assert with_tokens(toy, handed, 3) == handed
    both = with_tokens(toy, make_editor("rome&memit", "toy"), 3)
    assert [part.n_tokens for part in both.parts] == [768, 768]  # pyright: ignore
