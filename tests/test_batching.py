"""When memory runs out, batches are halved until they fit; a hopeless record is left out."""

import logging
from collections.abc import Callable

import pytest
import torch
from transformer_lens import HookedTransformer

from kedit import batching
from kedit.errors import InputError
from kedit.forward import reading
from kedit.forward.patched import max_tokens
from kedit.journal import Journal
from kedit.models import toy as toys
from kedit.models.prompts import prompt_ids

GPU = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore lines")
CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory")


def needing(room: int, error: Exception, used: list[int]) -> Callable[[], str]:
    """Work whose batches fit if they have at most `room` tokens."""

    def work() -> str:
        used.append(batching.tokens_per_batch(1000))
        if used[-1] > room:
            raise error
        return "done"

    return work


@pytest.mark.parametrize("error", [GPU, CPU, MemoryError("")])
def test_batches_are_halved_until_they_fit(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    used: list[int] = []
    with batching.at_most(None), caplog.at_level(logging.WARNING, "kedit"):
        assert batching.with_less_memory(needing(300, error, used)) == "done"
        assert used == [1000, 500, 250]
        # what comes next begins with batches that fit
        assert batching.with_less_memory(needing(300, error, used)) == "done"
        assert used[3:] == [250]
    assert batching.tokens_per_batch(1000) == 1000
    assert [message[-30:] for message in caplog.messages] == [
        "at most 500 tokens from now on", "at most 250 tokens from now on",
    ]  # fmt: skip
    assert all("More lines" not in message for message in caplog.messages)


def test_what_no_batch_fits_is_refused_and_costs_the_next_nothing() -> None:
    used: list[int] = []
    with pytest.raises(InputError, match=r"memory runs out, whatever .* CUDA out of memory"):
        batching.with_less_memory(needing(0, GPU, used))
    assert used == [1000, 500, 250, 125, 64]
    assert batching.tokens_per_batch(1000) == 1000


def test_other_errors_are_not_memory() -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        batching.with_less_memory(needing(0, RuntimeError("shapes do not match"), []))


def test_a_study_goes_on_after_a_record_that_no_memory_holds() -> None:
    def work(one: int) -> dict[str, int]:
        if one == 2:
            raise GPU
        return {"square": one * one}

    journal = Journal()
    entries = [*journal.each(range(4), str, work, unit="numbers", doing="squaring")]
    assert [entry.record.get("square") for entry in entries] == [0, 1, None, 9]
    assert entries[2].skipped.startswith("memory runs out")


def test_a_batch_that_does_not_fit_is_done_in_smaller_ones(toy: HookedTransformer) -> None:
    """The numbers are the same, and no forward has more tokens than memory holds."""
    prompts = [prompt_ids(toy, fact.prompt) for fact in toys.facts()[:60]]
    n_tokens: list[int] = []

    def work(_: object) -> list[dict[str, list[float]]]:
        rows = []
        for batch in reading.batches(toy, [*map(len, prompts)]):
            n_tokens.append(sum(len(prompts[index]) for index in batch))
            if n_tokens[-1] > 100:
                raise GPU
            rows += reading.read(toy, [prompts[index] for index in batch]).last.tolist()
        return [{"last": sum(rows, [])}]

    journal = Journal()
    with batching.at_most(None):
        (entry,) = journal.each_batch([0], str, work, 1, unit="", doing="")
    assert not entry.skipped and n_tokens[0] > 100 and max(n_tokens[-5:]) <= 100
    expected = reading.read(toy, prompts).last.flatten()
    torch.testing.assert_close(torch.tensor(entry.record["last"]), expected, atol=1e-5, rtol=1e-5)


def test_the_number_of_tokens_can_be_told(toy: HookedTransformer) -> None:
    usual = max_tokens(toy, 12)
    with batching.at_most(100):
        assert max_tokens(toy, 12) == 100
    assert max_tokens(toy, 12) == usual > 100
