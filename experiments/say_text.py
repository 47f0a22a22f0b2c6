"""Let a model write running text: clean prose behind short openings, for statistics of keys.

The text that kedit ships was written in this way by Gemma 3 270M. A part of it is held out, so that
what an edit costs is read off other text than what the edit spared.
"""

from dataclasses import dataclass, field
from pathlib import Path

from experiments import _options as options
from experiments._command import command, loaded, open_run


@dataclass(frozen=True)
class Config:
    """Which model writes how much, and what is left out."""

    model: str = options.model()
    rounds: int = 10
    """Documents behind each of the 66 openings, with those that are dropped."""
    held_out_share: float = 0.1
    """Share of the text that is held out: whole documents, the last ones."""
    leave_out: list[str] = field(default_factory=list)
    """Documents to leave out after somebody read them, by their keys in records.jsonl: 0-17 is the
    one behind opening 17 in round 0."""
    seed: int = options.seed("the text")
    device: str = options.device()
    dtype: str = options.dtype()
    out: str = options.out("say_text")


def run(config: Config) -> Path:
    """Writes documents, round by round, and then statistics.txt and held_out.txt."""
    from experiments._printing import say
    from kedit.studies.documents import divided, write_documents

    # more rounds add documents, and change none
    with open_run("say_text", config, outside=("rounds", "leave_out", "held_out_share")) as folder:
        documents = write_documents(
            loaded(config, folder), config.rounds, seed=config.seed, journal=folder
        )
        texts = divided(documents, config.held_out_share, config.leave_out)
        for name, own in texts._asdict().items():
            text = "".join(f"{one}\n\n" for one in own)
            folder.write(f"{name}.txt", text)
            size = f"{len(own)} documents, {len(text.encode()) / 1e3:.0f} kB"
            say(f"{folder.path / f'{name}.txt'}: {size}")
    return folder.path


if __name__ == "__main__":
    command(Config, run)
