"""An editor, a layer, a head, a text: looked at before a model is loaded."""

import re
from pathlib import Path

import pytest

from kedit.data.named import kind_of, require_records, require_text
from kedit.editors.possible import require_editor
from kedit.editors.text_needs import text_needs
from kedit.errors import InputError
from kedit.heads import Head
from kedit.models.inside import require_heads, require_layers
from kedit.models.outline import TOY


def test_what_a_model_does_not_have_is_named_with_what_it_has() -> None:
    require_layers("mine", [0, 3], "toy", TOY)
    require_heads("mine", [Head(3, 3)], "toy", TOY)
    with pytest.raises(InputError, match="^mine: toy has layers 0 to 3$"):
        require_layers("mine", [0, 4], "toy", TOY)
    with pytest.raises(InputError, match="^mine: toy has 4 layers of 4 heads, L0H0 to L3H3$"):
        require_heads("mine", [Head(0, 0), Head(0, 4)], "toy", TOY)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("rome:layer=4", "toy has layers 0 to 3"),
        ("joint:layers=(1,7)", "toy has layers 0 to 3"),
        ("cues:places=((9,'mlp','last'),)", "toy has layers 0 to 3"),
        ("joint:heads=((0,4),)", "toy has 4 layers of 4 heads"),
        ("rome:text=no.txt", "text=no.txt: there is no such file"),
        ("mend:file=tests", "file=tests: it is a folder"),
        ("rome:moments=('no.npz',)", "moments: no.npz"),
    ],
)
def test_an_editor_is_looked_at_with_its_layers_and_files(
    spec: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parent.parent)
    require_editor("rome:layer=3:text=README.md", "toy", "entity", TOY)
    require_editor("rome:layer=4", "toy", "entity", None)  # nothing tells how deep the model is
    with pytest.raises(InputError, match=re.escape(message)):
        require_editor(spec, "toy", "entity", TOY)


def test_names_of_records_and_texts_are_no_files(tmp_path: Path) -> None:
    require_records("--cases toy", "toy")
    require_text("--text hf:NAME", "hf:NAME")
    with pytest.raises(InputError, match="builtin and toy are kedit's own"):
        require_records("--cases x", str(tmp_path / "x"))
    kinds = {name: kind_of(name) for name in ("", "a\0b", "x" * 9999, str(tmp_path), __file__)}
    assert list(kinds.values()) == ["", "", "", "folder", "file"]


def test_what_editors_read_of_a_text_follows_their_keys(tmp_path: Path) -> None:
    file = str(tmp_path / "text.txt")
    Path(file).write_text("Ada")

    def read(spec: str, text: str = file) -> list[int]:
        return [one.n_tokens for one in text_needs([(spec, "relation")], "toy", TOY, text, 4)]

    both = "joint:layers=(1,)"
    assert read("rome") == [4 * TOY.d_mlp] and read("rome:n_tokens=99") == [99]
    assert read(f"{both}:halves=('attn',)") == [4 * TOY.d_model]
    assert read(both) == [4 * (TOY.d_mlp + TOY.d_model)]
    assert read("rome", "self") == [] == read("ft") and read(f"rome:text={file}", "self") == [1024]
