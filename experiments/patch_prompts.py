"""Patches between two texts of your own: shows which layers, tokens and heads carry the answer.

The model continues the clean text with the answer, and the corrupted text, which has as many
tokens, with something else. The command restores every cell of the corrupted run to its clean
value, one at a time. Without options it patches a worked example.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from experiments import _options as options
from experiments._command import command, open_run
from experiments._loading import loaded
from experiments._own_metric import function_of
from experiments._patch_example import settled
from experiments._printing import say, show

# options that change only figures and tables, or nothing
OUTSIDE = ("metric", "strongest", "seed")
KEY = "prompts"  # of the only record


@dataclass(frozen=True)
class Config:
    """Which texts are patched, what is scored, and what is restored."""

    model: str = options.model()
    clean: str = ""
    """The clean text, which the model continues with the answer. For a masked model (BERT, T5) it
    has [MASK] in the place of the answer. Empty: that of the worked example."""
    corrupted: list[str] = field(default_factory=list)
    """A text with as many tokens as the clean text, which the model does not continue with the
    answer; or several, whose scores are averaged. Empty: that of the worked example."""
    answer: str = ""
    """The answer after the clean text. Empty: that of the worked example, if its text is used."""
    foil: str = ""
    """The answer that the metric logit_diff compares with. Empty: what the model says after the
    corrupted text."""
    own_metric: str = ""
    """A score of your own instead of an answer, as FILE.py:FUNCTION. The function receives the
    logits of the last position [row, d_vocab] and returns one number per row. The file is run."""
    metric: Literal["prob", "logprob", "logit_diff"] = options.metric(
        "With --own-metric, only that score is measured and shown."
    )
    sites: list[str] = options.sites(("resid_post", "mlp_out", "attn_out", "z"))
    window: int = 1
    """The number of adjacent layers whose MLP or attention outputs are restored together; 10 in the
    papers."""
    strongest: int = 5
    """The number of cells of each site that the table shows, the strongest first."""
    seed: int = options.unused(0, "draws nothing")
    device: str = options.device()
    dtype: str = options.dtype()
    out: str = options.out("patch_prompts")


def run(config: Config) -> Path:
    """Patches, draws and prints; finished sweeps in the run's folder are used again."""
    from figures.prompts import head_maps
    from figures.style import save
    from kedit.results.prompts import PromptTrace
    from kedit.tables import csv_text
    from probes.prompts import patch_prompts
    from probes.trace import patches_at

    config = settled(config)
    patches, own = patches_at(config.sites, config.window), function_of(config.own_metric)
    with open_run("patch_prompts", config, OUTSIDE) as folder:
        folder.write("README.txt", _EXPLAINED)
        if KEY not in folder.records:
            found = patch_prompts(
                loaded(config, folder, masked=True), config.clean, config.corrupted, config.answer,
                config.foil, own, patches,
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


_EXPLAINED = """\
records.jsonl   one record: both texts, their tokens, the scored tokens, and the clean score
tensors/        the scores of all restored cells, and of the corrupted run
table.csv       the indirect effect of every cell (site, layer, position, head), with each metric:
                the score of the restored run minus that of the corrupted run
table.md        the strongest cells of each site, as the command prints them
map-*.png, heads.png (and .pdf)   the figures: effects by token and layer, and by head
"""


if __name__ == "__main__":
    command(Config, run)
