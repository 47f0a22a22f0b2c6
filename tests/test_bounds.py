"""The table of bounds: nothing with a number is missing, and what is told is held against it."""

import dataclasses
import importlib
import subprocess
import sys
import typing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments._bounds import require_options_in_bounds
from figures import report
from kedit.bounds import RULES, Bound, Choice, rule_of
from kedit.editing.values import Training
from kedit.editors import specs as told
from kedit.editors.registry import EDITORS, VARIANTS, make_editor
from kedit.errors import InputError
from probes.patch import SITES
from probes.studies.candidate_sites import POSITIONS
from probes.studies.neurons import HALVES

ROOT = Path(__file__).parent.parent
EXPERIMENTS = sorted(file.stem for file in (ROOT / "experiments").glob("[a-z]*.py"))
SETTINGS = [*dict.fromkeys(EDITORS.values()), Training]


def numbers(hint: Any) -> bool:
    """Whether a value of this type is a number, or holds some."""
    if typing.get_args(hint):
        return any(map(numbers, typing.get_args(hint)))
    return hint in (int, float)


def types_of(config: type) -> dict[str, Any]:
    """The type of each option of a command, those of its groups too."""
    found: dict[str, Any] = {}
    for field, hint in typing.get_type_hints(config).items():
        found |= types_of(hint) if dataclasses.is_dataclass(hint) else {field: hint}  # pyright: ignore
    return found


@pytest.mark.parametrize("name", [*EXPERIMENTS, "figures.report"])
def test_every_number_of_a_command_has_a_bound(name: str) -> None:
    config = report.Config if "." in name else importlib.import_module(f"experiments.{name}").Config
    for field, hint in types_of(config).items():
        if numbers(hint):
            assert isinstance(rule_of(name, field), Bound), f"{name} --{field}: no bound"


@pytest.mark.parametrize("settings", SETTINGS)
def test_every_number_of_an_editors_settings_has_a_bound(settings: type) -> None:
    owner = settings.__name__.lower()
    for field, hint in typing.get_type_hints(settings).items():
        if numbers(hint):
            assert isinstance(rule_of(owner, field), Bound), f"{owner}:{field}: no bound"


def test_every_rule_is_of_something() -> None:
    fields = {
        (owner, field)
        for name in EXPERIMENTS
        for owner in ("", name)
        for field in types_of(importlib.import_module(f"experiments.{name}").Config)
    }
    fields |= {
        (owner, field)
        for settings in SETTINGS
        for owner in ("", settings.__name__.lower())
        for field in typing.get_type_hints(settings)
    }
    for key in RULES:
        owner, _, field = key.rpartition(".")
        assert (owner, field) in fields, f"nothing has {key}"


def test_words_are_those_that_the_code_knows() -> None:
    assert RULES["sites"] == Choice((*SITES, "severed"))
    assert RULES["positions"] == Choice(POSITIONS)
    assert RULES["find_neurons.halves"] == Choice(HALVES)


@pytest.mark.parametrize(
    ("experiment", "options", "message"),
    [
        ("choose_sites", {"n_neighbours": 0}, "--n-neighbours 0: must be a number of at least 1"),
        (
            "choose_sites",
            {"positions": ["last", "first"]},
            "--positions first: must be one of subject_last",
        ),
        ("choose_sites", {"layers": [2, -1]}, "--layers -1: must be a number of at least 0"),
        ("train_mend", {"matrices": "W_in,W_up"}, "--matrices W_up: must be one of W_in W_gate"),
        ("train_mend", {"batch": 0}, "--batch 0: must be a number of at least 1"),
        ("train_mend", {"lr": 2.0}, "--lr 2.0: must be a number above 0 and of at most 1"),
        (
            "find_neurons",
            {"threshold": 1.0},
            "--threshold 1.0: must be a number of at least 0 and below 1",
        ),
        ("find_neurons", {"halves": []}, "--halves: at least one value is needed"),
        ("split_cases", {"validate": -1}, "--validate -1: must be a number of at least 0"),
        (
            "compare_editors",
            {"chunk_tokens": 1},
            "--chunk-tokens 1: must be a number of at least 2",
        ),
        (
            "trace_relation",
            {"metric": "odds"},
            "--metric odds: must be one of prob logprob logit_diff",
        ),
        (
            "trace_relation",
            {"dtype": "int8"},
            "--dtype int8: must be one of float32 float64 bfloat16",
        ),
        (
            "trace_relation",
            {"screen": float("nan")},
            "--screen nan: must be a number between 0 and 1",
        ),
    ],
)
def test_an_option_out_of_its_bounds_is_named(
    experiment: str, options: dict[str, Any], message: str
) -> None:
    config = importlib.import_module(f"experiments.{experiment}").Config()
    require_options_in_bounds(config, experiment)  # its own defaults are in their bounds
    with pytest.raises(InputError, match=message):
        require_options_in_bounds(replace(config, **options), experiment)


@pytest.mark.parametrize("name", [*EDITORS, *VARIANTS])
def test_an_editors_source_tells_the_settings_that_it_has(name: str) -> None:
    kind = VARIANTS[name].editor if name in VARIANTS else name
    real = typing.get_type_hints(EDITORS[kind])
    found = typing.get_type_hints(told.settings_of(name))
    assert list(found) == list(real)
    for field, hint in real.items():
        if field not in ("training", "moments"):  # classes, for which others stand in
            assert found[field] == hint
    if "training" in real:
        inner = typing.get_type_hints(found["training"])
        assert inner == typing.get_type_hints(Training)


def test_names_are_all_there_are_in_their_order() -> None:
    assert told.names() == (*EDITORS, *VARIANTS)


WRONG = [
    "foo", "rome:layr=3", "rome:layer=five", "rome:layer", "rome:training.clamp=x", "ft:lr=-1",
    "rome:training.foo=1", "rome:where.x=1", "joint:halves=('mlp','x')", "kn:steps=0", "&",
    "rome:where=first", "memit&joint:weight=0", "rome:training=3", "rome:text=3", "emmet:layer=3",
]  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_refused_without_torch_is_what_the_editor_refuses(name: str) -> None:
    with pytest.raises(InputError) as early:
        told.require_possible(name, "toy")
    with pytest.raises(InputError) as late:
        make_editor(name, "toy")
    assert str(early.value) == str(late.value)


@pytest.mark.parametrize("name", ["rome", "memit", "pmet", "ft+l", "kn", "mend"])
@pytest.mark.parametrize("model", ["toy", "gpt2-xl", "EleutherAI/gpt-j-6B", "mine.gguf"])
@pytest.mark.parametrize("side", ["entity", "relation"])
def test_layers_are_asked_for_where_nothing_tells_the_depth(
    name: str, model: str, side: Any
) -> None:
    told.require_possible(name, model, side, 12)
    if model != "mine.gguf" or name in ("kn", "mend"):
        told.require_possible(name, "toy", side)
        return
    with pytest.raises(InputError, match="as in ") as early:
        told.require_possible(name, model, side)
    with pytest.raises(InputError) as late:
        make_editor(name, model, side)
    assert str(late.value) == f"{early.value} (there is no file mine.gguf)"
    example = str(early.value).partition("as in ")[2]
    told.require_possible(example, model, side)
    make_editor(example, model, side)


LOOKING = """
import sys
from experiments._early import require_possible
from experiments.{name} import Config
require_possible(Config(), {name!r})
heavy = [name for name in ("torch", "transformer_lens", "transformers") if name in sys.modules]
sys.exit(f"imported: {{heavy}}" if heavy else 0)
"""


@pytest.mark.parametrize("name", ["compare_editors", "trace_relation"])
def test_options_are_looked_at_without_torch(name: str) -> None:
    code = LOOKING.format(name=name)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_bound_says_what_it_holds() -> None:
    for low, high, without in ((0, 1, ""), (0, 1, "low"), (0, 1, "high"), (0, 1, "both")):
        bound = Bound(low, high, without)
        assert bound.holds(0.5) and not bound.holds(float("nan"))
        assert bound.holds(0) == (without in ("", "high"))
        assert bound.holds(1) == (without in ("", "low"))
    assert not Bound(0).holds(float("inf"))
