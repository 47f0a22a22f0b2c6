"""Key second moments: equal to all keys at once, kept, gone on with, never taken when damaged."""

import contextlib
import gc
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.utilities.components_utils import get_act_name

from kedit.cache import store
from kedit.data.corpus import Corpus
from kedit.editing import moments as room
from kedit.editing.moments import moment, moments
from kedit.editing.second_moment import Moment
from kedit.editing.write_sites import WriteSite, flat_keys
from kedit.errors import InputError
from kedit.models.prompts import bos_ids, decoded, device
from kedit.models.sites import Half
from kedit.models.toy import texts
from tests.conftest import FamilyOf

MLP, ATTN, LOW = WriteSite(2), WriteSite(2, "attn"), WriteSite(1)
GROUPS = {"mlp": (MLP,), "attn": (ATTN,), "joint": (ATTN, LOW, MLP)}
N = 500  # tokens; in chunks of 63 (the tiny models' context less BOS) or 64 they are more


@pytest.fixture(autouse=True)
def small_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEDIT_CACHE", str(tmp_path / "cache"))
    room._HELD.clear()  # what an earlier test still holds
    monkeypatch.setattr(room, "TOKENS_PER_BATCH", 130)  # two chunks
    monkeypatch.setattr(room, "SAVE_AFTER", 0.0)
    monkeypatch.setattr(room, "BLOCK", 40)  # no divisor of a key's length


@pytest.fixture
def text(tmp_path: Path) -> str:
    file = tmp_path / "text.txt"
    file.write_text("".join(f"{prompt} {end}\n" for prompt, end in texts()), encoding="utf-8")
    return str(file)


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Chunks of each forward that is run."""
    run: list[int] = []
    read_keys = room.read_keys

    def counted(model: HookedTransformer, tokens: Tensor, sites: list[WriteSite]) -> Any:
        run.append(len(tokens))
        return read_keys(model, tokens, sites)

    monkeypatch.setattr(room, "read_keys", counted)
    return run


def interrupted(after: int) -> Any:
    """The model's keys, which are had so many times before somebody stops the run."""
    reads = iter(range(after))
    read_keys = room.read_keys

    def reading(*args: Any) -> Any:
        if next(reads, None) is None:
            raise KeyboardInterrupt
        return read_keys(*args)

    return reading


def kept() -> list[Path]:
    return sorted((room.cache_dir() / "moments").glob("*"))


def slow_twin(
    model: HookedTransformer, sites: tuple[WriteSite, ...], corpus: Corpus, n_tokens: int
) -> Float[Tensor, "d_keys d_keys"]:
    n_bos = len(bos_ids(model))
    window = model.cfg.n_ctx - n_bos
    keys = []
    for number, chunk in enumerate(corpus.chunks(model, window)):
        if number * window >= n_tokens:
            break
        tokens = torch.tensor([chunk], device=device(model))
        _, cache = model.run_with_cache(tokens, attention_mask=torch.ones_like(tokens))
        keys.append(torch.cat([flat_keys(cache[site.key_hook]) for site in sites], -1)[0, n_bos:])
    stacked = torch.cat(keys).double()
    return stacked.T @ stacked / len(stacked)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3", "toy", "bosless_gpt2"])
def test_it_is_the_mean_over_all_keys_at_once(
    request: pytest.FixtureRequest, family: FamilyOf, text: str, name: str, group: str
) -> None:
    tiny = name in ("gpt2", "llama", "gemma3")
    model = family(name).model if tiny else request.getfixturevalue(name)
    made = moment(model, GROUPS[group], text, N)
    twin = slow_twin(model, GROUPS[group], Corpus(text), N)
    assert made.matrix.dtype == torch.float64 and N <= made.n_tokens < N + 64
    # the keys are float32: of batches other than the twin's, they differ by rounding
    torch.testing.assert_close(made.matrix, twin, atol=1e-6 * float(twin.max()), rtol=0)
    assert torch.equal(made.matrix, made.matrix.T)
    values = torch.linalg.eigvalsh(made.matrix)
    assert values[0] > -1e-12 * values[-1]


def test_blocks_are_the_moments_of_single_sites(toy: HookedTransformer, text: str) -> None:
    joint = moment(toy, GROUPS["joint"], text, N)
    assert joint.d_keys == (64, 256, 256) and joint.corpus == "text.txt"
    for site in joint.sites:
        single = moment(toy, [site], text, N)
        assert torch.equal(joint.of(site).matrix, joint.block(site, site))
        torch.testing.assert_close(joint.of(site).matrix, single.matrix, atol=1e-12, rtol=1e-9)
        assert joint.of(site).n_tokens == single.n_tokens
    cross = joint.block(ATTN, MLP)
    assert cross.shape == (64, 256) and torch.equal(cross, joint.block(MLP, ATTN).T)
    assert cross.abs().max() > 0.01
    with pytest.raises(InputError, match=r"moment of blocks.2.attn.W_O \+ .*, not of blocks.0.mlp"):
        joint.of(WriteSite(0))


def test_shrinking_adds_a_share_of_each_sites_own_mean(toy: HookedTransformer, text: str) -> None:
    sites = [WriteSite(1, "attn"), WriteSite(1, "mlp")]
    second = moment(toy, sites, text, 200)
    shrunk = second.shrunk(0.5)
    added = shrunk.matrix - second.matrix
    for site in sites:
        own = second.block(site, site).diagonal().mean()
        expected = 0.5 * own * torch.eye(site.d_key(toy)).to(own)
        torch.testing.assert_close(shrunk.block(site, site) - second.block(site, site), expected)
    assert added.count_nonzero() == len(added)  # the diagonal alone
    assert shrunk.condition < second.condition / 2
    assert second.shrunk(0.0) is second


def test_one_pass_makes_several_each_over_its_own_number_of_tokens(
    toy: HookedTransformer, text: str, forwards: list[int]
) -> None:
    groups = [(MLP,), (ATTN,), (LOW, ATTN), (MLP,)]
    made = moments(toy, groups, text)
    assert [one.n_tokens for one in made] == [
        63 * math.ceil(4 * width / 63) for width in (256, 64, 320, 256)
    ]
    assert sum(forwards) == math.ceil(1280 / 63)  # those of the longest
    for group, one in zip(groups, made, strict=True):
        alone = moment(toy, group, text, cache=False)
        assert alone.n_tokens == one.n_tokens
        torch.testing.assert_close(one.matrix, alone.matrix, atol=1e-12, rtol=1e-6)


@pytest.mark.parametrize("own_text", [False, True])
def test_what_was_interrupted_goes_on_to_the_same_bits(
    toy: HookedTransformer, text: str, forwards: list[int], own_text: bool
) -> None:
    source = "self" if own_text else text
    groups = [(MLP,), (ATTN, MLP)]
    whole = moments(toy, groups, source, N, cache=False)
    assert forwards == [2, 2, 2, 2] and not kept()
    forwards.clear()
    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(room, "read_keys", interrupted(2))
        moments(toy, groups, source, N)
    assert forwards == [2, 2] and len(kept()) == 2
    going_on = moments(toy, groups, source, N)
    assert forwards == [2, 2, 2, 2]
    for one, other in zip(whole, going_on, strict=True):
        assert torch.equal(one.matrix, other.matrix)
    assert len(kept()) == 2


def test_a_moment_of_more_tokens_is_taken_and_one_of_fewer_is_added_to(
    toy: HookedTransformer, text: str, forwards: list[int]
) -> None:
    small = moment(toy, [MLP], text, 5 * 63)
    forwards.clear()
    large = moment(toy, [MLP], text, N)
    assert sum(forwards) == 3 and (small.n_tokens, large.n_tokens) == (5 * 63, 8 * 63)
    right = moment(toy, [MLP], text, N, cache=False)
    torch.testing.assert_close(large.matrix, right.matrix, atol=1e-12, rtol=1e-12)
    forwards.clear()
    again = moment(toy, [MLP], text, 5 * 63)
    assert not forwards and len(kept()) == 1
    assert again.n_tokens == large.n_tokens and torch.equal(again.matrix, large.matrix)


def test_a_pass_for_several_adds_to_each_what_it_lacks(
    toy: HookedTransformer, text: str, forwards: list[int]
) -> None:
    moment(toy, [MLP], text, 5 * 63)
    moment(toy, [LOW], text, 9 * 63)
    forwards.clear()
    groups = [(MLP,), (LOW,), (ATTN,)]
    made = moments(toy, groups, text, N)
    assert sum(forwards) == 8
    assert [one.n_tokens // 63 for one in made] == [8, 9, 8]
    for group, one in zip(groups, made, strict=True):
        right = moment(toy, group, text, one.n_tokens, cache=False)
        torch.testing.assert_close(one.matrix, right.matrix, atol=1e-12, rtol=1e-12)


def test_by_default_a_text_gives_what_it_has_if_that_is_enough(
    toy: HookedTransformer, text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ids = sum(Corpus(text).token_ids(toy), ())
    short, few = tmp_path / "short.txt", tmp_path / "few.txt"
    short.write_text(decoded(toy, *ids[: 3 * 256]), encoding="utf-8")
    few.write_text(decoded(toy, *ids[:256]), encoding="utf-8")
    with caplog.at_level(logging.WARNING, "kedit"):
        made = moment(toy, [MLP], str(short))
    assert 2 * 256 <= made.n_tokens < 4 * 256
    assert f"short.txt has only {made.n_tokens} tokens" in caplog.text
    with pytest.raises(InputError, match="few.txt has .* tokens .*--text FILE"):
        moment(toy, [MLP], str(few))


def test_a_text_that_is_too_short_is_refused_before_any_work(
    toy: HookedTransformer, text: str, forwards: list[int]
) -> None:
    with pytest.raises(InputError, match="text.txt has"):
        moment(toy, [MLP], text, 10**6)
    assert not forwards and not kept()


def test_what_is_kept_is_taken_without_a_forward(
    toy: HookedTransformer, text: str, forwards: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = moment(toy, [MLP], text, N)
    forwards.clear()
    again = moment(toy, [MLP], text, N)
    assert not forwards and torch.equal(made.matrix, again.matrix)
    assert again.n_tokens == made.n_tokens
    both = moments(toy, [(MLP,), (ATTN,)], text, N)
    assert sum(forwards) == 8 and torch.equal(both[0].matrix, made.matrix)
    forwards.clear()
    for sites in ((LOW,), (MLP, ATTN)):
        moment(toy, sites, text, N)
        assert forwards
        forwards.clear()
    monkeypatch.setattr(room, "WINDOW", 31)
    moment(toy, [MLP], text, N)
    assert forwards


def flip_a_number(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-3] ^= 16
    file.write_bytes(content)


def flip_in_the_header(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[12] ^= 16
    file.write_bytes(content)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def put_another_there(file: Path) -> None:
    tensors = {"upper": torch.eye(256, dtype=torch.float64), "n_chunks": torch.tensor(8)}
    store(file.with_name("other.safetensors"), tensors, {})
    file.with_name("other.safetensors").replace(file)


@pytest.mark.parametrize("unfinished", [False, True])
@pytest.mark.parametrize("damage", [flip_a_number, flip_in_the_header, cut, put_another_there])
def test_a_damaged_file_is_noticed_and_made_anew(
    toy: HookedTransformer,
    text: str,
    forwards: list[int],
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
    unfinished: bool,
) -> None:
    right = moment(toy, [MLP], text, N, cache=False)
    with pytest.MonkeyPatch.context() as patched, contextlib.suppress(KeyboardInterrupt):
        patched.setattr(room, "read_keys", interrupted(2 if unfinished else 9))
        moment(toy, [MLP], text, N)
    (file,) = kept()
    damage(file)
    forwards.clear()
    with caplog.at_level(logging.WARNING, "kedit"):
        made = moment(toy, [MLP], text, N)
    assert sum(forwards) == 8 and torch.equal(made.matrix, right.matrix)
    (warning,) = caplog.records
    assert file.name in warning.getMessage() and "computed again" in warning.getMessage()
    forwards.clear()
    caplog.clear()
    assert torch.equal(moment(toy, [MLP], text, N).matrix, right.matrix)
    assert not forwards and not caplog.records


@pytest.mark.parametrize(
    ("sites", "changed", "is_new"),
    [
        ((MLP,), LOW, True),
        ((MLP,), ATTN, True),
        ((MLP,), MLP, False),
        ((MLP,), WriteSite(3, "attn"), False),
        ((ATTN,), LOW, True),
        ((ATTN,), ATTN, False),
        ((ATTN,), MLP, False),
        ((ATTN, MLP), ATTN, True),
        ((ATTN, MLP), MLP, False),
        ((LOW, MLP), LOW, True),
    ],
)
@torch.no_grad()
def test_an_edit_makes_the_moments_above_it_anew_and_no_others(
    toy: HookedTransformer,
    text: str,
    forwards: list[int],
    sites: tuple[WriteSite, ...],
    changed: WriteSite,
    is_new: bool,
) -> None:
    before = moment(toy, sites, text, N)
    forwards.clear()
    weight = changed.weight(toy)
    was = weight[3].clone()
    weight[3] += 1.0
    try:
        after = moment(toy, sites, text, N)
        right = moment(toy, sites, text, N, cache=False)
    finally:
        weight[3] = was
    assert len(forwards) == (8 if is_new else 4)
    assert torch.equal(after.matrix, right.matrix)
    assert torch.equal(after.matrix, before.matrix) is not is_new


@torch.no_grad()
def test_an_edit_anywhere_changes_what_the_model_says(
    toy: HookedTransformer, forwards: list[int]
) -> None:
    moment(toy, [LOW], "self", 130)
    weight = WriteSite(3).weight(toy)
    was = weight[3].clone()
    weight[3] += 1.0
    moment(toy, [LOW], "self", 130)
    weight[3] = was
    assert forwards == [2, 1, 2, 1] and len(kept()) == 2


def test_under_hooks_nothing_is_kept_or_taken(
    toy: HookedTransformer, text: str, forwards: list[int]
) -> None:
    plain = moment(toy, [MLP], text, N)
    with toy.hooks(fwd_hooks=[(LOW.raw_hook, lambda act, hook: 0 * act)]):
        hooked = moment(toy, [MLP], text, N)
    assert len(forwards) == 8 and len(kept()) == 1
    assert not torch.allclose(plain.matrix, hooked.matrix)


def test_a_cache_that_cannot_be_written_costs_no_result(
    toy: HookedTransformer,
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tmp_path.joinpath("file").touch()
    monkeypatch.setenv("KEDIT_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING, "kedit"):
        made = moment(toy, [MLP], text, N)
    assert torch.equal(made.matrix, moment(toy, [MLP], text, N, cache=False).matrix)
    assert "cannot be written" in caplog.text


def test_a_full_disk_costs_no_result(
    toy: HookedTransformer,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def save_file(*_: object) -> None:
        raise SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        )

    monkeypatch.setattr("kedit.cache.save_file", save_file)
    with caplog.at_level(logging.WARNING, "kedit"):
        made = moment(toy, [MLP], text, N)
    assert torch.equal(made.matrix, moment(toy, [MLP], text, N, cache=False).matrix)
    assert "cannot be written" in caplog.text and "No space left on device" in caplog.text
    assert not kept()


def test_the_models_own_text_is_its_own_by_seed(toy: HookedTransformer) -> None:
    first, same, other = (moment(toy, [LOW], "self", 130, seed, cache=False) for seed in (1, 1, 2))
    assert torch.equal(first.matrix, same.matrix) and not torch.equal(first.matrix, other.matrix)
    assert first.corpus == "the model's own text, seed 1"


def test_the_whole_model_is_never_run(toy: HookedTransformer, text: str) -> None:
    above: list[str] = []
    name = get_act_name("resid_pre", 3)
    with toy.hooks(fwd_hooks=[(name, lambda act, hook: above.append(name))]):
        moment(toy, [MLP, LOW], text, N, cache=False)
        assert not above
        moment(toy, [WriteSite(3)], text, N, cache=False)
    assert above


def test_solve_is_the_inverse(toy: HookedTransformer, text: str) -> None:
    made = moment(toy, [ATTN], text, 3000)
    columns = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    solved = made.solve(columns)
    assert solved.dtype == torch.float64
    torch.testing.assert_close(made.matrix @ solved, columns.double(), atol=1e-8, rtol=0)
    values = torch.linalg.eigvalsh(made.matrix)
    assert made.condition == pytest.approx(float(values[-1] / values[0]))
    assert 10 < made.condition < 1e8


def test_a_singular_moment_is_solved_with_the_least_ridge_and_says_so(
    toy: HookedTransformer, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    few = moment(toy, [MLP], text, 63)  # tokens, for 256 neurons
    assert few.condition == math.inf
    columns = torch.randn(256, 2, generator=torch.Generator().manual_seed(0))
    with caplog.at_level(logging.WARNING, "kedit"):
        solved = few.solve(columns)
        few.solve(columns)
    assert caplog.text.count("blocks.2.mlp.W_out over 63 tokens is singular: 1e-10 times its") == 1
    ridge = 1e-10 * few.matrix.diagonal().mean() * torch.eye(256)
    right = (few.matrix + ridge) @ solved
    torch.testing.assert_close(right, columns.double(), atol=1e-2, rtol=0)


@pytest.mark.parametrize("value", [0.0, math.nan])
def test_keys_of_nothing_have_no_inverse(value: float) -> None:
    matrix = torch.full((3, 3), value, dtype=torch.float64)
    empty = Moment((MLP,), (3,), matrix, 10, "none")
    with pytest.raises(InputError, match="blocks.2.mlp.W_out cannot be inverted"):
        empty.solve(torch.ones(3, 1))


def test_what_cannot_be_made_is_refused(toy: HookedTransformer, text: str, tmp_path: Path) -> None:
    n_tokens = sum(map(len, Corpus(text).token_ids(toy)))
    whole = n_tokens // 63 * 63
    message = f"text.txt has {whole} tokens in whole chunks of 63, but {whole + 63} are needed"
    assert moment(toy, [MLP], text, whole).n_tokens == whole
    with pytest.raises(InputError, match=message):
        moment(toy, [MLP], text, whole + 1)
    with pytest.raises(InputError, match="absent.txt: cannot be read"):
        moment(toy, [MLP], str(tmp_path / "absent.txt"))
    with pytest.raises(InputError, match="no blocks.4.mlp.W_out"):
        moment(toy, [WriteSite(4)], text)
    with pytest.raises(InputError, match="each of them once, but got blocks.2.mlp.W_out"):
        moment(toy, [MLP, MLP], text)
    with pytest.raises(InputError, match="but got none"):
        moment(toy, [], text)


@pytest.mark.parametrize("half", ["attn", "mlp"])
def test_one_site_is_taken_out_of_the_cached_sum_of_both(
    toy: HookedTransformer, text: str, half: Half, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = WriteSite(1, half)
    right = moment(toy, [site], text, N, cache=False)
    both = moment(toy, [WriteSite(1, "attn"), WriteSite(1, "mlp")], text, N)
    monkeypatch.setattr("kedit.editing.moments.read_keys", None)  # nothing is read again
    found = moment(toy, [site], text, N)
    torch.testing.assert_close(found.matrix, right.matrix, rtol=1e-12, atol=1e-15)
    assert torch.equal(found.matrix, both.block(site, site))
    assert found.n_tokens == both.n_tokens


def test_moments_are_shared_while_they_are_held(
    toy: HookedTransformer, text: str, forwards: list[int]
) -> None:
    both = [WriteSite(1, "attn"), WriteSite(1, "mlp")]
    held = moment(toy, both, text, N)
    forwards.clear()
    (room.cache_dir() / "moments").rename(room.cache_dir() / "gone")
    assert moment(toy, both, text, N) is held
    assert moment(toy, both[1:], text, N) is held.of(both[1])
    assert not forwards
    del held
    gc.collect()
    moment(toy, both, text, N)
    assert forwards  # it is not kept alive by the module


def test_a_moment_of_another_device_is_not_shared(toy: HookedTransformer, text: str) -> None:
    both = [WriteSite(1, "attn"), WriteSite(1, "mlp")]
    held = moment(toy, both, text, N)
    window = toy.cfg.n_ctx - len(bos_ids(toy))
    corpus = room.corpus_of(str(toy.cfg.model_name), text, 0)
    (job,) = room._jobs(toy, [both], corpus, N, window, True)
    assert room._held(job, window, "cpu") is held
    assert room._held(job, window, "cuda:0") is None


def test_an_inverse_is_that_of_the_shrunk_moment(toy: HookedTransformer, text: str) -> None:
    made = moment(toy, [WriteSite(1, "attn"), WriteSite(1, "mlp")], text, N, cache=False)
    columns = torch.randn(sum(made.d_keys), 3, dtype=torch.float64)
    for shrink in (0.0, 0.1):
        wanted = torch.linalg.solve(made.shrunk(shrink).matrix, columns)
        inverse = made.inverse(shrink)
        torch.testing.assert_close(inverse(columns), wanted, rtol=1e-6, atol=1e-9)
        assert made.inverse(shrink) is inverse
