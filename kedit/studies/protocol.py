"""How the edits of a study are made and measured: the texts that they spare and are measured on.

Studies of edits begin alike: the journal notes the settings, editors are prepared, and the unedited
model reads the held-out text.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from transformer_lens import HookedTransformer

from kedit.data.corpus import corpus_of
from kedit.editing.edit import Editor
from kedit.editing.provenance import current_fingerprint
from kedit.journal import Journal
from kedit.models.load import source_of
from kedit.scoring.drift import baseline, held_out
from kedit.scoring.score import Scoring
from kedit.studies.edits import Assessment
from kedit.studies.prepare import Arm, EditorChoice, Side, prepare, prepared_arms


@dataclass(frozen=True)
class EditProtocol:
    """The settings that studies of edits have in common.

    Args:
        text, tokens_per_dim, held_out_text, chunks, chunk_tokens, seed: see
            `kedit.studies.comparing.compare`.
    """

    text: str
    tokens_per_dim: int
    held_out_text: str
    chunks: int
    chunk_tokens: int
    seed: int

    def begin(
        self, study: str, model: HookedTransformer, journal: Journal | None, **settings: Any
    ) -> Journal:
        """Returns the journal, or a new one for None, after it has noted the study's settings.

        Args:
            settings: further settings of the study.

        Raises:
            InputError: the journal was used by this study with other settings or weights.
        """
        journal = Journal() if journal is None else journal
        journal.ask(study, model=current_fingerprint(model), **asdict(self), **settings)
        return journal

    def prepare(
        self, model: HookedTransformer, editors: Sequence[str | Editor], sides: Sequence[Side]
    ) -> list[Arm]:
        """Prepares every editor on every side, see `kedit.studies.prepare.prepare`."""
        return prepare(model, editors, sides, **self._spared)

    def prepare_choices(
        self, model: HookedTransformer, choices: Sequence[EditorChoice]
    ) -> list[Arm]:
        """Prepares editors that have their names and sides already."""
        return prepared_arms(model, choices, **self._spared)

    @property
    def _spared(self) -> dict[str, Any]:
        return {"text": self.text, "tokens_per_dim": self.tokens_per_dim, "seed": self.seed}

    def assessment(self, model: HookedTransformer, scoring: Scoring) -> Assessment:
        """Builds an assessment with the unedited model's predictions on the held-out text.

        Raises:
            InputError: the text cannot be read, or is too short.
        """
        chunks = held_out(model, self.held_out_text, self.chunks, self.seed, self.chunk_tokens)
        return Assessment(scoring, baseline(model, chunks))

    def name_of_held_out(self, model: HookedTransformer) -> str:
        """Returns the name of the held-out text, for a result."""
        return corpus_of(source_of(model), self.held_out_text, self.seed, held_out=True).name
