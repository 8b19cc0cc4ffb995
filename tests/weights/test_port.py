"""The port's state dicts: its own logits reproduced, and everything else refused with the key at fault."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import pickle
import random
import re
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from movinet.config import ModelConfig, family_config
from movinet.errors import WeightsError
from movinet.model import MoViNet
from movinet.weights import port
from movinet.weights.names import parameter_shapes
from tests.shared import SHARED, needs_shared

StateDict = dict[str, torch.Tensor]

FRONTS = {"stem": "conv1", "head.project": "conv7", "classifier.hidden": "classifier.0"}
FRONTS |= {"classifier.output": "classifier.3"}
PARTS = {"expand": "expand.conv_1", "depthwise": "deep.conv_1", "temporal": "deep.conv_2", "project": "project.conv_1"}
PARTS |= {"se.reduce": "se.fc1.conv_1", "se.expand": "se.fc2.conv_1"}


def port_key(name: str, config: ModelConfig) -> str:
    """The port's name of one of our tensors, written down from its key tables (the reverse of what the reader does)."""
    kind = "conv2d" if config.causal else "conv3d"
    front, part, leaf = "", *name.rsplit(".", 1)
    places = [(s, l, block) for s, stage in enumerate(config.stages) for l, block in enumerate(stage)]  # noqa: E741
    if match := re.fullmatch(r"blocks\.(\d+)\.?(.*)", part):
        stage, layer, block = places[int(match[1])]
        front, part = f"blocks.b{stage}_l{layer}.", match[2]
        if leaf == "scale":
            return f"{front}alpha"
    middle = "norm" if part.endswith(".norm") else kind
    part = part.removesuffix(".norm").removesuffix(".conv")
    if part == "skip":
        return f"{front}res.{int(block.stride == 2)}.conv_1.{middle}.{leaf}"
    return f"{front}{PARTS[part] if front else FRONTS[part] + '.conv_1'}.{middle}.{leaf}"


def state_dict(config: ModelConfig, seed: int = 0) -> tuple[StateDict, dict[str, torch.Tensor]]:
    """Random weights twice: as the port would hold them, and under our names."""
    generator = torch.Generator().manual_seed(seed)
    theirs, ours = {}, {}
    for name, shape in parameter_shapes(config).items():
        ours[name] = tensor = torch.rand(shape, generator=generator)
        if name.endswith(".weight") and (".se." in name or name.startswith("classifier")):
            tensor = tensor.reshape(*shape, *(1,) * (2 if config.causal else 3))
        elif name.endswith(".temporal.conv.weight"):
            tensor = tensor[..., None]
        elif len(shape) == 4 and not config.causal:
            tensor = tensor[:, :, None]
        key = port_key(name, config)
        theirs[key] = tensor.clone()
        if key.endswith("running_var"):
            theirs[key.replace("running_var", "num_batches_tracked")] = torch.tensor(7)
    return theirs, ours


CONFIG = dataclasses.replace(family_config("a0", "stream"), num_classes=4)


@pytest.fixture
def theirs() -> StateDict:
    return state_dict(CONFIG)[0]


def save(path: Path, data: Any, zipped: bool = True) -> Path:
    torch.save(data, path, _use_new_zipfile_serialization=zipped)
    return path


def golden() -> ModuleType:
    spec = importlib.util.spec_from_file_location("deterministic", SHARED / "golden" / "deterministic.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- the right numbers ---


@needs_shared
@pytest.mark.parametrize("name", ["movinet_a0_base", "movinet_a0_stream", "movinet_a2_base", "movinet_a2_stream"])
def test_the_ports_own_logits(name: str, tmp_path: Path) -> None:
    det = golden()
    weights = {}
    for line in (SHARED / "golden" / "port" / f"{name}_10_classes.keys.txt").read_text().splitlines():
        key, shape, _ = line.split()
        extents = () if shape == "scalar" else tuple(map(int, shape.split(",")))
        weights[key] = torch.tensor(det.port_weight(key, extents))
    found = port.read(save(tmp_path / "port.pth", weights))
    assert found.name == name
    assert found.config.num_classes == 10
    expected = np.load(SHARED / "golden" / "port" / f"{name}_10_classes.logits.npy")
    clip = torch.from_numpy(det.video("port", (1, 6, 64, 64, 3))).permute(0, 1, 4, 2, 3)

    def logits(config: ModelConfig) -> np.ndarray:
        model = MoViNet(config).eval()
        model.load_state_dict({key: torch.from_numpy(array) for key, array in found.tensors.items()})
        with torch.inference_mode():
            return model(clip).numpy()

    tolerance = 2e-5 * max(1.0, float(expected.std()))
    assert np.abs(logits(found.config) - expected).max() < tolerance
    if name.startswith("movinet_a2"):
        return
    # The other gates, and hard_swish in the classifier, are not what the port computes.
    for change in ({"gate": "relu6"}, {"gate": "sigmoid" if found.config.causal else "keras"}):
        assert np.abs(logits(dataclasses.replace(found.config, **change)) - expected).max() > 100 * tolerance
    other = dataclasses.replace(found.config, hidden_activation="hard_swish")
    assert np.abs(logits(other) - expected).max() > 100 * tolerance


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(("variant", "form"), [("a0", "base"), ("a1", "stream"), ("a3", "base")])
def test_every_tensor_arrives_in_its_place(variant: str, form: Any, zipped: bool, tmp_path: Path) -> None:
    config = dataclasses.replace(family_config(variant, form), num_classes=3)
    theirs, ours = state_dict(config)
    found = port.read(save(tmp_path / "port.pth", theirs, zipped))
    assert found.name == f"movinet_{variant}_{form}"
    assert found.config == (dataclasses.replace(config, gate="keras") if config.causal else config)
    assert found.provenance["gate"] == found.config.gate
    assert found.provenance["gate_source"] == "the port's own code"
    assert set(found.tensors) == set(ours)
    for name, tensor in ours.items():
        assert found.tensors[name].dtype == np.float32
        assert found.tensors[name].shape == tuple(tensor.shape)
        assert np.array_equal(found.tensors[name], tensor.numpy()), name


def test_order_of_entries_prefix_wrapper_and_width_do_not_matter(theirs: StateDict, tmp_path: Path) -> None:
    expected = port.read(save(tmp_path / "plain.pth", theirs)).tensors
    keys = list(theirs)
    random.Random(1).shuffle(keys)
    shuffled = {f"module.{key}": torch.nn.Parameter(theirs[key], False) for key in keys}
    wrapped = {"epoch": 3, "state_dict": {key: t.double() if t.dim() else t for key, t in shuffled.items()}}
    found = port.read(save(tmp_path / "wrapped.pth", wrapped)).tensors
    assert set(found) == set(expected)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    (tmp_path / "wrapped.pth").unlink()  # nothing of the file is still in use


def test_a_given_configuration_is_taken_and_checked(theirs: StateDict, tmp_path: Path) -> None:
    path = save(tmp_path / "port.pth", theirs)
    found = port.read(path, config=CONFIG)
    assert found.config == CONFIG
    assert found.config.gate == "relu6"
    assert found.provenance["gate_source"] == "the caller's configuration"
    with pytest.raises(WeightsError, match=r"port\.pth: classifier\.output\.weight is 4x2048"):
        port.read(path, config=dataclasses.replace(CONFIG, num_classes=5))


# --- state dicts that do not fit ---


@pytest.mark.parametrize(
    "key",
    [
        "conv1.conv_1.norm.running_var",
        "blocks.b0_l0.alpha",
        "blocks.b1_l2.deep.conv_2.norm.bias",
        "blocks.b2_l0.res.1.conv_1.norm.weight",
        "blocks.b3_l1.se.fc2.conv_1.conv2d.bias",
        "classifier.3.conv_1.conv2d.weight",
    ],
)
def test_a_missing_key_is_named(key: str, theirs: StateDict, tmp_path: Path) -> None:
    del theirs[key]
    with pytest.raises(WeightsError, match=rf"port\.pth lacks {re.escape(key)};"):
        port.read(save(tmp_path / "port.pth", theirs))


def test_a_missing_block_is_named(theirs: StateDict, tmp_path: Path) -> None:
    gap = {key: t for key, t in theirs.items() if ".b2_l1." not in key}
    with pytest.raises(WeightsError, match=r"lacks blocks\.b2_l1"):
        port.read(save(tmp_path / "port.pth", gap))
    with pytest.raises(WeightsError, match=r"lacks blocks\.b0_l0"):
        port.read(save(tmp_path / "port.pth", {key: t for key, t in theirs.items() if ".b0_l0." not in key}))
    end = {key: t for key, t in theirs.items() if ".b4_l3." not in key}
    with pytest.raises(WeightsError, match=r"lacks the tensor blocks\.14\."):
        port.read(save(tmp_path / "port.pth", end))
    whole = {key: t for key, t in theirs.items() if ".b1_l1.deep.conv_2." not in key}
    with pytest.raises(WeightsError, match=r"lacks the tensor blocks\.2\.temporal\.conv\.weight"):
        port.read(save(tmp_path / "port.pth", whole))


@pytest.mark.parametrize(
    ("key", "shape", "message"),
    [
        ("surplus", (3,), "holds surplus, which is no name of the port"),
        ("blocks.b1_l1.extra.conv_1.conv2d.weight", (3,), r"holds blocks\.b1_l1\.extra"),
        ("blocks.b1_l1.expand.conv_1.conv2d.bias", (80,), r"holds blocks\.b1_l1\.expand\.conv_1\.conv2d\.bias"),
        ("blocks.b1_l1.expand.conv_1.norm.extra", (80,), r"holds blocks\.b1_l1\.expand\.conv_1\.norm\.extra"),
        ("blocks.b01_l1.alpha", (), "are both blocks.2.scale"),
        ("blocks.b9999_l0.alpha", (), "holds blocks.b9999_l0.alpha"),
        ("blocks.b1_l1.project.conv_1.conv2d.weight", (32, 81, 1, 1), r"blocks\.2\.project\.conv\.weight is 32x81x1x1"),
        ("blocks.b1_l1.se.fc1.conv_1.conv2d.weight", (40, 160, 1, 2), "fc1.conv_1.conv2d.weight is 40x160x1x2"),
        ("blocks.b1_l1.deep.conv_2.conv2d.weight", (80, 1, 3, 3), "deep.conv_2.conv2d.weight is 80x1x3x3"),
        ("blocks.b1_l1.alpha", (1,), r"blocks\.2\.scale is 1 where this model has a scalar"),
    ],
)
def test_what_does_not_belong_is_named(
    key: str, shape: tuple[int, ...], message: str, theirs: StateDict, tmp_path: Path
) -> None:
    theirs[key] = torch.ones(shape)
    with pytest.raises(WeightsError, match=message):
        port.read(save(tmp_path / "port.pth", theirs))


def test_values_that_are_no_weights(theirs: StateDict, tmp_path: Path) -> None:
    key = "blocks.b1_l1.alpha"
    for value, message in [
        (torch.tensor(float("nan")), "not finite"),
        (torch.tensor(1e300, dtype=torch.float64), "not finite"),
        (torch.tensor(3), "b1_l1.alpha holds int64, not floats"),
        (torch.tensor(1j), "b1_l1.alpha holds complex64, not floats"),
        (torch.ones(3).to_sparse(), "not a plain dense tensor"),
        (torch.empty(3, device="meta"), "not a plain dense tensor|truncated"),
        (3.0, "is a float, not a named tensor"),
        ({"deeper": torch.zeros(1)}, "is a dict, not a named tensor"),
    ]:
        with pytest.raises(WeightsError, match=message):
            port.read(save(tmp_path / "port.pth", {**theirs, key: value}))
    with pytest.raises(WeightsError, match="negative variance"):
        port.read(save(tmp_path / "port.pth", {**theirs, "conv1.conv_1.norm.running_var": -torch.ones(8)}))


@pytest.mark.parametrize("data", [[1, 2], torch.zeros(3), {}, {1: torch.zeros(2)}, {"state_dict": {}}, 5, None])
def test_no_state_dict_at_all(data: Any, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"port\.pth"):
        port.read(save(tmp_path / "port.pth", data))
    with pytest.raises(WeightsError, match=r"port\.pth"):
        port.read(save(tmp_path / "port.pth", data, zipped=False))


# --- hostile and damaged files ---


class Trap:
    """Pickles into a call that leaves a mark when it is executed."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_pickle_is_not_executed(zipped: bool, theirs: StateDict, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    path = save(tmp_path / "evil.pth", {**theirs, "x": Trap(mark)}, zipped)
    torch.load(path, weights_only=False)
    assert mark.exists()  # the trap works
    mark.unlink()
    with pytest.raises(WeightsError, match=r"evil\.pth .*never loaded"):
        port.read(path)
    path.write_bytes(pickle.dumps(Trap(mark)))
    with pytest.raises(WeightsError, match=r"evil\.pth"):
        port.read(path)
    assert not mark.exists()


def rezip(path: Path, change: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in records.items():
            archive.writestr(name, next((new for end, new in change.items() if name.endswith(end)), content))


def test_zip_bombs_and_false_sizes(theirs: StateDict, tmp_path: Path) -> None:
    path = save(tmp_path / "port.pth", theirs)
    rezip(path, {})
    port.read(path)  # a rewritten archive is as good
    rezip(path, {"/data/0": b"\0" * 100_000_000}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 20_000_000
    with pytest.raises(WeightsError, match="compressed records"):
        port.read(path)
    # A record shorter than the pickle says, a directory that claims more than there is, much made out of little.
    save(path, theirs)
    rezip(path, {"/data/0": b"\0\0\0\0"})
    with pytest.raises(WeightsError, match="claims"):
        port.read(path)
    save(path, theirs)
    content = path.read_bytes()
    entry = content.index(b"PK\x01\x02")
    path.write_bytes(content[: entry + 24] + b"\xf0\xff\xff\x7f" + content[entry + 28 :])
    with pytest.raises(WeightsError, match="declares"):
        port.read(path)
    save(path, {**theirs, "conv1.conv_1.conv2d.weight": torch.zeros(1).expand(1 << 40)})
    with pytest.raises(WeightsError, match="claims"):
        port.read(path)
    (tmp_path / "large.pth").touch()
    with (tmp_path / "large.pth").open("r+b") as file:
        file.truncate(port.MAX_BYTES + 1)
    with pytest.raises(WeightsError, match="more than any MoViNet"):
        port.read(tmp_path / "large.pth")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_truncated_and_mutated_files(zipped: bool, theirs: StateDict, tmp_path: Path) -> None:
    path = save(tmp_path / "port.pth", theirs, zipped)
    expected = port.read(path).tensors
    content = path.read_bytes()
    rng = random.Random(7)
    for length in (0, 1, 4, 100, len(content) // 2, len(content) - 1000, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(WeightsError, match=r"port\.pth"):
            port.read(path)
    refused = 0
    for _ in range(40):
        mutated = bytearray(content)
        # Half of the hits in the pickles at the start, where they hurt.
        place = rng.randrange(min(len(content), 60_000)) if rng.random() < 0.5 else rng.randrange(len(content))
        mutated[place] ^= 1 << rng.randrange(8)
        path.write_bytes(mutated)
        try:
            found = port.read(path).tensors
        except WeightsError:
            refused += 1
            continue
        if zipped:  # its records have checksums; the legacy format has none
            assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert refused > (20 if zipped else 3)


def test_no_file_and_no_torch_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"absent\.pth cannot be read: No such file"):
        port.read(tmp_path / "absent.pth")
    with pytest.raises(WeightsError, match="cannot be read"):
        port.read(tmp_path)
    page = tmp_path / "page.pth"
    page.write_text("<html>not found</html>")
    with pytest.raises(WeightsError, match=r"page\.pth"):
        port.read(page)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("readme.txt", "hello")
    page.write_bytes(buffer.getvalue())
    with pytest.raises(WeightsError, match=r"page\.pth"):
        port.read(page)
