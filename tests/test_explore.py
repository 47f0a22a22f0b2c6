"""The page of `explore`: its buttons, what they compute, and the page in a browser."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer

import kedit
from experiments import _explore
from kedit.editing.provenance import fingerprint
from kedit.errors import InputError
from probes.studies.tracing import trace_fact
from tests.browser import headless

pytest.importorskip("panel")

from experiments._edit_example import example_of
from experiments._explorer import Explorer

HOSTILE = "<img src=x onerror=\"document.title='changed'\">"


@pytest.fixture
def explorer(toy: HookedTransformer) -> Explorer:
    return Explorer(toy, example_of("toy"))


def press(button: Any) -> None:
    button.clicks += 1


def same_scores(one: Any, other: Any) -> bool:
    return all(
        torch.equal(one.grids[name].restored, other.grids[name].restored) for name in one.grids
    )


def test_trace_shows_the_trace_of_the_form_and_clicking_a_head_its_attention(
    toy: HookedTransformer, explorer: Explorer
) -> None:
    press(explorer.form.trace)
    fact = explorer.form.fact(toy)
    expected = trace_fact(
        toy, fact, "relation", samples=1, sites=("resid_post", "mlp_out", "attn_out", "z")
    )
    assert explorer.trace is not None and same_scores(explorer.trace, expected)
    assert "Traced in the unedited model" in explorer.form.message.object
    drawn = explorer.form.effects.object
    effects = expected.grids["resid_post"].indirect_effect("prob")
    assert list(drawn.renderers[0].data_source.data["effect"]) == effects.flatten().tolist()
    explorer.form.site.value = "mlp_out"  # drawn again, without another trace
    assert "MLP" in explorer.form.effects.object.title.text

    cells = explorer.form.heads.object.renderers[0].data_source
    n_heads = toy.cfg.n_heads
    cells.selected.indices = [n_heads + 2]
    shown = explorer.form.attention.object
    assert "L1H2" in shown.title.text
    _, cache = toy.run_with_cache(fact.prompt)
    pattern = cache["pattern", 1][0, 2, -1]
    weights = torch.tensor(shown.renderers[0].data_source.data["weight"])
    torch.testing.assert_close(weights[-len(pattern) :], pattern, atol=1e-5, rtol=1e-4)


def test_an_edit_is_shown_traced_saved_and_undone(
    toy: HookedTransformer, explorer: Explorer, tmp_path: Path
) -> None:
    before = fingerprint(toy)
    form = explorer.form
    form.editor.value = "rome:where=last"
    assert form.undo.disabled and form.save.disabled
    press(form.edit)
    assert explorer.edit is not None and fingerprint(toy) == before
    assert not form.undo.disabled and not form.save.disabled
    assert "Should change" in form.result.object and "Should stay" in form.result.object
    assert form.target.value in form.result.object and "other side" in form.result.object

    press(form.trace)  # in the edited model, whose answer is the new one
    assert explorer.trace is not None
    assert explorer.trace.object.startswith(form.target.value)
    with explorer.edit.applied(toy):
        expected = trace_fact(
            toy,
            form.fact(toy),
            "relation",
            samples=1,
            sites=("resid_post", "mlp_out", "attn_out", "z"),
        )
    assert same_scores(explorer.trace, expected) and fingerprint(toy) == before

    assert form.save.callback is not None
    (tmp_path / "edit.safetensors").write_bytes(form.save.callback().read())
    loaded = kedit.Edit.load(tmp_path / "edit.safetensors")
    assert loaded.deltas.keys() == explorer.edit.deltas.keys()
    assert loaded.made.fingerprint == explorer.edit.made.fingerprint
    press(form.undo)
    assert explorer.edit is None and form.result.object == "" and form.undo.disabled
    press(form.trace)
    assert explorer.trace.object == form.fact(toy).object and fingerprint(toy) == before


@pytest.mark.parametrize(
    ("field", "value", "button", "message"),
    [
        ("target", " ", "edit", "New answer: name what"),
        ("prompt", "no subject here", "trace", "Prompt: "),
        ("editor", "rme", "edit", "rme"),
        ("subject", "", "trace", "subject"),
    ],
)
def test_what_is_wrong_with_the_form_is_said(
    explorer: Explorer, field: str, value: str, button: str, message: str
) -> None:
    getattr(explorer.form, field).value = value
    press(getattr(explorer.form, button))
    assert explorer.form.message.alert_type == "danger"
    assert message in explorer.form.message.object
    assert not explorer.form.trace.disabled and not explorer.form.edit.loading


def test_texts_of_the_user_are_escaped(explorer: Explorer) -> None:
    explorer.form.editor.value = HOSTILE
    press(explorer.form.edit)
    assert "&lt;img" in explorer.form.message.object and "<img" not in explorer.form.message.object


def test_a_notebook_gets_the_page_and_without_panel_a_clear_error(
    toy: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import panel

    assert isinstance(kedit.explore(toy), panel.viewable.Viewable)
    monkeypatch.setattr(_explore.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'kedit\[explore\]'"):
        kedit.explore(toy)


ALL_TEXT = """
const all = node => [...node.childNodes].map(child =>
  child.nodeType == 3 ? child.textContent
  : child.nodeType == 1 && !['STYLE', 'SCRIPT'].includes(child.tagName)
  ? all(child) + ' ' + (child.shadowRoot ? all(child.shadowRoot) : '') : '').join('');
return all(document.body);"""
FIND = """
const find = (root, selector) => {
  const found = root.querySelector(selector);
  if (found) return found;
  for (const node of root.querySelectorAll('*'))
    if (node.shadowRoot) {
      const inside = find(node.shadowRoot, selector);
      if (inside) return inside;
    }
  return null;
};
const host = find(document, arguments[0]);
return host && find(host.shadowRoot, arguments[1]);"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The command, serving the toy's page."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-m", "experiments", "explore", "--model", "toy", "--no-browser"]
    with subprocess.Popen(
        [*command, "--port", str(port)], env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    ) as served:  # fmt: skip
        assert served.stdout is not None
        for line in served.stdout:
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                yield found[0]
                break
        served.terminate()


@pytest.fixture
def browser(address: str) -> Iterator[Any]:
    with headless(1400, 1400) as chrome:
        chrome.get(address)
        yield chrome


def until(browser: Any, done: Any) -> Any:
    """What `done` gives as soon as it is true; it may take a busy machine a while."""
    for _ in range(600):
        if found := done():
            return found
        time.sleep(0.1)
    raise AssertionError(browser.execute_script(ALL_TEXT))


@pytest.mark.slow
def test_the_page_traces_edits_and_undoes_in_a_browser(browser: Any) -> None:
    def click(name: str) -> None:
        until(browser, lambda: browser.execute_script(FIND, name, "button:not([disabled])")).click()

    def says(words: str) -> None:
        until(browser, lambda: words in browser.execute_script(ALL_TEXT))

    click(".trace")
    says("Traced in the unedited model")
    until(browser, lambda: browser.execute_script(FIND, ".effects", "canvas"))
    click(".edit")
    says("Trace shows the edited model now")
    says("Should stay")
    click(".undo")
    says("The edit is taken back")
    # a text with a script in it is shown, and does not run
    target = browser.execute_script(FIND, ".target", "input")
    target.clear()
    target.send_keys(HOSTILE, "\n")
    click(".edit")
    says("onerror")
    assert browser.title != "changed"
    severe = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert not severe
