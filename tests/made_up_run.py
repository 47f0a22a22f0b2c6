"""A traced run of made-up facts, written by its experiment's own code, for tests of its page."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from experiments._command import open_run
from experiments._trace import Config
from figures.style import new_figure
from figures.style import save as save_figure
from kedit.results.grids import EffectGrid, Screen
from kedit.results.traced import Traces
from kedit.results.traces import FactTrace
from kedit.results.tracing import Tracing
from kedit.run_folder import RunFolder

PARTS = ("relation", "subject")
HOSTILE = "</script><img src=x>"
PROMPTS = (
    ("Ada Alder", "harp", ("<bos>", "The", " instrument", " of", " Ada", " Alder", " is")),
    ("Bo Birch", "Greek", ("<bos>", "The", " language", " of", " Bo", " Birch", HOSTILE)),
    ("Cy Cedar", "painter", ("<bos>", "\n", " profession", " of", " Cy", " &amp;", " is")),
)
N_LAYERS, N_HEADS = 5, 3


def trace(index: int, part: str) -> FactTrace:
    """One of PROMPTS, every number of it another; its heads are screened."""
    subject, answer, labels = PROMPTS[index]
    draw = torch.Generator().manual_seed(index + 10 * (part == "subject"))

    def grid(site: str, *heads: int) -> EffectGrid:
        shape = (N_LAYERS, len(labels), *heads)
        restored = torch.randn(3, *shape, generator=draw)
        clean, low = torch.tensor([[0.9, -0.1, 5.0], [0.1, -2.3, 1.0]]) + index / 100
        kept, sampled = (torch.rand(shape, generator=draw) < share for share in (0.3, 0.2))
        screen = Screen(torch.zeros(3, *shape), kept, sampled) if heads else None
        return EffectGrid(site, 1, "", tuple(range(len(labels))), restored, clean, low, screen)

    return FactTrace(
        subject=subject,
        relation=f"P{index}",
        object=answer,
        prompt="".join(labels[1:]),
        labels=labels,
        part=part,
        corrupted=(2,) if part == "relation" else (4, 5),
        corruption=f"noise for {part}",
        answer=f" {answer}",
        foil=" foil",
        grids={"resid_post": grid("resid_post"), "z": grid("z", N_HEADS)},
    )


def save(folder: RunFolder, by_part: Mapping[str, FactTrace], key: str) -> None:
    """As the study keeps a finished fact."""
    tensors = {f"{part}:{n}": t for part, one in by_part.items() for n, t in one.tensors().items()}
    folder.add(key, {"traces": [one.to_record() for one in by_part.values()]}, tensors)


def traced(path: Path, traces: Sequence[Mapping[str, FactTrace]]) -> Path:
    """The folder of a run that traced these; its figure is an empty one."""
    config = Config(model="toy", out=str(path / "run"), screen=0.3)
    with open_run("trace_relation", config) as folder:
        save_figure(new_figure(2, 1, "Made up", ""), folder.path, "maps")
        for i, by_part in enumerate(traces):
            save(folder, by_part, f"key{i}")
        by_part = {part: tuple(one[part] for one in traces) for part in PARTS}
        Traces("toy", Tracing(screen=0.3), by_part, (), {}).averages().save(folder)
    return folder.path


def four(value: float) -> float:
    """As the page rounds."""
    return float(f"{value:.4g}")


def estimated(one: FactTrace, name: str, *cell: int) -> bool:
    """Was the cell (layer, position, head) not restored, and is not before the corrupted words?"""
    screen = one.grids[name].screen
    assert screen is not None
    return cell[1] >= one.corrupted[0] and not bool(screen.kept[cell] | screen.sampled[cell])
