"""Checks that kedit can compute on a device and in a floating-point type."""

import re

from kedit.errors import ModelUnavailable


def require_device(device: str, dtype: str = "float32") -> None:
    """Checks that kedit computes on `device` in `dtype`; torch is imported only if CUDA matters.

    Args:
        device: "auto" (CUDA if there is any), "cpu", "cuda", "cuda:1" ..., or several CUDA devices,
            such as "cuda:0,cuda:1".
        dtype: "float32", "float64", and on CUDA also "bfloat16" or "float16".

    Raises:
        ModelUnavailable: kedit does not support the device, the device is missing, or it does not
            support the type.
    """
    numbers = [int(number) for number in re.findall(r":(\d+)", device)]
    if not re.fullmatch(r"auto|cpu|cuda|cuda:\d+(,cuda:\d+)*", device):
        kind = device.partition(":")[0]
        if kind in (
            "mps",
            "xpu",
            "meta",
            "hpu",
            "npu",
            "xla",
            "mtia",
            "ipu",
            "vulkan",
            "privateuseone",
        ):
            # MPS: TransformerLens warns of wrong results there (its issue 1178); XPU: never tried
            raise ModelUnavailable(
                f"--device {device}: kedit computes on cpu and cuda only; its results were never "
                f"verified on {kind}, where PyTorch can be wrong without an error: use --device cpu"
            )
        raise ModelUnavailable(
            f"--device {device}: must be auto, cpu, cuda or cuda:1, or several CUDA devices as in "
            "cuda:0,cuda:1"
        )
    if len(set(numbers)) < len(numbers):
        raise ModelUnavailable(
            f"--device {device}: names a device twice, but a model is divided among different ones"
        )
    half = dtype in ("bfloat16", "float16")
    if device == "cpu" and half:
        raise ModelUnavailable(f"--dtype {dtype}: on a CPU kedit computes in float32")
    if device != "cpu" and (half or device != "auto"):
        n = n_cuda()
        if device == "auto" and not n:
            raise ModelUnavailable(
                f"--dtype {dtype}: on a CPU kedit computes in float32, and torch sees no CUDA "
                "device here"
            )
        if device != "auto" and max(numbers, default=0) >= n:
            raise ModelUnavailable(
                f"--device {device}: torch sees {n or 'no'} CUDA device{'s' * (n > 1)} here"
            )


def n_cuda() -> int:
    """Returns the number of CUDA devices that torch sees."""
    import torch  # here, because the import takes seconds and is not needed for the CPU

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
