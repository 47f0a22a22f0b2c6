"""Restore every cell between two texts of your own: which layers, tokens and heads matter?

A clean text that the model goes on with an answer, and a corrupted one of as many tokens where it
does not. Without options it patches a worked example.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from experiments._run import RunFolder, command, console, open_run, write_whole
from experiments._tables import plain_table, write_rows
from experiments._trace import patches

if TYPE_CHECKING:
    from kedit.results.prompts import PromptTrace

DRAWING = ("metric", "strongest")  # options that change pictures and tables only
KEY = "prompts"  # of the only record


@dataclass(frozen=True)
class Config:
    """Which texts are patched, what is scored, and what is restored."""

    model: str = "gemma-3-270m"
    """gemma-3-270m, toy, a name TransformerLens knows, a Hugging Face folder, or a .gguf file."""
    clean: str = ""
    """The text that the answer follows ("": the worked example's)."""
    corrupted: list[str] = field(default_factory=list)
    """A text of as many tokens as the clean one, which the answer does not follow; or several,
    whose scores are averaged (none: the worked example's)."""
    answer: str = ""
    """What the clean text goes on with ("": the worked example's, if its text is patched)."""
    foil: str = ""
    """What the answer is held against ("": what the corrupted text goes on with instead)."""
    own_metric: str = ""
    """A score of your own in the place of an answer: FILE.py:FUNCTION, a function from the logits
    of the last position [row, d_vocab] to one number a row. The file is run."""
    metric: Literal["prob", "logprob", "logit_diff"] = "prob"
    """Which score the figures and the table show; all three are measured. A score of your own is
    shown by itself."""
    sites: list[str] = field(default_factory=lambda: ["resid_post", "mlp_out", "attn_out", "z"])
    """Any of resid_post mlp_out attn_out z severed."""
    window: int = 1
    """Layers of MLP or attention outputs restored together; 10 as in the papers."""
    strongest: int = 5
    """How many cells of each site the table shows."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""
    dtype: str = "float32"
    """Of the weights; on CUDA also bfloat16 or float16."""
    out: str = ""
    """The run's folder (default: results/patch_prompts/MODEL-HASH)."""


EXAMPLE = Config(
    clean="When John and Mary went to the store, John gave a drink to",
    corrupted=["When John and Mary went to the store, Mary gave a drink to"],
    answer="Mary",
    foil="John",
)
TOY_EXAMPLE = Config(
    clean="The birthplace of Ada Alder is",
    corrupted=["The birthplace of Inés Ironwood is"],
    answer="Corum",
    foil="Brock",
)


def run(config: Config) -> Path:
    """Patches, draws and prints; what is in the run's folder is not done again."""
    from kedit.results.prompts import PromptTrace
    from probes.prompts import patch_prompts

    config = settled(config)
    restored, own = patches(config.sites, config.window), _function(config.own_metric)
    with open_run("patch_prompts", config, DRAWING) as folder:
        if KEY not in folder.records:
            model = folder.load(config)
            found = patch_prompts(
                model, config.clean, config.corrupted, config.answer, config.foil, own, restored
            )
            folder.add(KEY, found.to_record(), found.tensors())
        trace = PromptTrace.from_record(folder.records[KEY], folder.tensors(KEY))
        finish(config, folder, trace)
    return folder.path


def settled(config: Config) -> Config:
    """`config` with all that it leaves out: the worked example's texts, or nothing of them.

    Raises:
        InputError: one of the two texts is there, and not the other.
    """
    from kedit.errors import InputError

    clean, corrupted = config.clean.strip(), [text for text in config.corrupted if text.strip()]
    if bool(clean) != bool(corrupted):
        lacking = "--corrupted" if clean else "--clean"
        raise InputError(f"{lacking}: a clean text and a corrupted one are wanted, got one of them")
    if clean:
        return config
    example = TOY_EXAMPLE if config.model == "toy" else EXAMPLE
    config = replace(config, clean=example.clean, corrupted=example.corrupted)
    if config.answer or config.own_metric:
        return config
    return replace(config, answer=example.answer, foil=config.foil or example.foil)


def _function(told: str) -> "Callable[..., Any] | None":
    """The function that FILE.py:FUNCTION names.

    Raises:
        InputError: there is none.
    """
    import runpy

    from kedit.errors import InputError

    if not told:
        return None
    file, _, name = told.rpartition(":")
    if not Path(file).is_file():
        raise InputError(
            f"--own-metric {told}: FILE.py:FUNCTION is wanted, and no file is {file!r}"
        )
    found = runpy.run_path(file).get(name)
    if not callable(found):
        raise InputError(f"--own-metric {told}: {file} has no function {name!r}")
    return found


def finish(config: Config, folder: RunFolder, trace: "PromptTrace") -> None:
    """Tables and figures into the folder; the strongest cells to the screen."""
    from figures.prompts import head_maps
    from figures.style import save
    from figures.trace import heatmap
    from kedit.results.prompts import COLUMNS, shown

    metric = config.metric if config.metric in trace.metrics else trace.metrics[0]
    told = f"{trace.clean!r}, corrupted: {trace.corrupted_how}.\n{trace.summary(metric)}"
    write_rows(folder.path / "table.csv", trace.rows())
    strongest = trace.table(config.strongest, metric)
    write_whole(folder.path / "table.md", f"{told}\n\n{strongest}\n")
    for name in trace.grids:
        save(heatmap(trace, name, metric, config.model), folder.path, f"map-{name}")
    if "z" in trace.grids:
        save(head_maps(trace, metric, config.model), folder.path, "heads")
    screen = console()
    table = plain_table(f"The strongest cells of each site ({metric})", told, COLUMNS)
    for row in trace.strongest(config.strongest, metric):
        table.add_row(*shown(row))
    screen.print(table)
    screen.print(f"All cells are in table.csv. Everything is in {folder.path}", highlight=False)


if __name__ == "__main__":
    command(Config, run)
