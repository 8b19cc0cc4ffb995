"""The reference's first training step: logits under batch statistics, losses, every gradient, every moving average."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from movinet.factory import build
from movinet.model import layers
from movinet.model.layers import BatchNorm
from movinet.weights import read
from tests.golden import reference
from tests.shared import needs_shared
from tests.weights.bundle_writer import official, spelled, write_bundle

pytestmark = needs_shared

STEPS = [("train_a0_base", "movinet_a0_base", "base"), ("train_t0_stream", "movinet_t0_stream", "training")]


@pytest.fixture(scope="module", params=STEPS, ids=lambda step: step[0])
def step(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return take_step(*request.param, tmp_path_factory.mktemp("step"))


def take_step(file: str, name: str, form: str, folder: Path) -> Any:
    """The network after one backward pass, its losses, and the file to compare with."""
    prefix = folder / "ckpt-1"
    table = reference.weights(f"{file}.keys.txt")
    write_bundle(prefix, {f"{key}/.ATTRIBUTES/VARIABLE_VALUE": array for key, array in table.items()})
    weights = read(prefix)
    assert weights.name == name
    model = build(dataclasses.replace(weights.config, dropout=0.0, stochastic_depth=0.0), weights.tensors).train()
    logits = model(reference.clip("train", (4, 6, 48, 48, 3)))
    golden = reference.arrays(f"{file}.npz")
    labels = torch.from_numpy(golden["labels"]).long()
    entropy = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    kernels = [parameter for name, parameter in model.named_parameters() if model.is_decayed(name)]
    decay = 1.5e-5 * sum(kernel.square().sum() for kernel in kernels)
    (entropy + decay).backward()
    return model, form, golden, logits.detach(), entropy.item(), decay.item()


def test_logits_and_losses(step: Any) -> None:
    _, _, golden, logits, entropy, decay = step
    expected = golden["step1/logits"]
    assert np.abs(logits.numpy() - expected).max() <= reference.tolerance(expected)
    assert entropy == pytest.approx(float(golden["step1/cross_entropy"]), rel=1e-5)
    assert decay == pytest.approx(float(golden["step1/weight_decay"]), rel=1e-5)


def test_gradients(step: Any) -> None:
    model, form, golden, *_ = step
    largest = max(float(p.grad.abs().max()) for p in model.parameters())
    seen = set()
    for name, parameter in model.named_parameters():
        key = f"gradient/{spelled(name, model.config, form)}"
        found = official(name, parameter.grad.numpy(), form).ravel()
        stored = [k for k in golden if k == key or k.startswith(f"{key}#")]
        assert stored, f"the reference has no gradient of {key}"
        seen.update(stored)
        for entry in stored:
            expected = golden[entry].ravel()
            if entry.endswith("#norm"):
                values = np.array([np.linalg.norm(found.astype(np.float64))])
            elif match := re.search(r"#every(\d+)$", entry):
                values = found[:: int(match[1])]
            else:
                values = found
            if name.endswith(("project.norm.bias", "skip.norm.bias")) and np.abs(expected).max() < 2e-6 * largest:
                # Zero in exact arithmetic where a norm follows: both sides hold nothing but rounding noise.
                assert np.abs(values).max() < 2e-6 * largest, f"the gradient of {name} is not zero"
                continue
            allowed = 1e-4 * np.abs(expected).max() + 1e-6 * largest
            assert np.abs(values - expected).max() <= allowed, f"the gradient of {name} differs"
    assert seen == {k for k in golden if k.startswith("gradient/")}


def test_moving_averages(step: Any) -> None:
    model, form, golden, *_ = step
    compared = 0
    for name, buffer in model.named_buffers():
        expected = golden[f"after1/{spelled(name, model.config, form)}"]
        assert np.abs(buffer.numpy() - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max()), name
        compared += 1
    assert compared == sum("moving_" in k for k in golden if k.startswith("after1/"))


def test_the_decayed_variables(step: Any) -> None:
    model, form, golden, *_ = step
    ours = {spelled(n, model.config, form) for n, _ in model.named_parameters() if model.is_decayed(n)}
    assert ours == set(golden["decayed_keys"].tolist())


class Biased(BatchNorm):
    """Moves its variance without Bessel's correction."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, variance = x.detach().mean((0, 2, 3)), x.detach().var((0, 2, 3), correction=0)
        self.running_mean.lerp_(mean, 0.01)
        self.running_var.lerp_(variance, 0.01)
        return torch.nn.functional.batch_norm(x, None, None, self.weight, self.bias, True, 0.01, self.eps)


def test_a_missing_correction_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(layers, "BatchNorm", Biased)
    with torch.enable_grad():
        step = take_step(*STEPS[0], tmp_path)
    test_gradients(step)  # it changes nothing but the moving variance
    with pytest.raises(AssertionError, match="running_var"):
        test_moving_averages(step)
