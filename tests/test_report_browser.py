"""The page of a run in a browser: what it shows where one points, chooses, types."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.colors import CenteredNorm

from figures import report
from figures.style import METRIC_NAMES, SIGNED
from kedit.results.traces import FactTrace
from tests.browser import headless
from tests.made_up_run import HOSTILE, N_HEADS, PARTS, PROMPTS, estimated, four, trace, traced

pytestmark = pytest.mark.slow  # as slow as a browser


@pytest.fixture(scope="module")
def traces() -> list[dict[str, FactTrace]]:
    return [{part: trace(i, part) for part in PARTS} for i in range(len(PROMPTS))]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, traces: list) -> Path:
    folder = traced(tmp_path_factory.mktemp("traced"), traces)
    return report.run(report.Config(runs=[str(folder)]))


@pytest.fixture(scope="module")
def averages(page: Path) -> list[dict[str, Any]]:
    return json.loads(page.with_name("averages.json").read_text())["averages"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with headless(1300, 1400, loggingPrefs={"browser": "ALL", "performance": "ALL"}) as chrome:
        yield chrome


class Shown:
    """The page in a browser."""

    def __init__(self, browser: Any, page: Path) -> None:
        self.browser = browser
        browser.get(page.as_uri())

    def all(self, selector: str, within: Any = None) -> list[Any]:
        return (within or self.browser).find_elements("css selector", selector)

    def card(self, part: int, grid: int) -> Any:
        return self.all(".card", self.all(".cards")[part])[grid]

    def choose(self, name: str, within: Any = None) -> None:
        """Presses the button that says `name`."""
        label = next(one for one in self.all(".choice label", within) if one.text == name)
        self.all("input", label)[0].click()

    def opened_fact(self, index: int) -> Any:
        """The fact's section, once it is drawn: its opening is an event of its own."""
        from selenium.webdriver.support.wait import WebDriverWait

        details = self.all("details.fact")[index]
        self.all("summary", details)[0].click()
        WebDriverWait(self.browser, 30).until(lambda _: self.all(".map", details))
        return details

    def pointed_at(self, cell: Any) -> list[str]:
        """The lines that appear when the pointer is over `cell`."""
        from selenium.webdriver import ActionChains

        ActionChains(self.browser, duration=0).move_to_element(cell).perform()
        return self.tip()

    def tip(self) -> list[str]:
        return self.all("#tip")[0].text.splitlines()


@pytest.fixture
def shown(browser: Any, page: Path) -> Shown:
    return Shown(browser, page)


def numbers(line: str) -> list[float]:
    """Those of "layer 3" or "0.01 [−0.5, 1e−4] nats"."""
    found = re.findall(r"-?\d+\.?\d*(?:e[-+]\d+)?", line.replace("−", "-"))
    return [float(number) for number in found]


def stored(effect: dict[str, Any], metric: int, *at: int) -> list[float]:
    """Mean and bounds as the page rounds them."""
    return [four(float(np.array(effect[n], float)[(metric, *at)])) for n in ("mean", "low", "high")]


def test_it_opens_without_a_complaint_and_without_a_request(browser: Any, page: Path) -> None:
    for kind in ("browser", "performance"):
        browser.get_log(kind)  # what came before
    Shown(browser, page)
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert urls[0] == page.as_uri()
    assert all(url.startswith("data:") for url in urls[1:])


def test_pointing_at_a_cell_shows_its_mean_and_interval(shown: Shown, averages: list) -> None:
    effect = averages[2]  # the subject's residuals
    rows = [i for i, n in enumerate(effect["n_tokens"]) if n]
    assert len(rows) < len(effect["buckets"])  # the empty ones have no row
    for line, bucket in zip(shown.all(".map tbody tr", shown.card(1, 0)), rows, strict=True):
        for layer, cell in enumerate(shown.all("td", line)):
            place, estimate, chance, counts = shown.pointed_at(cell)
            assert place == f"layer {layer}, {effect['buckets'][bucket]}"
            assert numbers(estimate) == stored(effect, 0, bucket, layer)
            assert estimate.endswith("] probability")
            assert numbers(chance) == [four(effect["p"][0][bucket][layer])]
            assert chance.endswith(", corrected for all cells")
            assert numbers(counts) == [effect["n_facts"][bucket], effect["n_tokens"][bucket]]


def test_another_metric_shows_that_metrics_numbers(shown: Shown, averages: list) -> None:
    bucket = len(averages[0]["buckets"]) - 1
    seen = []
    for metric, name in enumerate(METRIC_NAMES.values()):
        shown.choose(name)
        cell = shown.all(".map tbody tr:last-child td", shown.card(0, 0))[3]
        seen.append(numbers(shown.pointed_at(cell)[1]))
        assert seen[-1] == stored(averages[0], metric, bucket, 3)
    assert seen[0] != seen[1] != seen[2]


def test_heads_are_shown_for_the_token_that_is_chosen(shown: Shown, averages: list) -> None:
    effect, card = averages[1], shown.card(0, 1)
    for name in ("last corrupted", "further"):
        bucket = effect["buckets"].index(name)
        shown.choose(f"{name} (n = {effect['n_tokens'][bucket]})", card)
        lines = shown.all(".map tbody tr", card)
        assert len(lines) == N_HEADS
        place, estimate, *_ = shown.pointed_at(shown.all("td", lines[2])[4])
        assert place == f"L4H2, {name}"
        assert numbers(estimate) == stored(effect, 0, bucket, 4, 2)


def test_cells_have_the_figures_colours_on_one_scale(shown: Shown, averages: list) -> None:
    means = [np.array(averages[i]["mean"], float)[1] for i in (0, 2)]
    largest = max(float(np.nanmax(np.abs(mean))) for mean in means)
    scale, bucket = CenteredNorm(0.0, halfrange=largest), len(averages[0]["buckets"]) - 1
    shown.choose(METRIC_NAMES["logprob"])
    for part in (0, 1):
        cells = shown.all(".map tbody tr:last-child td", shown.card(part, 0))
        for layer, cell in enumerate(cells):
            found = _colour(cell.value_of_css_property("background-color"))
            wanted = colormaps[SIGNED](scale(means[part][bucket, layer]))
            assert np.abs(found - wanted).max() < 4 / 255  # a step of the scale: it was rounded
    ends = shown.all(".legend div", shown.card(0, 0))[0].text
    assert numbers(ends) == [-float(f"{largest:.2g}"), 0, float(f"{largest:.2g}")]


def test_heads_have_a_scale_for_each_part(shown: Shown, averages: list) -> None:
    shown.choose(METRIC_NAMES["prob"])
    largest = [float(np.nanmax(np.abs(np.array(averages[i]["mean"][0], float)))) for i in (1, 3)]
    assert f"{largest[0]:.2g}" != f"{largest[1]:.2g}"
    for part, size in enumerate(largest):
        ends = shown.all(".legend div", shown.card(part, 1))[0].text
        assert numbers(ends) == [-float(f"{size:.2g}"), 0, float(f"{size:.2g}")]


def test_the_arrow_keys_step_through_a_map(shown: Shown, averages: list) -> None:
    from selenium.webdriver import Keys

    card = shown.card(0, 0)
    assert len(shown.all(".map td[tabindex='0']", card)) == 1
    cells = [shown.all("td", line) for line in shown.all(".map tbody tr", card)]
    shown.browser.execute_script("arguments[0].focus()", cells[0][0])
    keys = (Keys.ARROW_UP, Keys.ARROW_LEFT, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    for key in keys:  # the first two meet the edge
        shown.browser.switch_to.active_element.send_keys(key)
    assert shown.browser.switch_to.active_element == cells[1][2]
    bucket = [i for i, n in enumerate(averages[0]["n_tokens"]) if n][1]
    assert numbers(shown.tip()[1]) == stored(averages[0], 0, bucket, 2)
    assert shown.browser.switch_to.active_element.accessible_name == "; ".join(shown.tip())
    shown.browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert shown.tip() == []


def test_a_fact_opens_to_its_tokens_and_its_map(shown: Shown, traces: list) -> None:
    details = shown.opened_fact(1)
    shown.choose("subject", details)
    trace = traces[1]["subject"]
    tokens = [one for one in shown.all(".tokens > *", details) if one.is_displayed()]
    texts = [one.get_property("textContent") for one in tokens]
    assert texts == list(trace.labels)
    assert texts[0] == "<bos>"
    assert texts[6] == HOSTILE
    marked = [pos for pos, one in enumerate(tokens) if one.tag_name == "mark"]
    assert tuple(marked) == trace.corrupted
    resid, z = trace.grids["resid_post"], trace.grids["z"]
    low, clean = float(z.corrupted[0]), float(z.clean[0])
    head = int((z.restored[0, 2, 4] - low).abs().argmax())
    sites = [one for one in shown.all(".choice", details) if one.is_displayed()][-1]
    for title, wanted, where in (
        ("heads", float(z.restored[0, 2, 4, head]), f"L2H{head}"),
        ("single residual", float(resid.restored[0, 2, 4]), "layer 2"),
    ):
        shown.choose(title, sites)
        table = next(one for one in shown.all(".map", details) if one.is_displayed())
        cell = shown.all("td", shown.all("tbody tr", table)[4])[2]
        place, *told = shown.pointed_at(cell)
        assert place == f"{where}, “ Bo” (corrupted)"
        guessed = title == "heads" and estimated(trace, "z", 2, 4, head)
        assert ("estimate" in told[0]) == ("estimated" in cell.get_attribute("class")) == guessed
        for line, name, score in zip(
            told,
            ("restored", "corrupted", "clean", "indirect effect"),
            (wanted, low, clean, wanted - low),
            strict=True,
        ):
            assert line.startswith(f"{name} ")
            assert numbers(line) == [pytest.approx(score, rel=5.001e-4)]


def test_searching_narrows_the_facts(shown: Shown) -> None:
    def listed() -> list[str]:
        return [one.text.split(" →")[0] for one in shown.all("details.fact") if one.is_displayed()]

    search = shown.all("input[type=search]")[0]
    assert len(listed()) == 3
    search.send_keys("LANGUAGE")
    assert listed() == [f"The language of Bo Birch{HOSTILE}"]
    search.send_keys(" nobody speaks")
    assert listed() == []
    assert shown.all("#facts [role=status]")[0].text == "0 shown"
    search.clear()
    search.send_keys("painter")
    assert len(listed()) == 1


def test_a_figure_is_enlarged_and_put_back(shown: Shown) -> None:
    button, dialog = shown.all(".enlarge")[0], shown.all("#large")[0]
    assert not dialog.is_displayed()
    button.click()
    assert dialog.is_displayed()
    assert shown.all("img", dialog)[0].get_property("naturalWidth") > 100
    dialog.click()
    assert not dialog.is_displayed()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(shown: Shown, scheme: str) -> None:
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    shown.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    shown.opened_fact(0)
    grounds, chosen = {}, ".choice input:checked + span"
    for selector in ("body", "a", ".note", chosen, ".tokens > mark", "#tip"):
        one, ground = shown.all(selector)[0], None
        text = one.value_of_css_property("color")
        while ground is None or ground[3] == 0:  # transparent: what lies below shows
            ground = _colour(one.value_of_css_property("background-color"))
            one = shown.browser.execute_script("return arguments[0].parentElement", one)
        grounds[selector] = _luminance(ground)
        light, dark = sorted((_luminance(_colour(text)), grounds[selector]), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, selector  # as WCAG 2 wants it
    assert (grounds["body"] > 0.5) == (scheme == "light")


def _colour(css: str) -> np.ndarray:
    values = [float(value) for value in re.findall(r"[\d.]+", css)]
    return np.array([*np.array(values[:3]) / 255, values[3] if len(values) > 3 else 1.0])


def _luminance(colour: np.ndarray) -> float:
    """Relative, as WCAG 2 defines it for sRGB."""
    dark, rgb = colour[:3] <= 0.04045, colour[:3]
    linear = np.where(dark, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))
