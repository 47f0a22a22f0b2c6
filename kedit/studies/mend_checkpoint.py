"""Saves and restores the training of a MEND.

A training that continues from a checkpoint gives bit for bit the network of one that was not
interrupted.
"""

import json
import logging
import math

from safetensors import SafetensorError
from torch import Tensor
from torch.optim import Adam

from kedit import cache
from kedit.editing.hypernetwork import Hypernetwork, read_hypernetwork
from kedit.editors.mend import NAME
from kedit.errors import InputError
from kedit.journal import Journal

log = logging.getLogger("kedit")

CHECKPOINT = "checkpoint.safetensors"


# six parameters: everything that `resumed` restores
def save_checkpoint(
    journal: Journal, network: Hypernetwork, optimiser: Adam, step: int, best: float, at: int
) -> None:
    """Writes the network, the state of Adam, and the records, with exact numbers.

    Args:
        step: number of steps so far.
        best: total loss of the best validation so far.
        at: the step of the best validation.
    """
    tensors = {f"network {name}": value for name, value in network.state_dict().items()}
    for number, state in optimiser.state_dict()["state"].items():
        tensors |= {f"adam {number} {name}": value for name, value in state.items()}
    # as hex, because it must be read back exactly
    training = {"step": step, "best": best.hex(), "at": at, "records": journal.records}
    cache.write(journal.file(CHECKPOINT), tensors, {"training": json.dumps(training)})


def resumed(journal: Journal, network: Hypernetwork, optimiser: Adam) -> tuple[int, float, int]:
    """Restores network, optimiser and journal from the checkpoint.

    Returns the number of steps so far, the total loss of the best validation, and its step. They
    are 0, inf and 0 if there is no checkpoint that can be used, and training has to start again.

    Afterwards the journal has exactly the validations of the checkpoint. Its own may differ: a run
    may have been stopped between writing a record and the checkpoint, or have lost lines.
    """
    path = journal.file(CHECKPOINT)
    try:
        tensors, metadata = cache.read(path)
        if not cache.checksum_of(tensors, metadata):
            raise InputError("its checksum is wrong")
        training = json.loads(metadata["training"])
        read_hypernetwork(journal.file(NAME))  # raises if the best network so far is damaged
    except FileNotFoundError:
        return 0, math.inf, 0
    except (OSError, SafetensorError, InputError) as error:
        log.warning("Training starts again, because it cannot continue from %s: %s", path, error)
        return 0, math.inf, 0
    weights: dict[str, Tensor] = {}
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        kind, name = key.split(" ", 1)
        if kind == "network":
            weights[name] = value
        else:
            number, field = name.split(" ")
            states.setdefault(int(number), {})[field] = value
    network.load_state_dict(weights)
    optimiser.load_state_dict({**optimiser.state_dict(), "state": states})
    # records of held-out requests, which are edited after the training, are not in the checkpoint
    others = {key: record for key, record in journal.records.items() if not key.isdigit()}
    journal.replace({**training["records"], **others})
    return training["step"], float.fromhex(training["best"]), training["at"]
