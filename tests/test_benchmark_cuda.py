"""The benchmark of CUDA runs from end to end, with the CPU in the device's place."""

import json

import pytest
import torch

from benchmarks import cuda


@pytest.mark.slow
def test_it_compares_the_toy_with_itself(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    monkeypatch.setenv("KEDIT_CACHE", str(tmp_path))
    cuda.main(["--quick", "--device", "cpu", "--model", "toy"])
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"gpu_trace", "gpu_rome", "gpu_score", "hooked", "batched"} <= figures.keys()
    assert all(value > 0 for value in figures.values())


@pytest.mark.skipif(torch.cuda.is_available(), reason="it would run")
def test_without_cuda_it_says_so() -> None:
    with pytest.raises(SystemExit, match="sees no CUDA device") as ended:
        cuda.main([])
    assert ended.value.code  # text, so that the process ends with an error
