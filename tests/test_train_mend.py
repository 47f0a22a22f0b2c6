"""Training MEND: on whom, to the bit where it is resumed, and whether it learns to edit."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformer_lens import HookedTransformer

from experiments.train_mend import Config, run
from figures.training import losses
from kedit.editing import metalearning
from kedit.editing.hypernetwork import read_hypernetwork
from kedit.editors.ft import FT
from kedit.editors.mend import MEND, NAME
from kedit.editors.sides import Sides
from kedit.errors import InputError
from kedit.journal import Journal
from kedit.models import toy as toy_module
from kedit.models.load import prepare
from kedit.results.mend import HeldOutRate, Loss, TrainedMend
from kedit.run_folder import RunFolder
from kedit.stats import Interval
from kedit.studies import mend_training
from kedit.studies import toy_mend as toy_mend_module
from kedit.studies.mend import train_mend
from kedit.studies.mend_checkpoint import CHECKPOINT
from kedit.studies.mend_practice import Practice, practice_of
from kedit.studies.mend_requests import materials, read_requests, requests_for, split
from kedit.studies.mend_training import Recipe, train
from tests.conftest import TOY_MEND

ROOT = Path(__file__).parent.parent
CASES = toy_module.cases()
SHORT = Recipe(rank=4, batch=2, steps=6, validate_every=2)
TEXT = str(ROOT / "README.md")
REQUESTS = requests_for(CASES, n_validate=4)


def trained(recipe: Recipe, toy: HookedTransformer, out: Path) -> Path:
    """The folder of a training, in which nothing was edited with the network."""
    out.mkdir(exist_ok=True)
    train(toy, practice_of(toy, REQUESTS, text=TEXT), recipe, RunFolder(out))
    return out


def made_up(n: int, model: str = "toy") -> TrainedMend:
    """A training with so many validations."""
    ones = tuple(Loss(100 * step, 5 / (step + 1), 6.0, 1e-4 * (step + 1)) for step in range(n))
    half = Interval(*(np.array(value) for value in (0.5, 0.3, 0.7)))
    rates = (HeldOutRate("entity", "own prompt", half, half, 8),)
    return TrainedMend(
        model, 0, 1200, 96, 100 * (n - 1), 100 * (n - 1), ones[1:],
        {"entity": ones, "relation": ones}, rates, {"line 3": "it has no object"},
    )  # fmt: skip


def test_a_training_is_read_back_as_it_was_written_without_its_file(tmp_path: Path) -> None:
    found = replace(made_up(3), file="mend.safetensors")
    assert TrainedMend.from_record(json.loads(json.dumps(found.to_record()))) == found
    found.save(RunFolder(tmp_path))
    assert TrainedMend.load(tmp_path) == found and TrainedMend.load(tmp_path).file == ""
    assert "mend.safetensors" not in (tmp_path / TrainedMend.FILE).read_text()
    assert found.to_pandas()["after low"].tolist() == [0.3]
    assert "50 [30, 70]" in str(found.table())
    assert losses(found).get_suptitle() == found.plot().get_suptitle()


@pytest.mark.slow
def test_a_training_in_memory_goes_on_and_does_nothing_twice(
    toy: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal()
    found = train_mend(toy, REQUESTS, SHORT, locality_text=TEXT, journal=journal)
    assert found.n_steps == 6 and {rate.n for rate in found.rates} == {found.n_held_out // 2}
    assert MEND(found.file)(toy, [CASES[0].entity]).deltas
    for place in ("mend_training.practise", "mend._preferred"):
        monkeypatch.setattr(f"kedit.studies.{place}", None)  # not called
    assert train_mend(toy, REQUESTS, SHORT, locality_text=TEXT, journal=journal) == found
    for name, requests, recipe, seed in (
        ("requests", requests_for(CASES, n_validate=16), SHORT, 0),
        ("rank", REQUESTS, replace(SHORT, rank=5), 0),
        ("seed", REQUESTS, SHORT, 1),
    ):
        with pytest.raises(InputError, match=f"train_mend with {name}=.*use another journal"):
            train_mend(toy, requests, recipe, locality_text=TEXT, seed=seed, journal=journal)
    with (
        MEND(found.file)(toy, [CASES[0].entity]).applied(toy),
        pytest.raises(InputError, match="train_mend with model="),
    ):
        train_mend(toy, REQUESTS, SHORT, locality_text=TEXT, journal=journal)


def test_a_folder_of_a_training_is_resumed_by_another_process(
    toy: HookedTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(SHORT, steps=2)
    found = train_mend(toy, REQUESTS, recipe, locality_text=TEXT, journal=RunFolder(tmp_path))
    lines = (tmp_path / "records.jsonl").read_bytes()
    monkeypatch.setattr("kedit.studies.mend_training.practise", None)  # not called
    again = train_mend(toy, REQUESTS, recipe, locality_text=TEXT, journal=RunFolder(tmp_path))
    assert again == found and (tmp_path / "records.jsonl").read_bytes() == lines


@pytest.mark.slow
def test_it_learns_to_edit_people_it_never_saw(toy_mend: Path) -> None:
    lines = TrainedMend.load(toy_mend.parent).rates
    found = {(line.side, line.prompts): line for line in lines}
    assert {line.n for line in lines} == {16}
    for side in ("entity", "relation"):
        for prompts in ("own prompt", "other wordings"):
            line = found[side, prompts]
            # before: no fact is as it shall be; the bound of the interval is above that
            assert line.before.mean == 0 and line.after.low > 0, (side, prompts)
        assert found[side, "own prompt"].after.mean > 0.5
        assert found[side, "neighbours"].after.mean > 0.6


@pytest.mark.slow
def test_validation_falls_and_the_best_is_kept(toy_mend: Path) -> None:
    text = (toy_mend.parent / "records.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    totals = {
        int(line["key"]): 2 * TOY_MEND.total(line["validation"])
        for line in lines
        if "validation" in line
    }
    best = min(totals, key=totals.__getitem__)
    assert best > 0 and totals[best] < 0.5 * totals[0]
    _, origin = read_hypernetwork(toy_mend)
    assert origin.recipe["trained for"] == best and origin.source == "toy"
    assert origin.recipe["rank"] == TOY_MEND.rank
    assert (toy_mend.parent / "training.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("option", "value", "wanted"),
    [
        *(("lr", value, "at most 1") for value in (math.nan, math.inf, 99.0, -1.0, 0.0)),
        ("lr_rate", math.nan, "--lr-rate nan: must be a number above 0"),
        ("lr_rate", 1e12, "--lr-rate 1000000000000.0: must be a number above 0"),
        ("rate", 1e12, "--rate 1000000000000.0: must be a number above 0 and of at most 1"),
        ("edit_weight", -0.5, "--edit-weight -0.5: must be a number above 0"),
        *(
            (name, -1, f"--{name.replace('_', '-')} -1: must be a number of at least 1")
            for name in (
                "rank", "batch", "accumulate", "steps", "validate_every", "patience", "n_validate"
            )
        ),
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused_before_the_model_is_loaded(
    option: str, value: float, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kedit.models.load.load", None)  # not called
    config = replace(Config(model="toy", out=str(tmp_path / "run")), **{option: value})
    with pytest.raises(InputError, match=wanted):
        run(config)
    assert not (tmp_path / "run").exists()
    if option != "n_validate":
        with pytest.raises(InputError, match=wanted.split(": ")[-1]):
            replace(SHORT, **{option: value})


def test_training_stops_at_a_loss_that_is_no_number_and_keeps_what_was_kept(
    toy: HookedTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(SHORT, toy, tmp_path / "whole")
    practise = metalearning.practise

    def broken(*args: Any, **kwargs: Any) -> metalearning.Practised:
        found = practise(*args, **kwargs)
        n_trained.append(len(args) > 4)  # with a share of the gradient
        return replace(found, edit=math.nan) if sum(n_trained) == 4 else found

    n_trained: list[bool] = []
    monkeypatch.setattr(mend_training, "practise", broken)
    with pytest.raises(InputError, match=r"after 3 steps the edit loss \(training\) is nan"):
        trained(SHORT, toy, tmp_path / "broken")
    lines, wanted = (
        (tmp_path / name / "records.jsonl").read_text().splitlines() for name in ("broken", "whole")
    )
    assert lines == wanted[:2] and len(wanted) == 4  # validated before any step, and after two
    assert (tmp_path / "broken" / NAME).exists()
    monkeypatch.undo()
    trained(SHORT, toy, tmp_path / "broken")
    assert (tmp_path / "broken" / "records.jsonl").read_text() == (
        whole / "records.jsonl"
    ).read_text()


def test_no_subject_is_in_both_parts_and_none_of_those_that_are_scored(
    toy: HookedTransformer,
) -> None:
    found = materials(CASES, ("entity", "relation"), 0)
    scored = [case for case in CASES if case.entity.fact.subject in toy_module.PEOPLE[:3]]
    train, held_out = split(found, scored, 20, 0)
    people = [{one.request.fact.subject for one in part} for part in (train, held_out)]
    assert people[0] and people[1] and not people[0] & people[1]
    assert people[0] | people[1] == set(toy_module.PEOPLE[3:])
    assert split(found, scored, 20, 0) == (train, held_out) != split(found, scored, 20, 1)
    assert 20 <= len(held_out) < 28  # whole people


def test_edits_alone_borrow_wordings_and_neighbours_from_each_other() -> None:
    bare = [
        replace(case, probes=(), entity=replace(case.entity, fact=fact))
        for case in CASES
        for fact in toy_module.facts()
        if (fact.subject, fact.relation) == (case.entity.fact.subject, case.entity.fact.relation)
    ]
    found = materials(bare, ("entity",), 0)
    assert len(found) == len(bare)
    for one in found:
        (wording,) = one.wordings
        assert wording.prompt != one.request.fact.prompt and wording.answer == one.request.target
        assert one.request.fact.subject in wording.prompt
        for near in one.neighbours:
            assert one.request.fact.subject not in near.prompt
            assert near.answer == one.request.fact.object


def test_probes_that_a_case_has_are_its_material() -> None:
    (one, other) = materials(CASES[:1], ("entity", "relation"), 0)
    assert one.wordings[0].answer == CASES[0].entity.target
    assert other.wordings[0].answer == "birthplace"
    assert {near.answer for near in other.neighbours} <= {
        "birthplace",
        "language",
        "profession",
        "instrument",
    }


def test_exercises_hang_on_the_seed_and_the_key_alone(toy: HookedTransformer) -> None:
    practice = practice_of(toy, REQUESTS, text=TEXT)
    assert practice.batch(toy, 3, "7") == practice.batch(toy, 3, "7") != practice.batch(toy, 3, "8")
    for other in (replace(practice, seed=1), practice_of(toy, REQUESTS, text=TEXT, seed=1)):
        assert practice.batch(toy, 3, "7") != other.batch(toy, 3, "7")
    assert practice.validation(toy) == practice.validation(toy)
    for exercise in practice.batch(toy, 20, "7"):
        (edit,) = exercise.edits
        assert exercise.wanted[0].target == edit.target and len(exercise.staying) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [0, 2, 3])
def test_a_training_that_was_stopped_goes_on_to_the_bit(
    toy: HookedTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: int
) -> None:
    whole = trained(SHORT, toy, tmp_path / "whole")
    step, calls = mend_training._step, []

    def breaking(*args: object):
        calls.append(1)
        if len(calls) > stopped:
            raise KeyboardInterrupt
        return step(*args)  # pyright: ignore

    monkeypatch.setattr(mend_training, "_step", breaking)
    with pytest.raises(KeyboardInterrupt):
        trained(SHORT, toy, tmp_path / "resumed")
    monkeypatch.undo()
    again = trained(SHORT, toy, tmp_path / "resumed")
    for name in (NAME, CHECKPOINT):
        one, other = load_file(whole / name), load_file(again / name)
        assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
    assert (whole / "records.jsonl").read_text() == (again / "records.jsonl").read_text()


@pytest.fixture(scope="module")
def whole(toy: HookedTransformer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short training that nothing happened to."""
    torch.set_num_threads(1)
    return trained(SHORT, toy, tmp_path_factory.mktemp("whole"))


def cut(folder: Path) -> None:
    """Records behind the checkpoint are lost."""
    lines = (folder / "records.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "records.jsonl").write_bytes(b"".join(lines[:2]))


def torn(name: str, share: float) -> Callable[[Path], object]:
    def tear(folder: Path) -> None:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: int(share * len(whole))])

    return tear


def flipped(folder: Path) -> None:
    whole = bytearray((folder / CHECKPOINT).read_bytes())
    whole[-99] ^= 1
    (folder / CHECKPOINT).write_bytes(whole)


HARMS: dict[str, Callable[[Path], object]] = {
    "no checkpoint": lambda folder: (folder / CHECKPOINT).unlink(),
    "half a checkpoint": torn(CHECKPOINT, 0.5),
    "an empty checkpoint": torn(CHECKPOINT, 0),
    "a flipped bit in the checkpoint": flipped,
    "records that are cut off": cut,
    "no records": lambda folder: (folder / "records.jsonl").unlink(),
    "no network": lambda folder: (folder / NAME).unlink(),
    "half a network": torn(NAME, 0.5),
}


@pytest.mark.slow
@pytest.mark.parametrize("harm", HARMS)
def test_a_folder_that_lost_something_ends_as_one_that_lost_nothing(
    toy: HookedTransformer, whole: Path, tmp_path: Path, harm: str
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    HARMS[harm](tmp_path / "run")
    again = trained(SHORT, toy, tmp_path / "run")
    assert (again / "records.jsonl").read_text() == (whole / "records.jsonl").read_text()
    for name in (NAME, CHECKPOINT):
        one, other = load_file(whole / name), load_file(again / name)
        assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.slow
def test_a_training_that_was_killed_before_its_checkpoint_writes_no_record_twice(
    toy: HookedTransformer, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, calls = mend_training.save_checkpoint, []

    def killed(*told: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        keep(*told)

    monkeypatch.setattr(mend_training, "save_checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        trained(SHORT, toy, tmp_path)
    monkeypatch.undo()
    assert (tmp_path / "records.jsonl").read_text().count("\n") == 3  # 0, 2, and 4, which is ahead
    again = trained(SHORT, toy, tmp_path)
    assert (again / "records.jsonl").read_text() == (whole / "records.jsonl").read_text()


@pytest.mark.slow
def test_training_ends_where_validation_does_not_get_better(
    toy: HookedTransformer, tmp_path: Path
) -> None:
    # too small to change a number
    config = replace(SHORT, lr=1e-30, lr_rate=1e-30, steps=20, patience=4)
    folder = trained(config, toy, tmp_path)
    text = (folder / "records.jsonl").read_text()
    keys = [json.loads(line)["key"] for line in text.splitlines()]
    assert keys == ["0", "2", "4"]
    assert read_hypernetwork(folder / NAME)[1].recipe["trained for"] == 0


@pytest.mark.slow
def test_the_last_step_is_validated_too(toy: HookedTransformer, tmp_path: Path) -> None:
    def records(folder: Path) -> dict[str, Any]:
        text = (folder / "records.jsonl").read_text()
        return {line["key"]: line for line in map(json.loads, text.splitlines())}

    def last(folder: Path) -> str:
        return [*records(folder)][-1]

    larger = replace(SHORT, rate=3e-3, lr=1e-2, lr_rate=1e-4)
    few = trained(replace(larger, steps=2, validate_every=100), toy, tmp_path / "few")
    assert [*records(few)] == ["0", "2"]
    totals = {step: larger.total(line["validation"]) for step, line in records(few).items()}
    kept = read_hypernetwork(few / NAME)[1].recipe["trained for"]
    assert str(kept) == min(totals, key=totals.__getitem__)
    # the means are of these two steps, not of a hundred
    often = trained(replace(larger, steps=2, validate_every=1), toy, tmp_path / "often")
    each = [records(often)[key]["training"]["edit"] for key in ("1", "2")]
    assert records(few)["2"]["training"]["edit"] == pytest.approx(sum(each) / 2)
    # without patience for a validation in between, and again where there was one
    still = replace(SHORT, lr=1e-30, lr_rate=1e-30)
    impatient = trained(replace(still, patience=1), toy, tmp_path / "impatient")
    assert [*records(impatient)] == ["0", "1"]
    uneven = replace(SHORT, steps=5)
    assert last(trained(uneven, toy, tmp_path / "uneven")) == "5"


@pytest.mark.slow
def test_a_folder_whose_last_steps_were_not_validated_is_finished(
    toy: HookedTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an earlier kedit left it: without the last validation, with edits of held-out requests."""
    recipe, whole, folder = replace(SHORT, steps=3), tmp_path / "whole", tmp_path / "run"
    whole.mkdir()
    expected = train_mend(toy, REQUESTS, recipe, locality_text=TEXT, journal=RunFolder(whole))
    folder.mkdir()
    step, calls = mend_training._step, []

    def stopping(*args: object):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return step(*args)  # pyright: ignore

    monkeypatch.setattr(mend_training, "_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        train_mend(toy, REQUESTS, recipe, locality_text=TEXT, journal=RunFolder(folder))
    monkeypatch.undo()
    lines = (whole / "records.jsonl").read_text().splitlines(keepends=True)
    stale = [line.replace("0.", "0.9") for line in lines if '"held out' in line]
    with (folder / "records.jsonl").open("a") as records:
        records.writelines(stale)
    found = train_mend(toy, REQUESTS, recipe, locality_text=TEXT, journal=RunFolder(folder))
    assert found == expected and found.n_steps == 3
    assert (folder / "records.jsonl").read_text() == "".join(lines)


@pytest.mark.slow
def test_accumulated_batches_are_one_large_batch(
    toy: HookedTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of equal batches the mean's gradient is the batch's own: four steps come to the same."""
    once = Practice.batch
    monkeypatch.setattr(
        Practice, "batch", lambda self, model, size, key: once(self, model, size, key.split()[0])
    )
    base = replace(SHORT, steps=4, validate_every=4)
    one, other = (
        load_file(trained(replace(base, accumulate=n), toy, tmp_path / str(n)) / CHECKPOINT)
        for n in (1, 2)
    )
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], atol=1e-6, rtol=1e-4)


@pytest.mark.slow
def test_attention_can_be_edited_too(tmp_path: Path, toy: HookedTransformer) -> None:
    config = replace(SHORT, matrices=("W_V", "W_O"), layers=(2,), steps=2)
    file = trained(config, toy, tmp_path) / NAME
    edit = MEND(str(file))(toy, [CASES[0].entity])
    assert set(edit.deltas) == {"blocks.2.attn.W_V", "blocks.2.attn.W_O"}


def test_nothing_to_train_on_is_said() -> None:
    with pytest.raises(InputError, match=r"toy: 128 edits .* 0 to train on"):
        read_requests("toy", "toy", exclude="toy")


def test_a_recipe_names_files_without_their_folders(toy: HookedTransformer, tmp_path: Path) -> None:
    cases = tmp_path / "own.jsonl"
    facts = [fact for fact in toy_module.facts() if fact.relation.name == "birthplace"]
    told = [
        {"subject": one.subject, "relation": "birthplace", "object": one.object, "target": "Delft",
         "template": one.template}
        for one in facts if one.object != "Delft"
    ]  # fmt: skip
    cases.write_text("\n".join(map(json.dumps, told)), encoding="utf-8")
    requests = read_requests(str(cases), "toy", sides=("entity",), n_validate=2)
    recipe = replace(SHORT, steps=1)
    found = train_mend(toy, requests, recipe, locality_text=TEXT, journal=RunFolder(tmp_path))
    file = tmp_path / NAME
    assert found.file == str(file)
    kept = read_hypernetwork(file)[1].recipe
    assert (kept["text"], kept["cases"]) == ("README.md", "own.jsonl")
    assert (kept["perspective"], kept["n_validate"], kept["trained for"]) == ("entity", 2, 1)
    assert str(ROOT).encode() not in file.read_bytes()


def test_the_toys_is_trained_when_it_is_asked_for_and_then_kept(
    toy: HookedTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEDIT_CACHE", str(tmp_path))
    monkeypatch.setattr(
        toy_mend_module, "RECIPE", replace(toy_mend_module.RECIPE, steps=2, validate_every=2)
    )
    assert toy_mend_module.trained_for_toy(FT(1), toy, "toy") == FT(1)
    assert toy_mend_module.trained_for_toy(MEND("mine"), toy, "toy") == MEND("mine")
    assert toy_mend_module.trained_for_toy(MEND(), toy, "gpt2") == MEND()
    both = toy_mend_module.trained_for_toy(Sides(MEND(), None), toy, "toy")
    assert isinstance(both, Sides) and isinstance(both.entity, MEND)
    assert both.entity(toy, [CASES[0].entity]).deltas
    monkeypatch.setattr(mend_training, "train", None)  # not called
    assert toy_mend_module.trained_for_toy(MEND(), toy, "toy") == both.entity


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_model_of_any_dtype_is_trained_for_by_a_network_in_float32(
    toy: HookedTransformer, tmp_path: Path, dtype: torch.dtype
) -> None:
    recipe = replace(SHORT, steps=2)
    other = prepare(*toy_module.model(dtype))
    read_from, losses_of = [], []
    for name, model in (("float32", toy), ("other", other)):
        trained(recipe, model, tmp_path / name)
        records = RunFolder(tmp_path / name).records
        losses_of.append(records["2"]["training"])
        network = mend_training.started(model, practice_of(model, REQUESTS, text=TEXT), recipe)[0]
        read_from.append({value.dtype for value in network.state_dict().values()})
    assert read_from == [{torch.float32}] * 2
    assert losses_of[1] == pytest.approx(losses_of[0], rel=0.05, abs=1e-3)
    with MEND(str(tmp_path / "other" / NAME))(other, [CASES[0].entity]).applied(other):
        assert {value.dtype for value in other.state_dict().values()} >= {dtype}
