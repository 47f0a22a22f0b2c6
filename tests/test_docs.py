"""The README and the pages of docs/ are true: their links, their options and their Python."""

import importlib
import re
from pathlib import Path

import pytest

import kedit
from experiments._parsing import options_of

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
COMMANDS = [
    path.stem
    for path in sorted((ROOT / "experiments").glob("[a-z]*.py"))
    if "command(" in path.read_text(encoding="utf-8")
]
EVERYWHERE = {"help", "quiet", "verbose", "log", "batch-tokens"}
# on the toy in place of Gemma, and with less work
ON_THE_TOY = {
    '["gemma-3-270m", "smollm2-135m-instruct"]': '["toy"]',
    '"gemma-3-270m"': '"toy"',
    '"builtin"': '"toy"',
    'kedit.export(edit, "edited")': "",  # the toy has no Hugging Face form
    'kedit.export_adapter(edit, "adapter")': "",
    "layers=[11]": "layers=[2]",
    "[:20]": "[:2]",
    "[:5]": "[:2]",
    "[:3]": "[:1]",
    "[:8]": "[:2]",
    "[:16]": "[:3]",
    "layers=[1, 2]": "layers=[1]",
    "layers=[9, 11]": "layers=[1]",
    '(5, "mlp"': '(1, "mlp"',
    '(13, "attn"': '(2, "attn"',
    "layer=5": "layer=2",
    "limit=48": "choose=6, n_heads=2, decoded=0, limit=4",
    '"12"': '"3"',
    "limit=60": "limit=9",
    "limit=32": "limit=4",
    "facts_per_relation=6": "n_relations=2, facts_per_relation=4, gradient_steps=3",
    "find_neurons(model, facts)": (
        "find_neurons(model, facts, n_relations=2, facts_per_relation=4, gradient_steps=3)"
    ),
    "steps=100": "steps=2",
    "steps=20": "steps=2",
    # the toy knows people and not towns
    "The capital of {} is called": "The birthplace of {} is",
    '"Japan", "Tokyo", relation="capital"': '"Ada Alder", "Corum", relation="birthplace"',
    "{} is located in the city of": "The birthplace of {} is",
    '"The Eiffel Tower", "Paris", relation="location"': (
        '"Ada Alder", "Corum", relation="birthplace"'
    ),
    '"Rome"': '"Delft"',
    "When John and Mary went to the store, John gave a drink to": "The birthplace of Ada Alder is",
    "When John and Mary went to the store, Mary gave a drink to": (
        "The birthplace of Bruno Birch is"
    ),
    'answer="Mary", foil="John"': 'answer="Corum", foil="Brock"',
}


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in a language ("" for plain ones)."""
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", head.lower()) for head in heads)
    return {head.replace(" ", "-") for head in plain}


def test_the_readme_has_at_most_150_lines() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    for link in (link for link in links if "://" not in link):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages == {name for name in pages if f"({name})" in index} != set()


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_command_has_the_options_that_a_page_gives_it(page: Path) -> None:
    lines = "\n".join(blocks(page, "")).replace("\\\n", " ").splitlines()
    for line in lines:
        given = re.search(r"python -m experiments\.(\w+)([^#]*)", line)
        if given is None:
            continue
        config = importlib.import_module(f"experiments.{given[1]}").Config
        known = {option.removeprefix("--") for option in options_of(config)}
        assert set(re.findall(r"--([\w-]+)", given[2])) <= known | EVERYWHERE, line


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_option_that_a_page_names_is_some_commands(page: Path) -> None:
    configs = [
        importlib.import_module(f"experiments.{name}").Config
        for name in (*COMMANDS, "_explore", "_merge")
    ]
    known = {option.removeprefix("--") for one in configs for option in options_of(one)}
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    found = set(re.findall(r"`--([a-z][\w-]*)", text))
    others = {"quick", "threads"}  # of the benchmarks
    others |= {"dist", "jaxtyping-packages", "constraint"}  # of pytest and pip
    assert found <= known | EVERYWHERE | others


def test_the_commands_of_the_readme_are_all_commands() -> None:
    table = re.findall(r"`experiments\.(\w+)`", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert sorted(table) == COMMANDS


def test_the_site_has_every_page() -> None:
    listed = re.findall(r"docs/([\w-]+\.md)", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(listed) == sorted(page.name for page in (ROOT / "docs").glob("*.md"))


def test_the_reference_has_every_public_name() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"::: kedit\.(\w+)", page)) == sorted({*kedit.PUBLIC} - {"editors"})


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.parent.name == "docs" and blocks(page, "python")],
    ids=named,
)
def test_the_python_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the toy, and with less work than the page asks for."""
    if page.stem == "run-folders":
        pytest.skip("it reads a run that the page's reader has made")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT)  # a page uses the slow twins of tests/
    Path("facts.jsonl").write_text(
        '{"subject": "Ada Alder", "relation": "birthplace", "object": "Corum", "target": "Delft",'
        ' "template": "The birthplace of {} is"}\n'
    )
    names: dict = {}
    for block in blocks(page, "python"):
        for given, small in ON_THE_TOY.items():
            block = block.replace(given, small)
        exec(compile(block, f"{page.name}", "exec"), names)
