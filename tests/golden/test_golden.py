"""Law 7: with the reference's weights, read through our TensorFlow reader, the reference's numbers.

Every weight of these networks is made from its checkpoint key, so a key that the reader maps to the wrong place shows.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import pytest
import torch

import movinet
from movinet.config import ModelConfig
from movinet.factory import build
from movinet.model import MoViNet
from movinet.registry import REGISTRY
from movinet.weights import read
from tests.golden import reference
from tests.shared import needs_shared
from tests.weights.bundle_writer import write_bundle

pytestmark = needs_shared

CLIPS = {"even": (1, 6, 64, 64, 3), "odd": (2, 7, 53, 75, 3)}
CASES = [(model, case) for model in reference.MODELS for case in CLIPS]
CAUSAL = [(model, case) for model, case in CASES if not model.endswith("base")]


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


def config_of(model: str) -> ModelConfig | None:
    """The first release's causal 3D networks have the tensors of base models, so that one has to be named."""
    legacy = model.endswith("legacy")
    return dataclasses.replace(REGISTRY["movinet_a0_base"].config, causal=True) if legacy else None


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Each golden model, by way of a checkpoint on disk."""

    @functools.cache
    def network(model: str) -> MoViNet:
        prefix = tmp_path_factory.mktemp(model) / "ckpt-1"
        table = reference.weights(f"models/{model}.keys.txt")
        write_bundle(prefix, {f"{key}/.ATTRIBUTES/VARIABLE_VALUE": array for key, array in table.items()})
        weights = read(prefix.parent, config=config_of(model))
        assert weights.name == (None if model.endswith("legacy") else model)
        return build(weights.config, weights.tensors).eval()

    return network


def golden(model: str) -> dict[str, np.ndarray]:
    return reference.arrays(f"models/{model}.npz")


def close(found: torch.Tensor, expected: np.ndarray, tolerance: float) -> None:
    worst = np.abs(found.numpy() - expected).max()
    assert worst <= tolerance, f"differs by {worst:.3g}, {worst / tolerance:.2f} of the tolerance"


@pytest.mark.parametrize(("model", "case"), CASES)
def test_clip(model: str, case: str, networks: Any) -> None:
    expected = golden(model)[f"{case}/logits"]
    close(networks(model)(reference.clip(case, CLIPS[case])), expected, reference.tolerance(expected))


@pytest.mark.parametrize("model", [model for model in reference.MODELS if model.endswith("base")])
def test_one_frame_of_a_base_model(model: str, networks: Any) -> None:
    cases = [case for case in CLIPS if f"{case}/one_frame_logits" in golden(model)]
    assert cases
    for case in cases:
        expected = golden(model)[f"{case}/one_frame_logits"]
        close(networks(model)(reference.clip(case, CLIPS[case])[:, :1]), expected, reference.tolerance(expected))


@pytest.mark.parametrize(("model", "case"), CAUSAL)
@pytest.mark.parametrize(("length", "key"), [(1, "frames"), (3, "chunks3")])
def test_stream(model: str, case: str, length: int, key: str, networks: Any) -> None:
    network, clip = networks(model), reference.clip(case, CLIPS[case])
    expected = golden(model)[f"{case}/{key}"]
    tolerance = reference.tolerance(expected)
    state = network.init_state(clip.shape[0], (clip.shape[3], clip.shape[4]))
    starts = range(0, clip.shape[1], length)
    assert len(starts) == len(expected)
    for start, logits in zip(starts, expected, strict=True):
        found, state = network.step(clip[:, start : start + length], state)
        close(found, logits, tolerance)
    if case == "odd":
        same_state(state, golden(model), network.config)


def same_state(state: movinet.State, file: Any, config: ModelConfig) -> None:
    """Every entry of the reference's final state, by its own name."""
    blocks = [(s, layer) for s, stage in enumerate(config.stages) for layer in range(len(stage))]
    compared = 0
    for key in file:
        if "/state/" not in key:
            continue
        expected, name = file[key], key.removeprefix("odd/state/state_")
        if name.endswith("frame_count"):
            assert state["frame_count"].tolist() == [int(expected[0])] * 2
            continue
        if name.startswith("head"):
            found = state["head.pool"][:, None, None, None]
        else:
            stage, layer, kind = name.split("_", 2)
            index = blocks.index((int(stage.removeprefix("block")), int(layer.removeprefix("layer"))))
            found = state[f"blocks.{index}.{'buffer' if kind == 'stream_buffer' else 'pool'}"]
            found = found.permute(0, 1, 3, 4, 2) if kind == "stream_buffer" else found[:, None, None, None]
        # A sum of seven frames carries seven times the rounding of one.
        close(found, expected, 2e-5 * max(1.0, float(np.abs(expected).max())))
        compared += 1
    assert compared == len(state) - 1


@pytest.mark.parametrize(("model", "case"), CASES)
def test_every_block_on_the_way(model: str, case: str, networks: Any) -> None:
    """Mean, deviation and 14 values of each block's output show where a difference starts."""
    network = networks(model)
    maps = network.forward_intermediates(reference.clip(case, CLIPS[case]))
    names = [
        "stem",
        *(f"block{s}_layer{i}" for s, stage in enumerate(network.config.stages) for i in range(len(stage))),
    ]
    ours = ["stem", *(f"blocks.{i}" for i in range(len(network.blocks)))]
    for name, our in zip(names, ours, strict=True):
        expected = golden(model)[f"{case}/endpoint/{name}"]
        flat = maps[our].permute(0, 1, 3, 4, 2).flatten().numpy()
        found = [flat.mean(dtype=np.float64), flat.std(dtype=np.float64), *flat[:: flat.size // 14][:14]]
        assert np.abs(found - expected).max() <= 2e-5 * max(1.0, np.abs(expected).max()), f"differs from {name} on"


# --- files that the reference wrote ---


@pytest.mark.parametrize(
    ("file", "name", "kind"),
    [
        ("movinet_a0_base", "movinet_a0_base", "tensorflow checkpoint"),
        ("movinet_a0_stream", "movinet_a0_stream", "tensorflow checkpoint"),
        ("trainer_t0_stream_10_classes", "movinet_t0_stream", "trainer checkpoint"),
        ("saved_model_t0_stream_10_classes", "movinet_t0_stream", "SavedModel"),
    ],
)
def test_real_archives(file: str, name: str, kind: str) -> None:
    model = movinet.create_model(pretrained=reference.GOLDEN / "files" / f"{file}.tar.gz")
    assert isinstance(model, MoViNet)
    assert model.name == name
    assert model.provenance["kind"] == kind
    assert model.config.gate == ("sigmoid" if name.endswith("base") else "relu6")
    if file == name:
        expected = golden(name)["even/logits"]
    else:
        expected = np.load(reference.GOLDEN / "files" / f"{file.removeprefix('saved_model_')}.logits.npy")
    close(model(reference.clip("even", CLIPS["even"])), expected, reference.tolerance(expected))


# --- negative controls: what the tolerance must see ---


def _logits(model: MoViNet, **changes: Any) -> torch.Tensor:
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    return build(dataclasses.replace(model.config, **changes), tensors).eval()(reference.clip("even", CLIPS["even"]))


@pytest.mark.parametrize("changes", [{"gate": "keras"}, {"hidden_activation": "hard_swish"}, {"activation": "swish"}])
def test_the_wrong_function_is_seen(changes: dict[str, str], networks: Any) -> None:
    expected = golden("movinet_a0_stream")["even/logits"]
    with pytest.raises(AssertionError, match="differs"):
        close(_logits(networks("movinet_a0_stream"), **changes), expected, reference.tolerance(expected))


def test_a_sixth_in_place_of_five_digits_is_seen(networks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from movinet.model.layers import GATES

    monkeypatch.setitem(GATES, "relu6", lambda x: torch.nn.functional.relu6(x + 3) / 6)
    expected = golden("movinet_a3_stream")["even/logits"]
    with pytest.raises(AssertionError, match="differs"):
        close(_logits(networks("movinet_a3_stream")), expected, reference.tolerance(expected))


def test_interleaved_positions_are_seen(networks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from movinet.model import layers

    ordered = layers.positional_encoding

    def interleaved(frames: torch.Tensor, channels: int) -> torch.Tensor:
        code = ordered(frames, channels)
        half = (channels + 1) // 2
        out = torch.empty_like(code)
        out[..., 0::2], out[..., 1::2] = code[..., :half], code[..., half:]
        return out

    monkeypatch.setattr(layers, "positional_encoding", interleaved)
    expected = golden("movinet_a3_stream")["even/logits"]
    with pytest.raises(AssertionError, match="differs"):
        close(_logits(networks("movinet_a3_stream")), expected, reference.tolerance(expected))
