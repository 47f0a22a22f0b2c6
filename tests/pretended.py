"""Pretended accelerators: their tensors keep their numbers on the CPU, but obey CUDA's rules.

CUDA refuses an operation that mixes its tensors with tensors of the CPU or of another GPU, and the
CPU waits for it whenever numbers are copied between the two. Neither can be seen on a machine
without CUDA. On the pretended devices "pretended:0" and "pretended:1" an operation that CUDA would
refuse raises RuntimeError, and `waits` counts the waits by the line of kedit that causes them.

It is PyTorch's backend "PrivateUse1", which a process can have beside the CPU, implemented in
Python. All of its operations go to `_computed`.
"""

import contextlib
import copy
import functools
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils import backend_registration

DEVICE, N_DEVICES = "pretended", 2
# PyTorch 2.9 and later can set up such a backend
IS_POSSIBLE = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")
# the marks of tests that run on pretended devices only
ONLY = [
    pytest.mark.skipif(not IS_POSSIBLE, reason="PyTorch 2.9 or later is needed to pretend devices"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA itself is here"),
]
ROOT = Path(__file__).parents[1]
OURS = (str(ROOT / "kedit"), str(ROOT / "probes"))
aten: Any = torch.ops.aten
COPIES = (aten.copy_.default, aten._copy_from.default, aten._to_copy.default)
# CUDA takes indices that are on the CPU, but has to copy them
INDEXING = (
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
)
# the CPU has to know the shapes of their results, which depend on numbers
SHAPED_BY_NUMBERS = (aten.nonzero.default, aten.masked_select.default, aten._unique2.default)
# their own implementations change the shape of a tensor in place, which a wrapper cannot follow
MAKING = ("arange", "linspace", "eye", "randperm")

waits: Counter[str] = Counter()
_libraries: list[torch.library.Library] = []  # what they register ends with them


class _Meta(type(Tensor)):
    def __eq__(cls, other: object) -> bool:
        """Lets `type(tensor) == Tensor` be true, which TransformerLens asks."""
        return cls is other or other is Tensor

    __hash__ = type.__hash__


class Pretended(Tensor, metaclass=_Meta):
    """A tensor of a pretended device; `numbers` is the tensor on the CPU that it stands for."""

    numbers: Tensor

    @staticmethod
    def __new__(cls, numbers: Tensor, device: torch.device) -> "Pretended":
        made = Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            cls,
            numbers.shape,
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            device=device,
        )
        made.numbers = numbers
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore

    @classmethod
    def __torch_dispatch__(  # pyright: ignore
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _computed(func, *args, **(kwargs or {}))

    def __deepcopy__(self, memo: dict[int, Any]) -> "Pretended":
        copied = Pretended(copy.deepcopy(self.numbers, memo), self.device)
        copied.requires_grad_(self.requires_grad)
        copied._is_param = isinstance(self, torch.nn.Parameter)  # how torch marks parameters
        return memo.setdefault(id(self), copied)

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def data_ptr(self) -> int:
        return self.numbers.data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.numbers.untyped_storage()


@contextlib.contextmanager
def set_up() -> Iterator[None]:
    """In the block, tensors can be made on the devices."""
    # torch.tensor then makes a tensor of the CPU and moves it by an operation that is seen here
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        # PyTorch's engine for gradients has a thread for one device of a Python backend only
        with torch.autograd.set_multithreading_enabled(False):
            yield
    finally:
        torch._C._set_only_lift_cpu_tensors(before)


def _computed(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Computes an operation on the CPU, if CUDA would compute it."""
    given = [one for one in pytree.tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
    pretended = [one for one in given if isinstance(one, Pretended)]
    named = kwargs.get("device")
    if named is not None:
        on = torch.device(named)
    else:
        on = pretended[0].device if pretended else torch.device("cpu")
    is_here = on.type == DEVICE
    _require_one_device(func, args, kwargs, given, is_here)
    if _waits(func, args, kwargs, given, is_here):
        waits[_line()] += 1
    if named is not None and is_here:
        kwargs["device"] = "cpu"
    on_cpu: Any = pytree.tree_map_only(Pretended, lambda one: one.numbers, (args, kwargs))
    if func is aten._copy_from.default:  # PyTorch's name for a copy to or from another backend
        on_cpu[0][1].copy_(on_cpu[0][0])
        return args[1]
    if func is aten._fused_sdp_choice.default:
        return 0  # attention by its formula: the fused kernels are those of the CPU
    found = func(*on_cpu[0], **on_cpu[1])
    if torch.Tag.inplace_view in func.tags:  # squeeze_ and the like
        with torch._C._DisableTorchDispatch():
            func(*args, **kwargs)
    assert all(one.shape == one.numbers.shape for one in pretended), f"{func} changes a shape"
    # an operation in place returns the tensor that it was given
    same = {id(one.numbers): one for one in pretended}

    on = torch.device(on.type, on.index or 0)

    def here(one: Tensor) -> Tensor:
        return same[id(one)] if id(one) in same else Pretended(one, on)

    return pytree.tree_map_only(Tensor, here, found) if is_here else found


def _require_one_device(
    func: Any, args: Any, kwargs: Any, given: list[Tensor], is_here: bool
) -> None:
    """Raises RuntimeError if CUDA would: for tensors on two devices, or a generator of the CPU."""
    if is_here and kwargs.get("generator") is not None:
        raise RuntimeError(f"{func}: a generator of the CPU cannot draw on the device")
    places = {one.device for one in given}
    if func in COPIES or len(places) < 2:
        return
    here = next(one.device for one in given if isinstance(one, Pretended))
    others = [one for one in given if one.device != here]
    if func in INDEXING and isinstance(args[0], Pretended):
        on_cpu = {id(one) for one in args[1] if one is not None and one.device.type == "cpu"}
        others = [one for one in others if id(one) not in on_cpu]
    # a single number on the CPU may take part in what is computed number by number
    may = torch.Tag.pointwise in func.tags or func in INDEXING
    if any(one.ndim or one.device.type != "cpu" or not may for one in others):
        listed = ", ".join(f"{tuple(one.shape)} on {one.device}" for one in given)
        raise RuntimeError(f"{func}: all tensors must be on the same device, but got {listed}")


def _waits(func: Any, args: Any, kwargs: Any, given: list[Tensor], is_here: bool) -> bool:
    """Whether the CPU would wait until CUDA has computed all that came before."""
    if func is aten._local_scalar_dense.default:
        return True
    if func in COPIES:
        ends = [isinstance(one, Pretended) for one in args[:2]]
        from_here, to_here = (ends[0], is_here) if func is aten._to_copy.default else ends
        if func is aten.copy_.default:
            from_here, to_here = to_here, from_here
        # a copy to CUDA can be made not to wait, a copy from it has to wait in the end
        non_blocking = kwargs.get("non_blocking") or args[2:] == (True,)
        return from_here != to_here and not (to_here and non_blocking)
    if func in INDEXING:
        indices = [one for one in args[1] if one is not None]
        return any(one.dtype == torch.bool or not isinstance(one, Pretended) for one in indices)
    return func in SHAPED_BY_NUMBERS


def _line() -> str:
    """The innermost line of kedit among the callers."""
    frame = sys._getframe()
    while frame is not None and not frame.f_code.co_filename.startswith(OURS):
        frame = frame.f_back
    if frame is None:
        return "elsewhere"
    return f"{Path(frame.f_code.co_filename).relative_to(ROOT)}:{frame.f_lineno}"


def _register() -> None:
    """Adds the devices to this process for good."""

    class Devices(backend_registration._DummyBackendModule):
        def device_count(self) -> int:
            return N_DEVICES

    backend_registration._setup_privateuseone_for_python_backend(DEVICE, Devices())
    _libraries.append(torch.library.Library("_", "IMPL"))
    _libraries[-1].fallback(_computed, "PrivateUse1")
    for packet in (getattr(aten, name) for name in MAKING):
        for func in (getattr(packet, name) for name in packet.overloads() if "out" not in name):
            _libraries.append(torch.library.Library("aten", "IMPL"))
            _libraries[-1].impl(func, functools.partial(_computed, func), "PrivateUse1")


# at import, so before the first gradient: PyTorch's engine counts the devices when it starts
if IS_POSSIBLE:
    _register()
