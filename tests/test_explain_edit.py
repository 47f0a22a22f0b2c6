"""The study of edits' anatomy: averages of single traces, its table, figure and command."""

from pathlib import Path

import pytest
import torch
from transformer_lens import HookedTransformer

from experiments.explain_edit import Config, run
from figures.anatomy import carried
from kedit.errors import InputError
from kedit.journal import Journal
from kedit.models import toy as toy_module
from kedit.results.anatomy import SITES, TOKENS, Anatomy
from kedit.results.outcomes import Outcome
from kedit.studies.prepare import prepare
from probes.anatomy import explain_edit
from probes.studies import anatomy as study
from probes.studies.anatomy import explain_edits
from tests.figure_checks import assert_fits, caption_of

CASES = toy_module.cases()[:3]
EDITORS = ["rome:where=subject_last", "joint"]


@pytest.fixture(scope="module")
def journal() -> Journal:
    return Journal()


@pytest.fixture(scope="module")
def found(toy: HookedTransformer, journal: Journal) -> Anatomy:
    return explain_edits(toy, CASES, EDITORS, journal=journal)


def test_shares_are_ratios_of_the_sums_of_single_traces(
    toy: HookedTransformer, found: Anatomy
) -> None:
    rome, _ = prepare(toy, EDITORS, ["entity"])
    traced = [explain_edit(toy, rome.edit(case), case.entity) for case in CASES]
    totals = [one.grids["mlp_out"].total_effect("logit_diff") for one in traced]
    assert min(totals) > 0
    editor = found.editors[0]
    assert (editor.editor, editor.n, editor.n_failed) == (EDITORS[0], 3, 0)
    places = [(one.corrupted[-1], len(one.labels) - 1) for one in traced]
    for column, token in enumerate(TOKENS):
        for site in SITES:
            effects = [
                one.grids[site].indirect_effect("logit_diff")[:, place[column]]
                for one, place in zip(traced, places, strict=True)
            ]
            expected = torch.stack(effects).sum(0) / sum(totals)
            shares = torch.tensor(editor.carried[site][token].mean)
            torch.testing.assert_close(shares.float(), expected, atol=1e-4, rtol=1e-3)
    lost = [-one.undone.indirect_effect("logit_diff").sum(1) for one in traced]
    needed = torch.tensor(editor.needed.mean).float()
    torch.testing.assert_close(needed, torch.stack(lost).sum(0) / sum(totals), atol=1e-4, rtol=1e-3)
    grown = [one.heads.direct_after - one.heads.direct_before for one in traced]
    direct = torch.tensor(editor.direct.mean).float()
    torch.testing.assert_close(
        direct, torch.stack(grown).sum(0) / sum(totals), atol=1e-4, rtol=1e-3
    )


def test_an_edit_at_the_subject_is_carried_by_its_mlp_and_then_by_attention(
    found: Anatomy,
) -> None:
    rome = found.editors[0]
    assert rome.peak("mlp_out", TOKENS[0])[0] == 1  # where it writes
    assert rome.carried["attn_out"][TOKENS[1]].mean.max() > 0.1  # what brings it to the end
    assert rome.most_needed()
    assert abs(rome.carried["resid_post"][TOKENS[1]].mean[-1] - 1) < 1e-3  # there it has arrived


def test_a_second_call_explains_nothing_again(
    toy: HookedTransformer, found: Anatomy, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: object) -> None:
        raise AssertionError("an edit was made again")

    monkeypatch.setattr(study, "edit_of", never)
    again = explain_edits(toy, CASES, EDITORS, journal=journal)
    assert again.to_record() == found.to_record()


def test_an_editor_whose_edits_all_fail_is_named(
    toy: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "edit_of", lambda *args: (None, Outcome("no edit: singular")))
    journal = Journal()
    with pytest.raises(InputError, match="^rome: none of its edits makes the target likelier"):
        explain_edits(toy, CASES[:1], ["rome"], journal=journal)
    (record,) = journal.records.values()
    assert record["skipped"] == "no edit: singular"


def test_the_table_and_the_rows_have_every_number(found: Anatomy, toy: HookedTransformer) -> None:
    text = str(found.table())
    assert all(name in text for name in ("rome", "joint", "attention, last token"))
    n_layers, n_heads = toy.cfg.n_layers, toy.cfg.n_heads
    per_editor = n_layers * (len(SITES) * len(TOKENS) + 4 * n_heads + 1)
    assert len(found.rows()) == len(EDITORS) * per_editor
    assert Anatomy.from_record(found.to_record()).to_record() == found.to_record()


def test_the_figure_fits_its_page(found: Anatomy) -> None:
    figure = carried(found)
    assert_fits(figure)
    assert "rome:where=subject_last: 3 edits" in caption_of(figure)
    assert len(figure.axes) == len(EDITORS) * (len(SITES) + 1)


def test_the_command_draws_and_saves(tmp_path: Path) -> None:
    folder = run(Config(model="toy", editors="rome", limit=2, out=str(tmp_path)))
    loaded = Anatomy.load(folder)
    assert loaded.editors[0].n + loaded.editors[0].n_failed == 2
    assert (folder / "anatomy.png").stat().st_size > 10_000
