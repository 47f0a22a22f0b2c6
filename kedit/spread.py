"""Spreads a study over several processes, GPUs or machines by Ray (https://docs.ray.io).

    found = spread(lambda journal: compare(kedit.load(name), cases, editors, journal=journal),
                   RunFolder(path), workers=4, gpus_per_worker=1)

Each worker has a model of its own and does the items that are free (`kedit.claims`). One process
writes the journal, next to the caller. A study that was stopped is continued as without workers.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from kedit import batching
from kedit.claims import Added, Claim, ClaimingJournal, Claims, Shown
from kedit.errors import InputError
from kedit.journal import Journal, Record
from kedit.progress import progress, silence

if TYPE_CHECKING:
    from torch import Tensor

Result = TypeVar("Result")
NICENESS = "RAY_worker_niceness"  # Ray's setting: how much workers yield to other processes
STARTS = 3  # workers in a row that may die before they claim an item; then the study ends
EVERY = 0.5  # seconds from one look at the workers to the next
PATIENCE = 3600.0  # seconds that a worker may take for one item, or one batch of items
log = logging.getLogger("kedit")


# seven parameters: what is done, by how many workers of which kind, and where they are
def spread(
    study: Callable[[Any], Result],
    journal: Journal,
    *,
    workers: int = 2,
    gpus_per_worker: int | float = 0,
    threads: int = 0,
    address: str = "",
    patience: int | float = PATIENCE,
) -> Result:
    """Runs a study on several workers at once, and returns its result.

    Items are given to whoever is free. If a worker dies, or takes longer than `patience` for an
    item, another one takes its place and does the item again; an item on which three workers have
    died is left out. The records are those that the study would make alone, to the bit if it has as
    many threads as a worker.

    Args:
        study: gets a journal, loads its model, and returns a result that can be pickled. All that
            it measures must go through the journal's `each` or `each_batch`, as in every study of
            kedit but `train_mend`.
        journal: gets the records, and holds those of an earlier run.
        workers: number of processes, each with a model of its own.
        gpus_per_worker: GPUs of each worker, perhaps a part of one; 0: it sees none.
        threads: CPU threads of each worker; 0: OMP_NUM_THREADS, or the cores of this machine
            divided by `workers`.
        address: of a Ray cluster ("auto": the one that this machine belongs to); "": workers are
            started on this machine. On a cluster, kedit must be installed on every machine, and the
            cache of kedit should be in a folder that all of them share (KEDIT_CACHE).
        patience: seconds that a worker may take for an item, or a batch of items.

    Raises:
        InputError: Ray is not installed or cannot be reached, it has too few cores or GPUs, the
            workers die before they begin, or the study itself raises InputError.
    """
    ray = _library()
    told = os.environ.get("OMP_NUM_THREADS", "")
    threads = threads or (int(told) if told.isdecimal() else 0)
    threads = threads or max(1, (os.cpu_count() or 1) // workers)
    with _connected(ray, address, workers, threads, gpus_per_worker):
        crew = _Crew(ray, study, journal, threads, gpus_per_worker)
        try:
            with progress("") as bars:
                return crew.result(workers, patience, bars)
        finally:
            crew.dismiss()


class _Keeper:
    """The process that holds the claims and writes the journal, next to the caller."""

    def __init__(self, journal: Journal, folder: str) -> None:
        os.chdir(folder)
        self.claims = Claims(journal)

    def call(self, name: str, *args: Any) -> Any:
        """Calls a method of the claims, or of the journal."""
        of = self.claims if hasattr(self.claims, name) else self.claims.journal
        return getattr(of, name)(*args)

    def state(self) -> dict[str, Any]:
        """Returns the journal's attributes, for the caller's journal."""
        return vars(self.claims.journal)


class _Worker:
    """A process with a model, which does items of the study."""

    def __init__(self, number: int, threads: int, folder: str) -> None:
        import torch

        torch.set_num_threads(threads)
        self.number = number
        if os.path.isdir(folder):  # noqa: PTH112 - a cluster's other machines may not have it
            os.chdir(folder)  # files are named from there
        if number:  # every worker would say the same
            log.setLevel(logging.ERROR)

    def run(
        self,
        study: Callable[[Any], Any],
        keeper: Any,
        records: Mapping[str, dict[str, Any]],
        where: str,
        shard: tuple[int, int],
        batch_tokens: int | None,
    ) -> Any:
        with silence(), batching.at_most(batch_tokens):
            return study(ClaimingJournal(_Remote(keeper), self.number, records, where, shard))


class _Remote:
    """The claims of the keeper's process."""

    def __init__(self, keeper: Any) -> None:
        import ray

        self._keeper, self._get = keeper, ray.get

    def claim(
        self, worker: int, batches: Sequence[Mapping[str, Record]], n_known: int
    ) -> tuple[Claim, int]:
        return self._get(self._keeper.call.remote("claim", worker, batches, n_known))

    def finish(self, finished: Sequence[Added]) -> None:
        self._get(self._keeper.call.remote("finish", finished))

    def show(self, shown: Shown) -> None:
        self._keeper.call.remote("show", shown)

    def tensors(self, key: str) -> "Mapping[str, Tensor]":
        return self._get(self._keeper.call.remote("tensors", key))

    def require_weights(self, fingerprint: str) -> None:
        self._get(self._keeper.call.remote("require_weights", fingerprint))


class _Crew:
    """The workers of a study and its keeper."""

    def __init__(
        self,
        ray: Any,
        study: Callable[[Any], Any],
        journal: Journal,
        threads: int,
        gpus_per_worker: int | float,
    ) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as OnNode

        self.ray, self.journal, self.threads = ray, journal, threads
        here = OnNode(ray.get_runtime_context().get_node_id(), soft=False)
        keeper = ray.remote(_Keeper).options(num_cpus=0, scheduling_strategy=here)
        self.keeper = keeper.remote(journal, os.getcwd())  # noqa: PTH109 - a text, to be sent
        variables = {"OMP_NUM_THREADS": str(threads)}
        self.kind = ray.remote(_Worker).options(
            num_cpus=threads, num_gpus=gpus_per_worker, runtime_env={"env_vars": variables}
        )
        self.sent = ray.put(study), ray.put(dict(journal.records))
        self.at_work: dict[Any, tuple[int, Any]] = {}  # number and worker, by what it will return
        self.n_hired = 0

    def result(self, workers: int, patience: int | float, bars: Any) -> Any:
        """Runs the workers until one of them has the study's result."""
        from ray.exceptions import RayActorError, RayError, RayTaskError

        n_idle = 0  # workers that died one after the other without an item
        tasks = {"": bars.add_task("starting the workers", total=None)}
        for _ in range(workers):
            self._hire()
        while True:
            done, _ = self.ray.wait([*self.at_work], timeout=EVERY)
            for returned in done:
                number, _ = self.at_work.pop(returned)
                try:
                    return self.ray.get(returned)
                except RayTaskError as error:  # the study raised an error
                    own = _own(error)
                    raise (self._lost() if isinstance(own, RayActorError) else own) from error
                except RayError as error:  # the worker has died
                    why = str(error).strip().splitlines()[0]
                held = self._ask("release", number, f"died: {why}")
                log.warning("A worker has died, another takes its place: %s", why)
                n_idle = 0 if held else n_idle + 1
                if n_idle == STARTS:
                    raise InputError(f"{STARTS} workers died before they began an item: {why}")
                self._hire()
            overdue = self._ask("overdue", patience)
            for number, worker in self.at_work.values():
                if number in overdue:
                    log.warning("A worker has taken over %g s for an item and is ended", patience)
                    self.ray.kill(worker)
            shown = self._ask("furthest")
            if shown is not None:
                if shown.doing not in tasks:  # a new loop of the study
                    tasks[shown.doing] = bars.add_task(f"{shown.doing}, {shown.unit}")
                bars.update(tasks[shown.doing], completed=shown.done, total=shown.of)

    def dismiss(self) -> None:
        """Ends all workers, and takes over the journal's records."""
        for _, worker in self.at_work.values():
            self.ray.kill(worker)
        # without the keeper, the records are read from their folder at the next run
        with contextlib.suppress(Exception):
            vars(self.journal).update(self.ray.get(self.keeper.state.remote(), timeout=60))
        self.ray.kill(self.keeper)

    def _hire(self) -> None:
        worker = self.kind.remote(self.n_hired, self.threads, os.getcwd())  # noqa: PTH109
        returned = worker.run.remote(
            self.sent[0], self.keeper, self.sent[1], self.journal.where, self.journal.shard,
            batching.most(),
        )  # fmt: skip
        self.at_work[returned] = self.n_hired, worker
        self.n_hired += 1

    def _ask(self, name: str, *args: Any) -> Any:
        """Calls the keeper, or raises InputError if its process has died."""
        from ray.exceptions import RayActorError

        try:
            return self.ray.get(self.keeper.call.remote(name, *args))
        except RayActorError as error:
            raise self._lost() from error

    def _lost(self) -> InputError:
        return InputError(
            "the process that writes the records has died: give the same command again, finished "
            f"records are in {self.journal.where}"
        )


def _library() -> Any:
    """Returns Ray's module, or raises InputError."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault(NICENESS, "0")  # else all other processes of the machine go first
    try:
        import ray
    except ImportError:
        raise InputError("Ray is not installed: pip install 'kedit[ray]'") from None
    return ray


@contextlib.contextmanager
def _connected(
    ray: Any, address: str, workers: int, threads: int, gpus_per_worker: int | float
) -> Iterator[None]:
    """Connects to a cluster, or starts Ray on this machine, unless the caller has done so.

    Raises:
        InputError: the cluster cannot be reached, or cannot hold one worker.
    """
    begun = not ray.is_initialized()
    if begun:
        quiet: Any = {"include_dashboard": False, "logging_level": logging.ERROR}
        try:
            if address:
                ray.init(address=address, logging_level=logging.ERROR)
            else:
                ray.init(address="local", num_cpus=workers * threads, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InputError(f"Ray (address={address!r}, --address): {error}") from error
    try:
        has = ray.cluster_resources()
        for kind, each in (("CPU", threads), ("GPU", gpus_per_worker)):
            if has.get(kind, 0) < each * workers:
                raise InputError(
                    f"{workers} workers (--workers) with {each:g} {kind}s each need more than the "
                    f"{has.get(kind, 0):g} that Ray has"
                )
        yield
    finally:
        if begun:
            ray.shutdown()


def _own(error: Any) -> BaseException:
    """Returns the error that the study raised in its worker."""
    while getattr(error, "cause", None) is not None:
        error = error.cause
    return error
