"""How often the CPU waits for a device: seldom, however deep the model is and however many cells.

Every wait leaves CUDA idle until the CPU has sent it new work. They are counted on a pretended
device (`tests.pretended`); `tests.test_cuda` shows that results are right there.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import transformers
from transformer_lens import HookedTransformer

from kedit.editing.values import Row, Slot, Training, train
from kedit.forward.generation import greedy
from kedit.forward.likelihood import Query, likelihoods
from kedit.models import hugging_face
from kedit.models import toy as toy_module
from kedit.models.load import prepare, quiet
from kedit.models.prompts import encode
from probes.corrupt import Noise, add_noise
from probes.patch import Patch
from tests import pretended
from tests.conftest import GPT_2, clean_run, random_module, swept

FACT = toy_module.facts()[0]
ROWS = [Row((0, 5, 6, 7, 8), 2, targets=(8, 9)), Row((0, 5, 4, 7), 1, targets=(9,)), Row((0, 5), 1)]

pytestmark = pretended.ONLY


@pytest.fixture(autouse=True)
def ready() -> Iterator[None]:
    with pretended.set_up():
        yield


@pytest.fixture(scope="module")
def models() -> Iterator[list[HookedTransformer]]:
    """A tiny GPT-2 of 4 layers and one of 8, on the device."""
    with pretended.set_up():
        made = []
        for n_layer in (4, 8):
            shape: dict[str, Any] = GPT_2 | {"n_layer": n_layer}
            hf = random_module(transformers.GPT2Config(**shape))
            with quiet():
                model = hugging_face.hooked(hf, torch.float32)
            prepare(model, toy_module.tokenizer())
            model.to(torch.device(pretended.DEVICE, 0), print_details=False)
            made.append(model)
        yield made


def waits(work: Callable[[], object]) -> int:
    pretended.waits.clear()
    work()
    return pretended.waits.total()


def test_the_pretended_device_has_the_rules_of_cuda() -> None:
    own, other = torch.arange(3.0), torch.arange(3.0, device=pretended.DEVICE)
    generator = torch.Generator()
    for mixed in (
        lambda: own + other,
        lambda: other @ own,
        lambda: own[other.long()],
        lambda: torch.cat([own, other]),
        lambda: other.masked_fill(own > 1, 0),
        lambda: torch.randn(3, device=pretended.DEVICE, generator=generator),
    ):
        with pytest.raises(RuntimeError, match="same device|generator of the CPU"):
            mixed()
    assert torch.equal((other * torch.tensor(2.0) + 1).cpu(), own * 2 + 1)  # a single number may
    for copied in (
        lambda: other[own.long()],
        lambda: other[other > 1],
        lambda: float(other.sum()),
        lambda: own.to(other),
        lambda: other.tolist(),
    ):
        assert waits(copied) == 1
    assert waits(lambda: own.to(pretended.DEVICE, non_blocking=True) + other) == 0


def test_two_pretended_devices_do_not_mix() -> None:
    one, two = (torch.arange(3.0, device=f"{pretended.DEVICE}:{index}") for index in (0, 1))
    for mixed in (
        lambda: one + two,
        lambda: one @ two,
        lambda: one[two.long()],
        lambda: one + two.sum(),  # only a single number of the CPU may take part
    ):
        with pytest.raises(RuntimeError, match="same device"):
            mixed()
    assert waits(lambda: one.to(two.device) * two) == 0  # the CPU does not wait for such a copy
    leaf = one.clone().requires_grad_()
    (leaf.to(two.device) * two).sum().backward()
    assert leaf.grad is not None and leaf.grad.device == one.device
    assert torch.equal(leaf.grad.cpu(), two.cpu())


def test_waits_do_not_grow_with_the_layers(models: list[HookedTransformer]) -> None:
    def swept_all(model: HookedTransformer) -> None:
        noise = add_noise(model, encode(model, FACT), "subject", Noise(0.5), samples=2, seed=0)
        for patch in (Patch("mlp_out", 3), Patch("z"), Patch("resid_post", severed="mlp_out")):
            swept(model, FACT, noise, patch)

    def scored(model: HookedTransformer) -> None:
        likelihoods(model, [Query((0, 5, 6), ((7, 8), (9,))), Query((0, 5), ((6,),), ((7,), (8,)))])

    def trained(model: HookedTransformer) -> None:
        slots = [Slot(1, "mlp"), Slot(2, "attn")]
        train(model, ROWS, slots, Training(steps=3, stop=0.0))

    for work in (swept_all, scored, trained):
        few, many = (waits(lambda model=model, work=work: work(model)) for model in models)
        assert 0 < many <= few, f"{work.__name__}: {pretended.waits}"


def test_waits_do_not_grow_with_cells_or_prompts(models: list[HookedTransformer]) -> None:
    model = models[0]
    noise = add_noise(model, encode(model, FACT), "subject", Noise(0.5), samples=2, seed=0)
    n_pos = clean_run(model, FACT).tokens.shape[1]
    few, many = (
        waits(
            lambda last=last: swept(
                model, FACT, noise, Patch("resid_post"), tuple(range(last, n_pos))
            )
        )
        for last in (n_pos - 2, 0)
    )
    assert 0 < many <= few
    prompts = [(0, 5, 6 + number, 7) for number in range(8)]
    few, many = (waits(lambda n=n: greedy(model, prompts[:n], 3)) for n in (2, 8))
    assert 0 < many <= few


def test_a_step_of_training_waits_three_times(models: list[HookedTransformer]) -> None:
    """For the tokens of the blocks, for those of the final residuals, and for the loss."""
    few, many = (
        waits(
            lambda steps=steps: train(models[0], ROWS, [Slot(1, "mlp")], Training(steps, stop=0.0))
        )
        for steps in (2, 6)
    )
    assert many - few <= 3 * 4
