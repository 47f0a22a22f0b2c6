"""Restore every cell between two texts of your own: which layers, tokens and heads matter?

A clean text that the model goes on with an answer, and a corrupted one of as many tokens where it
does not. Without options it patches a worked example.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from experiments import _options as options
from experiments._command import command, loaded, open_run
from experiments._own_metric import function_of
from experiments._printing import say, show

DRAWING = ("metric", "strongest")  # options that change pictures and tables only
KEY = "prompts"  # of the only record


@dataclass(frozen=True)
class Config:
    """Which texts are patched, what is scored, and what is restored."""

    model: str = options.model()
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
    device: str = options.device()
    dtype: str = options.dtype()
    out: str = options.out("patch_prompts")


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
    from figures.prompts import head_maps
    from figures.style import save
    from kedit.results.prompts import PromptTrace
    from kedit.tables import csv_text
    from probes.prompts import patch_prompts
    from probes.trace import patches_at

    config = settled(config)
    restored, own = patches_at(config.sites, config.window), function_of(config.own_metric)
    with open_run("patch_prompts", config, DRAWING) as folder:
        if KEY not in folder.records:
            found = patch_prompts(
                loaded(config, folder), config.clean, config.corrupted, config.answer, config.foil,
                own, restored,
            )  # fmt: skip
            folder.add(KEY, found.to_record(), found.tensors())
        trace = PromptTrace.from_record(folder.records[KEY], folder.tensors(KEY))
        metric = config.metric if config.metric in trace.metrics else trace.metrics[0]
        table = trace.top(config.strongest, metric)
        folder.write("table.csv", csv_text(trace.rows()))
        folder.write("table.md", f"{table.to_markdown()}\n")
        for name in trace.grids:
            save(trace.plot(name, metric, config.model), folder.path, f"map-{name}")
        if "z" in trace.grids:
            save(head_maps(trace, metric, config.model), folder.path, "heads")
        show(table)
        say(f"All cells are in table.csv. Everything is in {folder.path}")
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


if __name__ == "__main__":
    command(Config, run)
