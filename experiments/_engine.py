"""Runs a command's study in this process, or on Ray's workers with --engine ray."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from experiments._loading import loaded
from experiments._spread import spread_of

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

    from kedit.journal import Journal
    from kedit.run_folder import RunFolder

Result = TypeVar("Result")


def run_study(
    config: Any,
    folder: "RunFolder",
    study: "Callable[[HookedTransformer, Journal], Result]",
    masked: bool = False,
) -> Result:
    """Loads the model and runs a study of it; on several workers if the options say so.

    Args:
        study: gets the model and the journal. For Ray it is sent to the workers, so that it must
            not hold the folder or a model.
        masked: whether the model may be BERT or T5.
    """
    told = spread_of(config)
    if told.engine == "local":
        return study(loaded(config, folder, masked), folder)
    from kedit.spread import spread

    return spread(
        lambda journal: study(loaded(config, journal, masked), journal),
        folder,
        workers=told.workers,
        gpus_per_worker=told.gpus_per_worker,
        address=told.address,
        patience=told.patience,
    )
