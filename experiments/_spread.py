"""The options of commands whose work can be divided: among Ray's workers, or a job array's jobs."""

from dataclasses import dataclass
from typing import Any, Literal

from simple_parsing import field as option

from kedit.errors import InputError


@dataclass(frozen=True)
class Spread:
    """Several workers or jobs can do a study's records: docs/cluster.md."""

    engine: Literal["local", "ray"] = option(
        default="local",
        help="local: in this process. ray: on several workers, each with a model of its own (pip "
        "install 'kedit[ray]'); the results are the same.",
    )
    workers: int = option(default=2, help="The number of Ray's workers.")
    gpus_per_worker: float = option(
        default=0.0, help="The GPUs of each worker, perhaps a part of one: 0.5."
    )
    address: str = option(
        default="",
        help="The address of a Ray cluster; auto: the one that this machine belongs to. Empty: the "
        "workers run on this machine.",
    )
    patience: float = option(
        default=3600.0,
        help="The seconds that a worker may take for a record; then it is ended, and another one "
        "does the record again.",
    )
    shard: str = option(
        default="",
        help="Do one part of several only: 3/8 is the third of eight. `kedit merge` unites their "
        "folders.",
    )

    @property
    def parts(self) -> tuple[int, int]:
        """The part that is done, from 1 on, and how many there are.

        Raises:
            InputError: `shard` has another form.
        """
        if not self.shard:
            return 1, 1
        part, _, of = self.shard.partition("/")
        if not (part.isdecimal() and of.isdecimal() and 1 <= int(part) <= int(of)):
            raise InputError(f"--shard {self.shard}: needs a part and their number, as in 3/8")
        return int(part), int(of)


def spread_of(config: Any) -> Spread:
    """Returns how the work of a configuration is divided; not at all if it has no such options."""
    return getattr(config, "spread", None) or Spread()


def suffix(config: Any) -> str:
    """Returns what the name of the run's folder ends in: the part that is done, or nothing."""
    part, of = spread_of(config).parts
    return f"-part-{part}-of-{of}" if of > 1 else ""
