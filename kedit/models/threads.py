"""Tells a user whose OpenMP threads spin while they wait how to avoid it."""

import functools
import logging
import os

import torch

log = logging.getLogger("kedit")

# variables of OpenMP's runtimes (GCC's, LLVM's and Intel's) that say how threads wait
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


@functools.cache  # once per process
def warn_of_spinning_threads() -> None:
    """Logs a warning if torch has several threads and nobody has said how they wait.

    `import kedit` sets OMP_WAIT_POLICY, but only if torch is not loaded yet: OpenMP reads the
    variable when torch is loaded.
    """
    if torch.get_num_threads() > 1 and not any(name in os.environ for name in WAITING):
        log.warning(
            "torch was imported before kedit, so its threads spin while they wait. If another "
            "process is busy, everything takes several times longer. To avoid this, import kedit "
            "before torch, or set OMP_WAIT_POLICY=PASSIVE before Python starts."
        )
