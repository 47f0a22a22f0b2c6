"""What is said before torch is imported or weights are read."""

import importlib
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformer_lens import HookedTransformer

from experiments import edit_fact, patch_heads
from experiments._early import require_possible
from experiments._text_length import require_bytes, require_tokens
from experiments._trace import Config
from kedit.data import load_facts
from kedit.data.comparable import require_kinds_to_compare, require_relations_to_compare
from kedit.data.enough import require_facts_of_a_relation, require_facts_to_ask
from kedit.data.named import NO_FILES
from kedit.errors import InputError, ModelUnavailable
from kedit.models import devices
from kedit.models.devices import require_device
from kedit.models.load import load
from kedit.models.outline import Outline, outline_of
from kedit.models.packaged import PACKAGED
from tests.conftest import downloaded
from tests.test_export import saved


def config_of(experiment: str, **options: Any) -> Any:
    made = importlib.import_module(f"experiments.{experiment}").Config()
    toy = {"model": "toy"} if hasattr(made, "model") else {}
    return replace(made, **toy | options)


@pytest.mark.parametrize(
    ("experiment", "options", "message"),
    [
        ("trace_relation", {"facts": "no.jsonl"}, "--facts no.jsonl: there is no such file"),
        ("trace_relation", {"facts": "tests"}, "--facts tests: it is a folder, but must be a file"),
        ("trace_relation", {"by": "noise", "noise": "loud"}, "noise 'loud'"),
        ("trace_relation", {"window": 100}, "--window 100: toy has 4 layers; .* at most 10"),
        ("trace_relation", {"device": "mps"}, "--device mps: kedit computes on cpu and cuda only"),
        ("trace_relation", {"device": "gpu"}, "--device gpu: must be auto, cpu, cuda or cuda:1"),
        ("trace_relation", {"out": "README.md/run"}, "--out .*: README.md is a file, but a folder"),
        ("train_mend", {"cases": "toy,no.json"}, "--cases no.json: there is no such file"),
        ("train_mend", {"exclude": "no.json"}, "--exclude no.json: there is no such file"),
        ("train_mend", {"layers": (4,)}, "--layers 4: toy has layers 0 to 3"),
        ("compare_editors", {"text": "no.txt"}, "--text no.txt: there is no such file"),
        ("compare_editors", {"held_out": "no.txt"}, "--held-out no.txt: there is no such file"),
        ("compare_editors", {"editors": "no.json"}, "--editors no.json: there is no such file"),
        ("compare_editors", {"editors": ","}, "--editors: no editor is given; .* --editors rome"),
        ("compare_editors", {"editors": "rome,memit:layers=(2,4)"}, r"=\(2,4\): toy has layers 0"),
        ("compare_editors", {"editors": "joint:heads=((0,4),)"}, "toy has 4 layers of 4 heads"),
        ("compare_editors", {"editors": "mend:file=no.bin"}, "file=no.bin: there is no such file"),
        ("compare_editors", {"editors": "rome:moments=('no.npz',)"}, "no.npz: there is no such"),
        ("compare_editors", {"editors": "rome:text=no.txt"}, "text=no.txt: there is no such file"),
        ("tune_editors", {"editors": "rome:layr=1"}, "ROME has no 'layr'"),
        ("choose_sites", {"settings": "neighbors=3"}, "Joint has no 'neighbors'"),
        ("ablate_attention", {"tuned": "no.json"}, "--tuned no.json: there is no such file"),
        (
            "ablate_attention",
            {"n_random_heads": 4},
            "--n-random-heads 4: must be less than the 4 heads of a layer",
        ),
        ("ask_heads", {"heads": "L1H4"}, "--heads L1H4: toy has 4 layers of 4 heads, L0H0 to L3H3"),
        ("ask_heads", {"heads": "nine"}, "a name such as L11H2"),
        ("edit_fact", {"editor": "rome:layer=9"}, "rome:layer=9: toy has layers 0 to 3"),
        ("score_model", {"model": "no/such"}, "unknown model 'no/such'"),
        ("build_rake", {"source": "no.json"}, "--source no.json: there is no such file"),
    ],
)
def test_what_cannot_be_used_is_named(
    experiment: str, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parent.parent)
    require_possible(config_of(experiment), experiment)
    with pytest.raises(InputError, match=message):
        require_possible(config_of(experiment, **options), experiment)


def test_devices_are_looked_at_by_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "n_cuda", lambda: 2)
    for device in ("auto", "cpu", "cuda", "cuda:1", "cuda:0,cuda:1", "cuda:1,cuda:0"):
        require_device(device)
    for device, dtype, message in (
        ("cuda:2", "float32", "torch sees 2 CUDA devices here"),
        ("cuda:0,cuda:2", "float32", "cuda:0,cuda:2: torch sees 2 CUDA devices here"),
        ("cuda:1,cuda:1", "float32", "cuda:1,cuda:1: names a device twice, .* different ones"),
        ("cuda:0,cpu", "float32", "or several CUDA devices as in cuda:0,cuda:1"),
        ("cuda,cuda:1", "float32", "or several CUDA devices as in cuda:0,cuda:1"),
        ("cuda:0,", "float32", "or several CUDA devices as in cuda:0,cuda:1"),
        ("cpu", "float16", "on a CPU kedit computes in float32"),
        ("xpu:1", "float32", "never verified on xpu"),
        ("cuda:x", "float32", "must be auto, cpu, cuda or cuda:1"),
    ):
        with pytest.raises(ModelUnavailable, match=message):
            require_device(device, dtype)
    monkeypatch.setattr(devices, "n_cuda", lambda: 0)
    with pytest.raises(ModelUnavailable, match="torch sees no CUDA device here"):
        require_device("auto", "bfloat16")


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_an_outline_is_what_is_loaded_later(family: str, tmp_path: Path) -> None:
    folder = saved(family, tmp_path / "model")
    found, cfg = outline_of(str(folder)), load(str(folder)).cfg
    assert found == Outline(
        cfg.n_layers, cfg.n_heads, cfg.d_model, cfg.d_head, cfg.d_mlp or 0, cfg.n_ctx
    )


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def test_an_outline_of_a_gguf_file_is_read_from_its_first_lines(tmp_path: Path) -> None:
    numbers = {
        "block_count": 30, "context_length": 2048, "embedding_length": 576,
        "feed_forward_length": 1536, "attention.head_count": 9,
    }  # fmt: skip
    fields = text("general.architecture") + struct.pack("<I", 8) + text("llama")
    fields += text("general.quantized") + struct.pack("<I?", 7, True)
    for name, value in numbers.items():
        fields += text(f"llama.{name}") + struct.pack("<II", 4, value)
    fields += text("tokenizer.ggml.tokens") + struct.pack("<I", 9)  # nothing behind it is read
    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(numbers) + 3) + fields)
    assert outline_of(str(file)) == Outline(30, 9, 576, 64, 1536, 2048)
    file.write_bytes(file.read_bytes()[:60])
    assert outline_of(str(file)) is None  # which loading tells


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.large if "1.5b" in name else pytest.mark.real)
        for name in PACKAGED
    ],
)
def test_the_outline_of_a_packaged_model_is_that_of_its_weights(name: str) -> None:
    cfg = downloaded(name).cfg
    sizes = (cfg.n_layers, cfg.n_heads, cfg.d_model, cfg.d_head, cfg.d_mlp, cfg.n_ctx)
    assert Outline(*sizes) == outline_of(name)  # pyright: ignore[reportArgumentType]


def test_a_text_that_is_too_short_is_told_by_its_bytes_or_its_tokens(
    toy: HookedTransformer, tmp_path: Path
) -> None:
    file = tmp_path / "text.txt"
    for experiment, options, n_tokens, mend in (
        ("edit_fact", {"text": str(file)}, 4 * 256, "fewer --tokens-per-dim"),
        ("compare_editors", {"text": str(file)}, 4 * 256, "fewer --tokens-per-dim"),
        ("compare_editors", {"editors": f"rome:n_tokens=99:text={file}"}, 99, "fewer n_tokens"),
        ("compare_editors", {"held_out": str(file)}, 63, "use a longer text$"),
        ("edit_fact", {"held_out": str(file)}, 63, "use a longer text$"),
        ("train_mend", {"locality_text": str(file)}, 24, "use a longer text$"),
    ):
        config = config_of(experiment, **options)
        file.write_text("The language of Ada Alder is Danish. " * 2000, encoding="utf-8")
        require_bytes(config)
        require_tokens(config, toy)
        file.write_text("Ada", encoding="utf-8")
        with pytest.raises(
            InputError, match=f"the text has 3 bytes, .*needs {n_tokens:,} tokens: .*{mend}"
        ):
            require_bytes(config)
        file.write_text("Danish " * (n_tokens // 4), encoding="utf-8")
        require_bytes(config)
        with pytest.raises(
            InputError, match=f"the text has [\\d,]+ tokens, .*needs {n_tokens:,} tokens"
        ):
            require_tokens(config, toy)


@pytest.mark.parametrize("name", NO_FILES)
def test_texts_that_have_a_name_are_no_files_that_are_missing(name: str) -> None:
    require_possible(config_of("edit_fact", model="toy", text=name, held_out=name))
    require_possible(config_of("compare_editors", model="toy", editors=f"rome:text={name}"))


def test_too_few_facts_are_told_before_the_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("kedit.models.load.load", None)  # not called
    config = Config(model="toy", limit=3, sites=["z"], out=str(tmp_path / "run"))
    with pytest.raises(InputError, match="--limit 3: a comparison of relations.* Use --limit 8"):
        patch_heads.run(config)
    assert not (tmp_path / "run").exists()
    with pytest.raises(
        InputError, match="--prompt: the subject .* is not in 'no place'; put {} in place"
    ):
        edit_fact.run(edit_fact.Config(model="toy", prompt="no place"))


def test_how_many_facts_are_enough() -> None:
    facts = {fact.relation.id: fact for fact in load_facts("toy")}
    one, two, *_ = ([fact] for fact in facts.values())
    require_relations_to_compare([one, two, one, two], 0)
    with pytest.raises(InputError, match="Facts: 3, relations: 2, with two facts: 1"):
        require_relations_to_compare([one, two, one], 0)
    with pytest.raises(InputError, match="--limit 3: .* Use --limit 4"):
        require_relations_to_compare([one, two, one, two], 3)
    with pytest.raises(InputError, match="Facts: 1, kinds: 1"):
        require_kinds_to_compare([one, two], 1)
    require_facts_to_ask([*one, *two], 1)
    with pytest.raises(InputError, match="--choose 2: .* Facts: 2"):
        require_facts_to_ask([*one, *two, *two], 2)
    some = [fact for fact in load_facts("toy") if fact.subject in ("Ada Alder", "Bruno Birch")]
    require_facts_of_a_relation(some, 2)
    with pytest.raises(InputError, match="none of these relations has more than 2"):
        require_facts_of_a_relation(some, 3)
    with pytest.raises(InputError, match="--facts-per-relation 1: at least 2 facts per relation"):
        require_facts_of_a_relation(some, 2, at_most=1)
