"""Texts of one's own, patched without a fact: against the readable loop, and what is refused."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from jaxtyping import Float
from matplotlib.text import Text
from torch import Tensor
from transformer_lens import HookedTransformer

from experiments import patch_prompts as command
from figures.prompts import head_maps
from figures.trace import heatmap
from kedit.errors import InputError
from kedit.forward import metrics
from kedit.forward.metrics import METRICS, OwnMetric
from kedit.forward.runs import Run
from kedit.models.prompts import prompt_ids
from kedit.results.prompts import PromptTrace
from kedit.run_folder import CONFIG
from probes.patch import AnswerMetric, Patch
from probes.prompts import SINGLE, patch, patch_prompts
from tests import twins
from tests.conftest import TOLERANCES

CLEAN = "The birthplace of Ada Alder is"
OTHERS = ("The birthplace of Inés Ironwood is", "The language of Greta Ginkgo is")


def entropy(logits: Float[Tensor, "row d_vocab"]) -> Float[Tensor, " row"]:
    logprobs = logits.log_softmax(-1)
    return -(logprobs.exp() * logprobs).sum(-1)


def rows(model: HookedTransformer, texts: Sequence[str], given: Sequence[int] = ()) -> Run:
    return Run(torch.tensor([[*prompt_ids(model, text), *given] for text in texts]))


def token(model: HookedTransformer, text: str) -> int:
    (only,) = model.tokenizer(text, add_special_tokens=False)["input_ids"]  # pyright: ignore
    return only


@pytest.fixture(scope="module")
def trace(toy: HookedTransformer) -> PromptTrace:
    return patch_prompts(toy, CLEAN, OTHERS[0], answer="Corum", foil="Brock")


@pytest.mark.parametrize("patch", SINGLE, ids=str)
@pytest.mark.parametrize("others", [OTHERS[:1], OTHERS], ids=["one text", "two texts"])
def test_own_prompts_equal_the_readable_loop(
    toy: HookedTransformer, patch: Patch, others: tuple[str, ...]
):
    own = OwnMetric("entropy", entropy)
    answer, foil = token(toy, " Corum"), token(toy, " Brock")
    for question, asked in (
        (AnswerMetric(answer, foil), {"answer": "Corum", "foil": "Brock"}),
        (own, {"metric": entropy}),
    ):
        found = patch_prompts(toy, CLEAN, others, patches=[patch], **asked)  # pyright: ignore
        slow = twins.sweep(toy, rows(toy, [CLEAN]), rows(toy, others), patch, question)
        grid = found.grids[patch.site]
        assert grid.metrics == question.metrics
        for metric, fast, loop in zip(grid.metrics, grid.restored, slow, strict=True):
            atol = TOLERANCES.get(metric, 1e-5)
            torch.testing.assert_close(fast, loop, atol=atol, rtol=0)
            assert loop.amax() - loop.amin() > 50 * atol  # something could differ


def test_an_own_metric_does_not_depend_on_how_its_rows_are_batched(
    toy: HookedTransformer, monkeypatch: pytest.MonkeyPatch
):
    whole = patch_prompts(toy, CLEAN, OTHERS, metric=entropy).grids["z"].restored
    monkeypatch.setattr(metrics, "HELD", 3 * toy.cfg.d_vocab)
    parts = patch_prompts(toy, CLEAN, OTHERS, metric=entropy).grids["z"].restored
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=0)


def test_restoring_the_last_state_brings_the_clean_score_back(toy: HookedTransformer):
    found = patch_prompts(
        toy, CLEAN, OTHERS[0], metric=entropy, patches=[Patch("mlp_out"), SINGLE[0]]
    )
    grid = found.grids["resid_post"]
    assert float(grid.restored[0, -1, -1]) == pytest.approx(float(grid.clean[0]), abs=1e-5)


def test_what_the_trace_says(toy: HookedTransformer, trace: PromptTrace):
    assert (trace.answer, trace.foil, trace.given) == (" Corum", " Brock", "")
    assert trace.corrupted == (4, 5) and trace.labels[4:6] == (" Ada", " Alder")
    assert trace.metrics == METRICS
    assert "the token ' Corum', against ' Brock'. prob: 1 in the clean" in trace.summary()
    assert len(repr(trace)) < 200 and "\n" not in repr(trace)
    assert "z, 4 layers x 7 positions x 4 heads, prob" in repr(trace.grids["z"])


def test_without_a_foil_it_is_what_the_corrupted_run_says(toy: HookedTransformer):
    found = patch_prompts(toy, CLEAN, OTHERS[0], answer="Corum", patches=SINGLE[:1])
    assert found.foil == " Brock"  # where Inés Ironwood was born


def test_tokens_that_answer_and_foil_share_are_given(toy: HookedTransformer):
    found = patch_prompts(toy, CLEAN, OTHERS[0], answer="Corum baker", foil="Corum harp")
    assert (found.given, found.answer, found.foil) == (" Corum", " baker", " harp")
    assert found.labels[-1] == " Corum"
    given, answer, foil = (token(toy, word) for word in (" Corum", " baker", " harp"))
    clean, other = (rows(toy, [text], [given]) for text in (CLEAN, OTHERS[0]))
    slow = twins.sweep(toy, clean, other, SINGLE[0], AnswerMetric(answer, foil))
    torch.testing.assert_close(found.grids["resid_post"].restored, slow, atol=5e-5, rtol=0)


def test_positions_are_those_of_the_whole_grid(toy: HookedTransformer, trace: PromptTrace):
    some = patch_prompts(toy, CLEAN, OTHERS[0], "Corum", "Brock", positions=[-1, 4])
    for name, grid in some.grids.items():
        assert grid.positions == (6, 4)
        whole = trace.grids[name].restored[:, :, [6, 4]]
        torch.testing.assert_close(grid.restored, whole, atol=1e-5, rtol=0)


def test_records_come_back_as_they_were(toy: HookedTransformer, trace: PromptTrace):
    own = patch_prompts(toy, CLEAN, OTHERS, metric=entropy)
    for one in (trace, own):
        again = PromptTrace.from_record(one.to_record(), one.tensors())
        assert replace(again, grids={}) == replace(one, grids={})
        assert again.metrics == one.metrics
        assert all(
            torch.equal(again.grids[name].restored, grid.restored)
            for name, grid in one.grids.items()
        )


def test_rows_and_the_strongest_cells_are_the_grids(trace: PromptTrace):
    frame = pandas.DataFrame(trace.rows())
    n_cells = sum(grid.restored[0].numel() for grid in trace.grids.values())
    assert len(frame) == n_cells * len(METRICS)
    effect = trace.grids["z"].indirect_effect("logprob")
    largest = trace.strongest(1, "logprob")[-1]
    place = largest["layer"], largest["position"], largest["head"]
    assert abs(effect[place]) == effect.abs().max() > 1
    same = frame[
        (frame.site == "z") & (frame.metric == "logprob") & (frame.layer == place[0])
        & (frame.position == place[1]) & (frame["head"] == place[2])
    ]  # fmt: skip
    assert same.effect.tolist() == [float(effect[place])]
    table = trace.top(2)
    assert table.columns == ("site", "layer", "position", "token", "head", "effect")
    assert len(table.rows) == 2 * len(trace.grids)
    assert table.note.startswith(f"{CLEAN!r}, corrupted: ") and "Scored: the token" in table.note
    assert trace.table() == trace.top(5) and "<table>" in trace._repr_html_()


def test_one_site_is_patched_in_one_line(toy: HookedTransformer, trace: PromptTrace):
    found = patch(toy, CLEAN, OTHERS[0], site="z", answer="Corum", foil="Brock")
    assert list(found.grids) == ["z"]
    assert torch.equal(found.grids["z"].restored, trace.grids["z"].restored)
    assert found.top(3).rows == trace.top(3).rows[-3:]
    drawn = np.asarray(found.plot().axes[0].collections[0].get_array())
    assert np.abs(drawn).max() == pytest.approx(float(found.strongest(1)[0]["effect"]))
    assert len(found.to_pandas()) == found.grids["z"].restored.numel()
    with pytest.raises(InputError, match="site 'q': must be one of resid_post"):
        patch(toy, CLEAN, OTHERS[0], site="q", answer="Corum")
    with pytest.raises(InputError, match="site 'mlp_out' was not traced: use one of z"):
        found.plot("mlp_out")


def refused(name: str, wanted: str, **told: object) -> object:
    return pytest.param(told, wanted, id=name)


@pytest.mark.parametrize(
    ("told", "wanted"),
    [
        refused("nothing scored", "an answer or a metric of your own is needed, got neither"),
        refused("both", "needed, got both", answer="Corum", metric=entropy),
        refused("foil alone", "a metric of your own has no foil", foil="Corum", metric=entropy),
        refused("same", "no token distinguishes them", answer="Corum", foil="Corum"),
        refused("begins", "no token distinguishes them", answer="Corum", foil="Corum baker"),
        refused("begun", "no token distinguishes them", answer="Corum baker", foil="Corum"),
        refused("position", "position 7: the prompt has positions", answer="Corum", positions=[7]),
        refused("patches", "patches: at least one", answer="Corum", patches=()),
        refused("empty", "got an empty one", corrupted=" ", answer="Corum"),
        refused("same text", "has the same tokens", corrupted=f"{CLEAN} ", answer="x"),
        refused("no tensor", "'own metric' gives list", metric=lambda logits: logits.tolist()),
        refused("a mean", r"'own metric' gives \(\) of", metric=lambda logits: logits.mean()),
        refused("NaN", "gives NaN or infinity", metric=lambda logits: logits[:, 0] * torch.nan),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused(
    toy: HookedTransformer, told: dict[str, object], wanted: str
):
    with pytest.raises(InputError, match=wanted):
        patch_prompts(toy, CLEAN, **{"corrupted": OTHERS[0], **told})  # pyright: ignore


def test_a_metric_of_ones_own_has_a_name_of_its_own():
    with pytest.raises(InputError, match="cannot be called 'prob'"):
        OwnMetric("prob", entropy)


def test_unequal_lengths_are_told_token_by_token(toy: HookedTransformer):
    with pytest.raises(InputError) as raised:
        patch_prompts(toy, CLEAN, "The birthplace of Ada Maple Alder is", answer="Corum")
    assert "the clean text has 7 tokens, the corrupted text 8" in str(raised.value)
    assert "has nothing (0) where the corrupted text has ' Maple' (1)" in str(raised.value)
    assert str(raised.value).endswith(
        "corrupted: '<bos>' 'The' ' birthplace' ' of' ' Ada' ' Maple' ' Alder' ' is'"
    )


METRIC_FILE = """
def margin(logits):
    top = logits.topk(2).values
    return top[:, 0] - top[:, 1]
"""


@pytest.mark.slow
def test_the_command_patches_its_example_and_goes_on_where_it_stood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    config = command.Config(model="toy", sites=["z"], out=str(tmp_path / "run"))
    folder = command.run(config)
    assert "Scored: the token ' Corum', against ' Brock'" in capsys.readouterr().out
    names = {path.name for path in folder.iterdir()}
    assert names >= {CONFIG, "table.csv", "table.md", "heads.png", "map-z.png"}
    monkeypatch.setattr("probes.prompts.patch_prompts", None)  # nothing is measured again
    command.run(replace(config, metric="logprob", strongest=1))
    assert "logprob: " in (folder / "table.md").read_text(encoding="utf-8")


def test_the_command_takes_a_metric_of_ones_own(tmp_path: Path):
    file = tmp_path / "mine.py"
    file.write_text(METRIC_FILE, encoding="utf-8")
    config = command.Config(
        model="toy", own_metric=f"{file}:margin", sites=["z"], out=str(tmp_path / "run")
    )
    table = pandas.read_csv(command.run(config) / "table.csv")
    assert set(table.metric) == {"margin"} and table.effect.abs().max() > 0
    with pytest.raises(InputError, match="has no function 'other'"):
        command.run(replace(config, own_metric=f"{file}:other"))
    with pytest.raises(InputError, match="there is no file 'none.py'"):
        command.run(replace(config, own_metric="none.py:margin"))
    with pytest.raises(InputError, match="--corrupted: a text is needed, because --clean is given"):
        command.run(replace(config, clean=CLEAN))


def test_heads_are_drawn_where_they_have_effects(trace: PromptTrace, toy: HookedTransformer):
    figure = head_maps(trace, "logprob", "toy")
    effect = trace.grids["z"].indirect_effect("logprob")
    maps = [ax for ax in figure.axes if ax.get_xlabel() == "layer"]
    assert [ax.get_title(loc="left").splitlines()[0] for ax in maps] == ["Ada (4)", "is (6)"]
    drawn = np.asarray(maps[1].collections[0].get_array())
    np.testing.assert_allclose(drawn, effect[:, 6].T.numpy())
    assert drawn.shape == (toy.cfg.n_heads, toy.cfg.n_layers)


def test_figures_name_a_metric_of_ones_own(toy: HookedTransformer):
    found = patch_prompts(toy, CLEAN, OTHERS, metric=entropy)
    for figure in (heatmap(found, "z", "entropy"), head_maps(found)):
        told = [text.get_text() for text in figure.findobj(Text)]
        assert any("on entropy" in text for text in told)
        assert any("corrupted" in text and "2 other texts" in text for text in told)
        assert any("(entropy)" in text for text in told)  # the colour bar's unit
    with pytest.raises(InputError, match="metric 'prob' was not measured: use entropy"):
        heatmap(found, "z", "prob")
    with pytest.raises(InputError, match="no heads were restored"):
        head_maps(replace(found, grids={"mlp_out": found.grids["mlp_out"]}))
