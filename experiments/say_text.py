"""Let a model write running text: clean prose behind short openings, for statistics of keys.

The text that kedit ships was written in this way by Gemma 3 270M. A part of it is held out, so that
what an edit costs is read off other text than what the edit spared.
"""

from dataclasses import dataclass, field
from pathlib import Path

from experiments._run import command, console, open_run
from kedit.progress import progress


@dataclass(frozen=True)
class Config:
    """Which model writes how much, and what is left out."""

    model: str = "gemma-3-270m"
    """gemma-3-270m, toy, a name TransformerLens knows, a Hugging Face folder, or a .gguf file."""
    rounds: int = 10
    """Documents behind each of the 66 openings, with those that are dropped."""
    held_out: float = 0.1
    """Share of the text that is held out: whole documents, the last ones."""
    leave_out: list[str] = field(default_factory=list)
    """Documents to leave out after somebody read them, by their keys in records.jsonl: 0-17 is the
    one behind opening 17 in round 0."""
    seed: int = 0
    """Of the text."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""
    dtype: str = "float32"
    """Of the weights; on CUDA also bfloat16 or float16."""
    out: str = ""
    """The run's folder (default: results/say_text/MODEL-HASH)."""


def run(config: Config) -> Path:
    """Writes documents, round by round, and then statistics.txt and held_out.txt."""
    from dataclasses import asdict

    from kedit.studies.documents import OPENINGS, written

    # more rounds add documents, and change none
    with open_run("say_text", config, outside=("rounds", "leave_out", "held_out")) as folder:
        model = folder.load(config)
        with progress("rounds") as bars:
            for number in bars.track(range(config.rounds), description="writing"):
                keys = [f"{number}-{opening}" for opening in range(len(OPENINGS))]
                if all(key in folder.records for key in keys):
                    continue
                for key, document in zip(keys, written(model, number, config.seed), strict=True):
                    folder.add(key, asdict(document))
        kept = [
            record["text"]
            for key, record in folder.records.items()
            if not record["unfit"] and key not in config.leave_out
        ]
        wanted, size = (1 - config.held_out) * sum(map(len, kept)), 0
        parts: dict[str, list[str]] = {"statistics.txt": [], "held_out.txt": []}
        for text in kept:
            parts["statistics.txt" if size < wanted else "held_out.txt"].append(text)
            size += len(text)
        for name, texts in parts.items():
            text = "".join(f"{text}\n\n" for text in texts)
            (folder.path / name).write_text(text, encoding="utf-8", newline="\n")
            size = f"{len(texts)} documents, {len(text.encode()) / 1e3:.0f} kB"
            console().print(f"{folder.path / name}: {size}", soft_wrap=True)
    return folder.path


if __name__ == "__main__":
    command(Config, run)
