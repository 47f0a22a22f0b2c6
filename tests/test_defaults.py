"""Editors for a model without settings of its own: derived from its depth, or saved by a user."""

import json
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer

from experiments import tune_editors
from kedit.editing import values
from kedit.editing.frozen import Slot
from kedit.editing.keys import training_rows
from kedit.editors import registry, specs
from kedit.editors.defaults import defaults
from kedit.editors.ft import FT, LARGEST_BOUND, bound_for
from kedit.editors.kn import KN, nudge_for
from kedit.editors.memit import MEMIT
from kedit.editors.registry import label_of, make_editor
from kedit.editors.rome import ROME
from kedit.editors.specs import names
from kedit.errors import InputError
from kedit.models import toy as toy_module
from kedit.models.load import SOURCE, load
from kedit.results.tuning import Tuning
from kedit.saved_settings import SavedEditor, save_settings, settings_file
from kedit.studies.comparing import compare
from kedit.studies.prepare import SIDES, prepare
from tests.conftest import CONFIGS, random_module

CASE = toy_module.cases()[0]
NAMES = ("rome", "memit", "ft", "ft+l", "kn", "joint", "w_out", "w_o")
SAVED = SavedEditor("rome:layer=2:where='last'", "rome", 0.5, 2, 0, "2025-01-01", "0.1.0")


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KEDIT_CONFIG", str(tmp_path / "config"))
    registry._tell_once.cache_clear()
    return tmp_path / "config"


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> HookedTransformer:
    """The toy, as a model that kedit has no settings for."""
    model = load("toy", device="cpu")
    monkeypatch.setattr(model, SOURCE, "other/model", raising=False)
    return model


@pytest.mark.parametrize("family", ["qwen2", "neox"])
def test_every_editor_edits_a_model_without_settings(family: str, tmp_path: Path) -> None:
    folder = str(tmp_path / "model")
    random_module(CONFIGS[family]()).save_pretrained(folder)
    toy_module.tokenizer().save_pretrained(folder)
    model = load(folder, device="cpu")
    for side in SIDES:
        for name in NAMES:
            spec = name if name.startswith(("ft", "kn")) else f"{name}:text=self:n_tokens=512"
            editor = make_editor(spec, model, side)
            assert editor == make_editor(spec, folder, side)
            edit = editor(model, [CASE.request(side)])
            norms = [norm.relative for norm in edit.norms(model).values()]
            assert norms and all(math.isfinite(norm) and norm > 0 for norm in norms)


def test_layers_keep_their_relative_depth() -> None:
    def layers(n_layers: int, name: str) -> Any:
        editor = vars(defaults(n_layers)[name])
        return editor.get("layers", editor.get("layer"))

    assert [layers(n, "rome") for n in (24, 36, 48, 28, 18)] == [8, 12, 16, 9, 6]
    assert (layers(18, "memit"), layers(18, "memit relation")) == ((4, 5, 6), (9, 10, 11))
    assert (layers(18, "joint"), layers(18, "w_o"), layers(30, "w_o")) == (
        (11,), (10, 11), (16, 17, 18),
    )  # fmt: skip
    for n_layers in range(1, 40):
        for name in defaults(n_layers):
            found = layers(n_layers, name)
            found = found if isinstance(found, tuple) else (found or 0,)
            assert found and 0 <= found[0] <= found[-1] < n_layers


def test_a_rate_from_the_outputs_scale_is_each_deltas_own(toy: HookedTransformer) -> None:
    """Training with it equals training each request alone with the rate told."""
    training = values.Training(steps=4, lr=None, weight_decay=0.0)
    slots = [Slot(1, "mlp")]
    problems = [training_rows(toy, CASE.entity, [""], "last")]
    problems.append(training_rows(toy, toy_module.cases()[5].entity, [""], "last"))
    together = values.train_all(toy, problems, slots, training)
    (slot,) = slots
    for rows, trained in zip(problems, together, strict=True):
        (norm,) = {float(trained.written[slot][first].norm()) for first in values.first_rows(rows)}
        rate = values.STEP * norm / toy.cfg.d_model**0.5
        alone = values.train(toy, rows, slots, replace(training, lr=rate))
        torch.testing.assert_close(trained.deltas[slot], alone.deltas[slot])
        assert float(alone.deltas[slot].norm()) > 0.1 * norm


def test_numbers_of_a_models_scale_are_resolved_and_kept_with_the_edit(
    toy: HookedTransformer,
) -> None:
    request = CASE.entity
    bounded = FT(1, steps=2, lr=1.0, bound=None)(toy, [request])
    assert bounded.made.settings["bound"] == bound_for(64) == LARGEST_BOUND
    delta = bounded.deltas["blocks.1.mlp.W_out"]
    assert isinstance(delta, torch.Tensor)
    assert float(delta.abs().max()) == pytest.approx(LARGEST_BOUND, rel=1e-3)
    published = {1024: 2e-3, 1280: 1e-3, 1600: 5e-4, 4096: 5e-5}
    for width, bound in published.items():
        assert bound_for(width) == pytest.approx(bound, rel=0.25)
    scaled = KN(erase=None)(toy, [request])
    assert scaled.made.settings["erase"] == nudge_for(toy) and scaled.made.settings["write"] == 2


@pytest.mark.parametrize("name", names())
def test_every_editor_and_variant_has_derived_settings(name: str, other: HookedTransformer) -> None:
    for side in SIDES:
        editor = make_editor(name, other, side)
        assert all(layer < other.cfg.n_layers for layer in getattr(editor, "layers", ()))


def test_a_model_without_settings_is_told_once(
    other: HookedTransformer, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        make_editor("rome", other)
    make_editor("mend", other)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "rome has no tuned settings for other/model: its layer 1 and" in record.message
    assert "tune_editors --model other/model --editors rome --perspective entity" in record.message
    make_editor("rome", "toy")
    assert len(caplog.records) == 1


def test_saved_settings_come_first_and_are_those_of_their_side(
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = make_editor("rome", "toy", "relation")
    assert not specs.has_preset("w_o", "unknown/model", "relation")
    save_settings("toy", {"rome entity": SAVED})
    save_settings("model", {"joint relation": replace(SAVED, settings="joint:layers=(2,)")})
    with caplog.at_level(logging.INFO, "kedit"):
        assert make_editor("rome:seed=3", "toy") == ROME(2, where="last", seed=3)
    assert str(settings_file("toy")) in caplog.text
    assert make_editor("rome", "toy", "relation") == before
    assert specs.has_preset("w_o", "unknown/model", "relation")
    w_o = make_editor("w_o", "unknown/model", "relation")
    assert label_of(w_o) == "joint:layers=(2,):halves=('attn',)"


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        json.dumps({"model": "other", "editors": {}}),
        json.dumps({"model": "toy", "editors": {"rome entity": {"settings": "rome:layer=1"}}}),
        *(
            json.dumps({"model": "toy", "editors": {"rome entity": {**vars(SAVED), **changed}}})
            for changed in (
                {"settings": "memit:layers=(1,)"}, {"settings": "rome:layer=x"},
                {"settings": "rome"}, {"settings": "rome:layer=1:foo=2"},
            )
        ),
    ],
)  # fmt: skip
def test_a_damaged_or_foreign_file_is_named(text: str) -> None:
    file = settings_file("toy")
    file.parent.mkdir(parents=True)
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="settings/toy.json"):
        make_editor("rome", "toy")


@pytest.mark.parametrize(
    "editor",
    [
        ROME(2, values.Training(lr=None, steps=3), contexts=("A: b. ", "")),
        MEMIT((1, 2), 3.0, values.Training(clamp=0.75, words=9)),
        FT(1, bound=None),
        *defaults(7).values(),
    ],
)
def test_a_label_has_all_settings(editor: Any) -> None:
    name, _, _ = label_of(editor).partition(":")
    saved = replace(SAVED, settings=label_of(editor))
    assert registry._rebuilt(f"{name} entity", saved, "toy") == editor


def test_an_edit_with_other_settings_is_another_record(toy: HookedTransformer) -> None:
    (before,) = prepare(toy, ["ft"], ["entity"])
    save_settings("toy", {"ft entity": replace(SAVED, settings="ft:layer=2")})
    (after,) = prepare(toy, ["ft"], ["entity"])
    assert before.name == after.name == "ft" and before.key(CASE) != after.key(CASE)
    (again,) = prepare(toy, ["ft"], ["entity"])
    assert again.key(CASE) == after.key(CASE)


@pytest.mark.slow
def test_tuned_settings_are_saved_and_used(
    tmp_path: Path, other: HookedTransformer, capsys: pytest.CaptureFixture[str]
) -> None:
    space = tmp_path / "space.json"
    space.write_text(json.dumps({"lr": [1e-2], "layers": [[2]]}), encoding="utf-8")
    config = tune_editors.Config(
        model="toy", editors="ft", tries=2, limit=1, perspective="entity", space=str(space),
        prompts_per_kind=1, save=True, out=str(tmp_path / "run"),
    )  # fmt: skip
    run = tune_editors.run(config)
    assert str(settings_file("toy")) in capsys.readouterr().out
    tuning = Tuning.load(run)
    best = tuning.tuned[0].best
    assert make_editor("ft", "toy") == make_editor(best.settings, "toy")
    saved = json.loads(settings_file("toy").read_text())["editors"]["ft entity"]
    assert (saved["settings"], saved["n_cases"], saved["seed"]) == (best.settings, 1, 0)
    # the same for a model without settings, from a result, as in a notebook
    settings = {"perspective": "entity", "chunks": 1, "labels": ()}
    found = compare(other, [CASE], ["ft"], **settings)
    assert not found.editors[0].is_tuned
    replace(tuning, model="other/model").save_settings()
    found = compare(other, [CASE], ["ft"], **settings)
    assert found.editors[0].is_tuned
