"""Settings in the files of ROME's, MEMIT's and EasyEdit's code."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

import kedit
from kedit.editing.values import Training
from kedit.editors import FT, KN, MEMIT, ROME
from kedit.editors.hparams import read_settings
from kedit.editors.lists import parse_specs
from kedit.editors.specs import require_possible
from kedit.errors import InputError

# the fields of the published files for GPT-2 XL
OF_ROME: dict[str, Any] = {
    "layers": [17], "fact_token": "subject_last", "v_num_grad_steps": 20, "v_lr": 5e-1,
    "v_loss_layer": 47, "v_weight_decay": 0.5, "clamp_norm_factor": 4, "kl_factor": 0.0625,
    "mom2_adjustment": True, "context_template_length_params": [[5, 10], [10, 10]],
    "rewrite_module_tmp": "transformer.h.{}.mlp.c_proj",
    "layer_module_tmp": "transformer.h.{}", "mlp_module_tmp": "transformer.h.{}.mlp",
    "attn_module_tmp": "transformer.h.{}.attn", "ln_f_module": "transformer.ln_f",
    "lm_head_module": "transformer.wte", "mom2_dataset": "wikipedia", "mom2_n_samples": 100000,
    "mom2_dtype": "float32",
}  # fmt: skip
OF_MEMIT = {name: value for name, value in OF_ROME.items() if "context" not in name} | {
    "layers": [13, 14, 15, 16, 17], "layer_selection": "all", "clamp_norm_factor": 0.75,
    "mom2_update_weight": 20000,
}  # fmt: skip
OF_FT = {
    "layers": [0], "num_steps": 25, "lr": 5e-4, "weight_decay": 0, "kl_factor": 0,
    "norm_constraint": 5e-4, "rewrite_module_tmp": "transformer.h.{}.mlp.c_proj",
}  # fmt: skip
OF_KN = {"adaptive_threshold": 0.1, "p": 0.5, "steps": 20, "refine": False, "lr_scale": 1.0}


def written(tmp_path: Path, fields: dict[str, Any], name: str = "gpt2-xl.json") -> str:
    file = tmp_path / name
    file.write_text(json.dumps(fields), encoding="utf-8")
    return str(file)


@pytest.mark.parametrize(
    ("fields", "editor"),
    [
        (OF_ROME, ROME(17, Training(clamp=4.0), lengths=((5, 10), (10, 10)))),
        (OF_MEMIT, MEMIT((13, 14, 15, 16, 17), 20000.0, Training(clamp=0.75))),
        (OF_FT, FT(0, bound=5e-4)),
        (OF_FT | {"norm_constraint": False}, FT(0)),
        (OF_FT | {"objective_optimization": "prompt_last"}, FT(0, bound=5e-4, loss="upstream")),
        (OF_KN, KN(threshold=0.1)),
    ],
)
def test_published_settings_are_kedits_presets(
    tmp_path: Path, fields: dict[str, Any], editor: Any
) -> None:
    assert kedit.make_editor(written(tmp_path, fields), "gpt2-xl") == editor


def test_no_setting_of_the_models_preset_remains(tmp_path: Path) -> None:
    """Gemma's ROME has other contexts, words, rates and bounds; the file decides all of them."""
    file = written(tmp_path, OF_ROME | {"layers": [3]})
    wanted = ROME(3, Training(clamp=4.0), lengths=((5, 10), (10, 10)))
    assert kedit.make_editor(file, "gemma-3-270m") == wanted


def test_easyedits_yaml_is_read(tmp_path: Path) -> None:
    file = tmp_path / "gpt2-xl.yaml"
    file.write_text(
        "alg_name: ROME\nmodel_name: ./hugging_cache/gpt2-xl\ndevice: 0\nlayers: [17]\n"
        "fact_token: last\nv_num_grad_steps: 20\nv_lr: 5e-1\nv_loss_layer: 47\n"
        "v_weight_decay: 0.5\nclamp_norm_factor: 4\nkl_factor: 0.0625\nmom2_adjustment: true\n"
        "context_template_length_params: [[5, 10], [10, 10]]\n"
        "rewrite_module_tmp: transformer.h.{}.mlp.c_proj\nmodel_parallel: false\n"
    )
    wanted = ROME(17, Training(clamp=4.0), "last", lengths=((5, 10), (10, 10)))
    assert kedit.make_editor(str(file), "gpt2-xl") == wanted


def test_a_file_stands_wherever_an_editor_does(tmp_path: Path) -> None:
    rome, memit = (
        written(tmp_path, fields, name)
        for fields, name in ((OF_ROME, "rome.json"), (OF_MEMIT, "memit.json"))
    )
    assert parse_specs(rome) == [rome]
    assert parse_specs(f"{rome},{memit},ft+l") == [rome, memit, "ft+l"]
    found = require_possible(rome, "gpt2-xl")
    assert found["entity"]["layer"] == 17
    changed = kedit.make_editor(f"{rome}:training.clamp=2:where=last", "gpt2-xl")
    assert changed == ROME(17, Training(clamp=2.0), "last", lengths=((5, 10), (10, 10)))
    sides = kedit.make_editor(f"{memit}&joint", "gemma-3-270m")
    assert sides.entity == kedit.make_editor(memit, "gemma-3-270m")  # pyright: ignore
    tuned = tmp_path / "tuned.json"
    tuned.write_text(json.dumps({"editors": {"rome": "rome:layer=4"}}), encoding="utf-8")
    assert parse_specs(str(tuned)) == ["rome:layer=4"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (OF_ROME | {"layers": [3, 4]}, "layers has 2 layers, but one is needed"),
        (OF_ROME | {"layers": "17"}, "layers is '17', but a list of numbers is needed"),
        (OF_ROME | {"fact_token": "subject_first"}, "fact_token is 'subject_first'"),
        (OF_ROME | {"mom2_adjustment": False}, "mom2_adjustment is False"),
        (OF_ROME | {"rewrite_module_tmp": "transformer.h.{}.mlp.c_fc"}, "changes W_out"),
        (OF_MEMIT | {"layer_selection": "random"}, "layer_selection is 'random'"),
        (OF_FT | {"weight_decay": 0.1}, "weight_decay is 0.1, but kedit's FT has none"),
        ({"layers": [1], "v_num_grad_steps": 3, "fact_token": "last", "alg_name": "WISE"},
         "settings of WISE cannot be read, only those of ROME"),
        ({"norm_constraint": 0.1, "layers": [1]}, "the field num_steps is missing"),
    ],
)  # fmt: skip
def test_what_kedit_cannot_do_is_refused(
    tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    file = written(tmp_path, fields)
    with pytest.raises(InputError) as refused:
        kedit.make_editor(file, "gpt2-xl")
    assert message in str(refused.value) and file in str(refused.value)


@pytest.mark.parametrize("text", ["", "[1, 2]", "{", "layers: [1", "a: b: c"])
@pytest.mark.parametrize("ending", [".json", ".yaml"])
def test_a_damaged_file_is_one_error(tmp_path: Path, text: str, ending: str) -> None:
    file = tmp_path / f"settings{ending}"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="settings"):
        read_settings(file)


def test_what_is_not_used_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "kedit"):
        read_settings(written(tmp_path, OF_ROME | {"momentum": 0.9}))
    told = [record.getMessage() for record in caplog.records]
    assert any("kedit does not use the fields momentum" in line for line in told)
    assert any("mom2_dataset wikipedia, mom2_n_samples 100000" in line for line in told)
