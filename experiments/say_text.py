"""Lets a model write running text, from short openings, for the key statistics that edits spare.

The text that comes with kedit was written in this way by Gemma 3 270M. A part of the text is held
out, so that the cost of an edit is measured on other text than the text that the edit spared.
"""

from dataclasses import dataclass, field
from pathlib import Path

from experiments import _options as options
from experiments._command import command, open_run
from experiments._loading import loaded


@dataclass(frozen=True)
class Config:
    """Which model writes, how much it writes, and what is left out."""

    model: str = options.model()
    rounds: int = 10
    """The number of documents per opening (there are 66), including documents that are dropped."""
    held_out_share: float = 0.1
    """The share of the text that is held out: the last documents, each as a whole."""
    leave_out: list[str] = field(default_factory=list)
    """Documents to leave out after reading them, by their keys in records.jsonl: 0-17 is the
    document for opening 17 in round 0."""
    seed: int = options.seed("the sampled text")
    device: str = options.device()
    dtype: str = options.dtype()
    out: str = options.out("say_text")


def run(config: Config) -> Path:
    """Writes documents, round by round, and then statistics.txt and held_out.txt from them."""
    from experiments._printing import say
    from kedit.studies.documents import divided, write_documents

    # more rounds only add documents, so --rounds does not name another run
    with open_run("say_text", config, outside=("rounds", "leave_out", "held_out_share")) as folder:
        folder.write("README.txt", _EXPLAINED)
        documents = write_documents(
            loaded(config, folder), config.rounds, seed=config.seed, journal=folder
        )
        texts = divided(documents, config.held_out_share, config.leave_out)
        for name, part in texts._asdict().items():
            text = "".join(f"{document}\n\n" for document in part)
            folder.write(f"{name}.txt", text)
            size = f"{len(part)} documents, {len(text.encode()) / 1e3:.0f} kB"
            say(f"{folder.path / f'{name}.txt'}: {size}")
    return folder.path


_EXPLAINED = """\
statistics.txt   the documents for key statistics: give this file to other commands as --text
held_out.txt     the last documents, which --text does not contain: give it as --held-out
records.jsonl    one line per document; the key 0-17 means round 0, opening 17
  text           the opening and what the model wrote, up to the last complete sentence
  unfit          why the document is in neither file; empty if it is clean prose
"""


if __name__ == "__main__":
    command(Config, run)
