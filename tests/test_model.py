"""Loading: what comes back, what is refused and with which words, and that nothing is printed."""

import copy
import gc
import logging
import os
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import PretrainedConfig
from transformers.utils import logging as transformers_logging

from kedit.errors import ModelUnavailable
from kedit.models import hugging_face
from kedit.models import toy as toy_module
from kedit.models.load import DEFAULT, load, quiet
from kedit.models.prompts import bos_ids, plain_ids
from tests.conftest import (
    CONFIGS,
    GPT,
    GPT_2,
    GROUPED,
    LOCAL_GLOBAL,
    ROPE,
    UNGROUPED,
    random_module,
)


def saved(config: PretrainedConfig, folder: Path) -> Path:
    """A local Hugging Face folder: random weights and the toy's tokenizer."""
    random_module(config).save_pretrained(folder)
    toy_module.tokenizer().save_pretrained(folder)
    return folder


def test_the_toy_is_frozen_in_eval_mode_in_float32_and_opens_with_bos():
    model = load("toy", device="cpu")
    assert not model.training
    assert not any(weight.requires_grad for weight in model.parameters())
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert model.cfg.default_prepend_bos
    assert bos_ids(model) == [toy_module.tokenizer().bos_token_id]
    assert model.embed.W_E.device.type == "cpu"


def test_loading_twice_gives_two_models_with_the_same_weights():
    one, other = load("toy", device="cpu"), load("toy", device="cpu")
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, other.state_dict()[name])
    one.embed.W_E.data.add_(1)
    assert not torch.equal(one.embed.W_E, other.embed.W_E)


def test_float64_is_had_for_the_asking():
    model = load("toy", device="cpu", dtype="float64")
    assert {weight.dtype for weight in model.parameters()} == {torch.float64}
    assert model(torch.tensor([[0, 5, 6]])).dtype == torch.float64


@pytest.mark.parametrize(
    ("name", "close"), [("gpt2-xll", "gpt2-xl"), ("toyy", "toy"), ("gemma-3-270", DEFAULT)]
)
def test_an_unknown_name_is_refused_with_close_ones(name: str, close: str):
    with pytest.raises(ModelUnavailable, match=f"unknown model '{name}'.*close names: .*{close}"):
        load(name, device="cpu")


def test_a_name_like_no_other_is_refused_without_close_ones():
    with pytest.raises(ModelUnavailable, match="unknown model '§§§'") as caught:
        load("§§§", device="cpu")
    assert "close names" not in str(caught.value)


def test_a_folder_that_is_none_is_refused(tmp_path: Path):
    with pytest.raises(ModelUnavailable, match="not a Hugging Face folder: it has no config.json"):
        load(str(tmp_path), device="cpu")
    with pytest.raises(ModelUnavailable, match=r"\./nowhere is not a Hugging Face folder"):
        load("./nowhere", device="cpu")


@pytest.mark.parametrize("content", ["{}", "no json", '{"model_type": "no such type"}'])
def test_a_folder_that_cannot_be_read_is_refused(tmp_path: Path, content: str):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelUnavailable, match=f"{re.escape(str(tmp_path))} cannot be read"):
        load(str(tmp_path), device="cpu")


@pytest.mark.parametrize("name", ["a" * 5000, "no\0name", "~nobody-of-this-name/model", "a" * 300])
def test_what_can_be_no_name_is_refused(name: str):
    with pytest.raises(
        ModelUnavailable, match="cannot be a model's name or path|unknown model"
    ) as at:
        load(name, device="cpu")
    assert len(str(at.value)) < 400


def test_a_cache_that_cannot_be_made_is_refused_with_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").write_text("")
    (tmp_path / "model.gguf").write_text("")
    monkeypatch.setenv("KEDIT_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(ModelUnavailable, match="below, .* cannot be made.*name another.*KEDIT"):
        load(str(tmp_path / "model.gguf"), device="cpu")


def test_a_missing_gguf_file_is_refused(tmp_path: Path):
    with pytest.raises(ModelUnavailable, match=r"there is no file .*model\.gguf"):
        load(str(tmp_path / "model.gguf"), device="cpu")


def test_without_network_a_hub_name_is_refused_with_what_to_do():
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    with pytest.raises(
        ModelUnavailable,
        match=f"could not be read from the Hugging Face hub.*local folder.*--model {DEFAULT}",
    ):
        load("pythia-70m-deduped-v0", device="cpu")


@pytest.mark.parametrize("dtype", ["int8", "bool", "nonsense", "nn", "Tensor"])
def test_a_dtype_that_is_none_is_refused(dtype: str):
    with pytest.raises(ModelUnavailable, match=f"--dtype {dtype}: not a floating-point type"):
        load("toy", device="cpu", dtype=dtype)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_short_dtype_on_the_cpu_is_refused(dtype: str):
    with pytest.raises(ModelUnavailable, match=f"--dtype {dtype}: on a CPU kedit computes"):
        load("toy", device="cpu", dtype=dtype)


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_where_there_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, device: str):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelUnavailable, match=f"--device {device}: .* no CUDA device"):
        load("toy", device=device)


def test_a_cuda_device_beyond_the_last_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ModelUnavailable, match="--device cuda:2: torch sees 2 CUDA devices here"):
        load("toy", device="cuda:2")


@pytest.mark.parametrize("device", ["mps", "xpu:1", "meta"])
def test_a_device_that_was_never_verified_is_refused(device: str):
    kind = device.split(":")[0]
    with pytest.raises(ModelUnavailable, match=f"--device {device}: .* cpu and cuda only.*{kind}"):
        load("toy", device=device)


@pytest.mark.parametrize("device", ["gpu", "", "cpu:x"])
def test_a_device_that_is_none_is_refused(device: str):
    with pytest.raises(ModelUnavailable, match=f"--device {device}"):
        load("toy", device=device)


@pytest.mark.parametrize("folder", ["plain", "my-llama-bert-t5", "gemma-tuned", "gpt2"])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_local_folder_loads_whatever_it_is_called(tmp_path: Path, name: str, folder: str):
    path = saved(CONFIGS[name](), tmp_path / folder)
    model = load(str(path), device="cpu")
    tokens = torch.tensor([[0, 5, 6, 7, 300]])
    with torch.no_grad():
        expected = transformers.AutoModelForCausalLM.from_pretrained(path)(tokens).logits
    torch.testing.assert_close(model(tokens), expected, atol=1e-4, rtol=0)
    assert bos_ids(model) == [0]
    assert plain_ids(model, "Ada") and 0 not in plain_ids(model, "Ada")


def test_a_gpt2_folder_of_todays_transformers_loads(tmp_path: Path):
    """Its configuration has n_positions and no n_ctx, which TransformerLens reads."""
    load(str(saved(transformers.GPT2Config(**GPT), tmp_path / "made")), device="cpu")


GEMMA_3: dict[str, Any] = {
    **GROUPED,
    "head_dim": 8,
    "query_pre_attn_scalar": 12,
    "sliding_window": 4,
    "layer_types": LOCAL_GLOBAL,
}
LINEAR: dict[str, Any] = {"rope_type": "linear", "rope_theta": 300.0, "factor": 8.0}
UNUSUAL: dict[str, Callable[[], PretrainedConfig]] = {
    "olmo2": lambda: transformers.Olmo2Config(**GROUPED),  # no converter
    "llama, wide heads": lambda: transformers.LlamaConfig(**GROUPED, head_dim=16),
    "llama, attention biases": lambda: transformers.LlamaConfig(**GROUPED, attention_bias=True),
    "llama, linear rope": lambda: transformers.LlamaConfig(**GROUPED, rope_parameters=LINEAR),
    "qwen2, sliding": lambda: transformers.Qwen2Config(
        **GROUPED, use_sliding_window=True, sliding_window=4, max_window_layers=2
    ),
    "gemma, silu": lambda: transformers.GemmaConfig(**GROUPED, head_dim=8, hidden_act="silu"),
    "gemma3, linear rope": lambda: transformers.Gemma3TextConfig(
        **GEMMA_3, rope_parameters={"full_attention": LINEAR, "sliding_attention": ROPE}
    ),
    "gpt2, own d_mlp": lambda: transformers.GPT2Config(**GPT_2, n_inner=48),
    "opt, norms behind": lambda: transformers.OPTConfig(
        **UNGROUPED, ffn_dim=128, word_embed_proj_dim=32, do_layer_norm_before=False
    ),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_an_unusual_configuration_is_loaded_right_or_refused(tmp_path: Path, name: str):
    path = saved(UNUSUAL[name](), tmp_path / "made")
    try:
        model = load(str(path), device="cpu")
    except ModelUnavailable:
        return
    tokens = torch.arange(2, 14)[None]
    with torch.no_grad():
        expected = transformers.AutoModelForCausalLM.from_pretrained(path)(tokens).logits
    torch.testing.assert_close(model(tokens), expected, atol=1e-4, rtol=0)


def _obviously_converted(hf: Any, scale: float) -> dict[str, torch.Tensor]:
    """The weights of a Llama or a Gemma as TransformerLens names them, as views of the module's.

    Args:
        scale: what token embeddings are multiplied by.
    """
    config, weights = hf.config, {"embed.W_E": hf.model.embed_tokens.weight * scale}
    weights["unembed.W_U"] = hf.lm_head.weight.T
    for layer, block in enumerate(hf.model.layers):
        attn, mlp, at = block.self_attn, block.mlp, f"blocks.{layer}"
        n_heads, n_keys = config.num_attention_heads, config.num_key_value_heads
        for name, part, n in (("W_Q", "q", n_heads), ("_W_K", "k", n_keys), ("_W_V", "v", n_keys)):
            weight = getattr(attn, f"{part}_proj").weight
            weights[f"{at}.attn.{name}"] = weight.unflatten(0, (n, -1)).transpose(1, 2)
        weights[f"{at}.attn.W_O"] = attn.o_proj.weight.unflatten(1, (n_heads, -1)).permute(1, 2, 0)
        weights[f"{at}.mlp.W_gate"] = mlp.gate_proj.weight.T
        weights[f"{at}.mlp.W_in"] = mlp.up_proj.weight.T
        weights[f"{at}.mlp.W_out"] = mlp.down_proj.weight.T
    return weights


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        (lambda: transformers.Qwen2Config(**GROUPED, tie_word_embeddings=True), 1.0),
        (lambda: transformers.Gemma3TextConfig(**GEMMA_3), GROUPED["hidden_size"] ** 0.5),
    ],
    ids=["tied", "scaled"],
)
def test_weights_of_a_folder_are_its_own_to_the_bit_and_in_its_storage_order(
    tmp_path: Path, config: Callable[[], PretrainedConfig], scale: float
) -> None:
    """So loading them copies none but scaled embeddings, and tied ones stay in memory once."""
    path = saved(config(), tmp_path / "made")
    model = load(str(path), device="cpu")
    hf = transformers.AutoModelForCausalLM.from_pretrained(path)
    assert hf.lm_head.weight is hf.model.embed_tokens.weight
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, expected in _obviously_converted(hf, scale).items():
        assert torch.equal(parameters[name], expected), name
        assert parameters[name].stride() == expected.stride(), name
    tied = model.embed.W_E.data_ptr() == model.unembed.W_U.data_ptr()
    assert tied is (scale == 1)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_what_is_written_into_weights_reaches_neither_the_file_nor_another_model(
    tmp_path: Path, name: str
) -> None:
    path = saved(CONFIGS[name](), tmp_path / "made")
    file = path / "model.safetensors"
    before = file.read_bytes()
    one, other = load(str(path), device="cpu"), load(str(path), device="cpu")
    kept = {key: weight.clone() for key, weight in other.named_parameters()}
    for weight in one.parameters():
        weight.add_(1)
    again = load(str(path), device="cpu")
    assert file.read_bytes() == before
    for key, weight in one.named_parameters():
        assert not torch.equal(weight, kept[key])
        assert torch.equal(other.get_parameter(key), kept[key])
        assert torch.equal(again.get_parameter(key), kept[key])


def test_a_tokenizer_needs_no_list_of_what_it_was_built_from(tmp_path: Path) -> None:
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *"adl▁", "ad", "▁a"]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    merges: Any = [("a", "d"), ("▁", "a")]  # pairs, though the annotation there says strings
    words = transformers.GemmaTokenizer(vocab, merges)
    words.save_pretrained(tmp_path / "made")
    random_module(CONFIGS["llama"]()).save_pretrained(tmp_path / "made")
    plain = transformers.AutoTokenizer.from_pretrained(tmp_path / "made")
    _, ours = hugging_face.read_folder(tmp_path / "made")
    assert {"_vocab", "_merges"} <= set(vars(plain)) and type(ours) is type(plain)
    assert not {"_vocab", "_merges"} & set(vars(ours))
    for text in ("ad add", "lad<eos> a", "xyz"):
        ids = plain(text).input_ids
        assert ours(text).input_ids == ids and ours.decode(ids) == plain.decode(ids)
    assert ours.get_vocab() == plain.get_vocab() == vocab
    for name, tokenizer in (("plain", plain), ("ours", copy.deepcopy(ours))):
        tokenizer.save_pretrained(tmp_path / name)
    for file in (tmp_path / "plain").iterdir():
        assert (tmp_path / "ours" / file.name).read_bytes() == file.read_bytes()


SLIDING: dict[str, Any] = {
    **GROUPED,
    "use_sliding_window": True,
    "sliding_window": 32,
    "max_window_layers": 0,
}
WINDOWS: dict[str, Callable[[], PretrainedConfig]] = {
    "qwen2": lambda: transformers.Qwen2Config(**SLIDING),
    "qwen3": lambda: transformers.Qwen3Config(**SLIDING, head_dim=8),
}


@pytest.mark.parametrize("kind", WINDOWS)
def test_a_window_that_is_not_converted_is_refused(kind: str, monkeypatch: pytest.MonkeyPatch):
    """By the configuration; and where that says nothing, by a text longer than the window."""
    module = random_module(WINDOWS[kind]())
    for weight_name, weight in module.named_parameters():
        if "q_proj" in weight_name or "k_proj" in weight_name:
            weight.data.mul_(6)  # else attention is flat, and hardly changes with the window
    wanted = r"layer 0 has a window of 32 tokens in .*\(sliding_window\), and no window here"
    with pytest.raises(ModelUnavailable, match=wanted):
        hugging_face.hooked(module, torch.float32)
    monkeypatch.setattr(hugging_face, "_require_same_windows", lambda *_: None)
    with pytest.raises(ModelUnavailable, match="standard deviations .* within 48 tokens"):
        hugging_face.hooked(module, torch.float32)
    monkeypatch.setattr(hugging_face, "CHEAP", 0)  # as a large model: then 16 tokens are read
    hugging_face.hooked(module, torch.float32)


def test_a_window_that_no_text_can_outgrow_is_no_reason_to_refuse():
    wide: dict[str, Any] = SLIDING | {"sliding_window": 64}
    config = transformers.Qwen2Config(**wide)
    assert hugging_face.hooked(random_module(config), torch.float32).cfg.n_ctx == 64


def test_a_late_position_that_is_not_converted_is_refused(monkeypatch: pytest.MonkeyPatch):
    converted = hugging_face._converted

    def broken(*args: Any) -> Any:
        model = converted(*args)
        model.pos_embed.W_pos.data = model.pos_embed.W_pos.data.roll(1, 0)
        model.pos_embed.W_pos.data[:-1] = model.pos_embed.W_pos.data[1:].clone()
        return model  # the last position has the last but one's embedding, all others their own

    module = random_module(transformers.GPT2Config(**GPT_2))
    hugging_face.hooked(module, torch.float32)
    monkeypatch.setattr(hugging_face, "_converted", broken)
    with pytest.raises(ModelUnavailable, match="within 64 tokens"):
        hugging_face.hooked(module, torch.float32)


def test_a_text_is_no_longer_than_one_rotary_embedding_reads_it():
    """longrope turns other frequencies beyond its first context, which TransformerLens does not."""
    rope = ROPE | {
        "rope_type": "longrope",
        "short_factor": [1.0] * 4,
        "long_factor": [8.0] * 4,
        "factor": 2.0,
        "attention_factor": 1.0,
        "original_max_position_embeddings": 32,
    }
    module = random_module(transformers.LlamaConfig(**GROUPED, rope_parameters=rope))
    model = hugging_face.hooked(module, torch.float32)
    assert model.cfg.n_ctx == 32
    with torch.no_grad():
        for n, same in ((32, True), (33, False)):
            tokens = torch.arange(2, 2 + n)[None]
            off = float((module(tokens).logits - model(tokens)).abs().max())
            assert (off < 1e-4) is same


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_checkpoint_is_refused_with_the_weights_name(value: float):
    module = random_module(CONFIGS["llama"]())
    name = "model.layers.1.mlp.down_proj.weight"
    module.get_parameter(name).data[3, 5] = value
    wanted = rf"broken: 1 of the 1536 numbers of {re.escape(name)} are NaN or infinite"
    with pytest.raises(ModelUnavailable, match=wanted):
        hugging_face.hooked(module, torch.float32)


@pytest.mark.parametrize("name", ["toy", "llama", "bloom"])
def test_nothing_is_printed_warned_or_logged_on_loading(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
    caplog: pytest.LogCaptureFixture,
    name: str,
):
    source = name if name == "toy" else str(saved(CONFIGS[name](), tmp_path / "made"))
    capfd.readouterr()
    caplog.clear()
    recwarn.clear()
    with caplog.at_level(logging.WARNING):
        load(source, device="cpu")
    assert capfd.readouterr() == ("", "")
    told = [str(warning.message) for warning in recwarn]
    assert [text for text in told if "HookedTransformer is deprecated" not in text] == []
    assert caplog.messages == []


FRESH = """
import logging, sys, warnings
warnings.simplefilter("always")
from kedit.models.load import load
load(sys.argv[1], device="cpu")
assert logging.getLogger().handlers == []  # TransformerLens' loader would give it one
"""


@pytest.mark.slow
def test_a_fresh_process_that_shows_all_warnings_hears_none_of_loading(tmp_path: Path):
    folder = saved(CONFIGS["llama"](), tmp_path / "made")
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(folder)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "HookedTransformer" not in done.stderr and "weights" not in done.stderr


def _process_state() -> list[Any]:
    """What of the process loading must leave alone."""
    root = logging.getLogger()
    return [
        sys.stdout,
        sys.stderr,
        root.level,
        list(root.handlers),
        list(warnings.filters),
        transformers_logging.get_verbosity(),
        transformers_logging.is_progress_bar_enabled(),
        gc.isenabled(),
    ]


def test_threads_that_load_at_once_leave_the_process_as_it_was(tmp_path: Path):
    """The second thread begins before the first has ended, and ends after it."""
    folder = str(saved(CONFIGS["llama"](), tmp_path / "made"))
    before = _process_state()
    second_began, first_ended = threading.Event(), threading.Event()

    def first() -> Any:
        with quiet():
            within = sys.stdout, logging.getLogger().level, list(warnings.filters)
            second_began.wait(0.2)  # in vain where it has to wait for this one
        first_ended.set()
        return within

    def second() -> None:
        with quiet():
            second_began.set()
            first_ended.wait(10)

    with ThreadPoolExecutor(4) as pool:
        ones = [pool.submit(first), pool.submit(second)]
        assert ones[0].result() == (before[0], before[2], before[4])
        ones[1].result()
        assert _process_state() == before
        models = list(pool.map(load, ["toy", folder] * 4, ["cpu"] * 8))
    assert _process_state() == before
    for model in models[2:]:
        same = models[0] if model.cfg.model_name == "toy" else models[1]
        for name, weight in model.state_dict().items():
            assert torch.equal(weight, same.state_dict()[name])


@pytest.mark.parametrize(
    ("before", "found"),
    [("", "PASSIVE"), ("os.environ['OMP_WAIT_POLICY'] = 'ACTIVE'", "ACTIVE"), ("import torch", "")],
)
def test_threads_wait_without_spinning_unless_a_user_wants_it_otherwise(
    before: str, found: str
) -> None:
    code = f"import os; {before}\nimport kedit; print(os.environ.get('OMP_WAIT_POLICY', ''))"
    plain = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=plain
    )
    assert done.stdout.strip() == found
