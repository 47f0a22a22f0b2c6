"""Checkpoints of a MEND's training, from which it goes on to the bit."""

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


# six parameters: all that `resumed` gives back
def save_checkpoint(
    journal: Journal, network: Hypernetwork, optimiser: Adam, step: int, best: float, at: int
) -> None:
    """All that training goes on from, the records among it; numbers are kept as they are."""
    tensors = {f"network {name}": value for name, value in network.state_dict().items()}
    for number, state in optimiser.state_dict()["state"].items():
        tensors |= {f"adam {number} {name}": value for name, value in state.items()}
    told = {"step": step, "best": best.hex(), "at": at, "records": journal.records}
    cache.write(journal.file(CHECKPOINT), tensors, {"training": json.dumps(told)})


def resumed(journal: Journal, network: Hypernetwork, optimiser: Adam) -> tuple[int, float, int]:
    """The step that is next, the best validation and its step; 0, inf, 0 where all begins anew.

    The journal has the validations of the checkpoint afterwards, no more and no less: a run may
    have been stopped between a record and its checkpoint, or have lost lines.
    """
    path = journal.file(CHECKPOINT)
    try:
        tensors, told = cache.read(path)
        if not cache.checksum_of(tensors, told):
            raise InputError("its checksum is wrong")
        training = json.loads(told["training"])
        read_hypernetwork(journal.file(NAME))  # the best one so far
    except FileNotFoundError:
        return 0, math.inf, 0
    except (OSError, SafetensorError, InputError) as error:
        log.warning("Training begins anew, for it cannot go on from %s: %s", path, error)
        return 0, math.inf, 0
    own: dict[str, Tensor] = {}
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        kind, name = key.split(" ", 1)
        if kind == "network":
            own[name] = value
        else:
            number, field = name.split(" ")
            states.setdefault(int(number), {})[field] = value
    network.load_state_dict(own)
    optimiser.load_state_dict({**optimiser.state_dict(), "state": states})
    # what the kept network did with held-out requests is not of the training, and stays
    others = {key: one for key, one in journal.records.items() if not key.isdigit()}
    journal.replace({**training["records"], **others})
    return training["step"], float.fromhex(training["best"]), training["at"]
