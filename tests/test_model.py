"""The network beyond the laws: features, heads, initialisation, training mode, bad input."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from movinet.config import family_config
from movinet.errors import UsageError
from movinet.model import Ensemble, MoViNet, TemporalEnsemble
from movinet.model.layers import GATES, BatchNorm, pad_same, positional_encoding
from movinet.registry import list_models
from movinet.weights.names import parameter_shapes
from tests.models import LEGACY, STREAMING, config_of, small_clip, small_copy, small_model

ALL = [*list_models("*_base"), *STREAMING]
SINGLE = [name for name in ALL if name != "movinet_a6_base"]


@pytest.mark.parametrize("name", SINGLE)
def test_tensors_are_the_declared_ones(name: str) -> None:
    with torch.device("meta"):
        model = MoViNet(config_of(name))
    assert {n: tuple(t.shape) for n, t in model.state_dict().items()} == parameter_shapes(model.config)


@pytest.mark.parametrize("name", ALL)
def test_features_lead_to_the_logits(name: str) -> None:
    model, clip = small_model(name), small_clip(2, 3)
    if isinstance(model, Ensemble):
        logits = torch.stack([m(clip) for m in model.members]).mean(0)
        assert torch.allclose(model([clip, clip]), logits)
        return
    maps = model.forward_intermediates(clip)
    stages = len(model.config.stages)
    assert next(iter(maps)) == "stem"
    assert [n for n in maps if n.startswith("stages")] == [f"stages.{i}" for i in range(stages)]
    assert maps["stem"].shape == (2, 3, model.config.stem, 10, 13)
    assert maps[f"stages.{stages - 1}"].shape == (2, 3, model.config.blocks[-1].out, 1, 1)
    features = model.forward_features(clip)
    assert torch.equal(features, maps["head"])
    assert torch.allclose(model.classifier(features.mean((1, 3, 4))), model(clip))


def test_features_of_a_stream_go_on_like_its_logits() -> None:
    model, clip = small_copy("movinet_a0_stream"), small_clip(2, 4)
    whole = model.forward_intermediates(clip)
    state = model.init_state(2, (19, 26))
    for frame in range(4):
        maps, state = model.step_intermediates(clip[:, frame : frame + 1], state)
        for name, map_ in maps.items():
            assert torch.allclose(map_[:, 0], whole[name][:, frame]), name
    _, expected = model.step(clip, model.init_state(2, (19, 26)))
    assert all(torch.allclose(state[name], expected[name]) for name in expected)


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("form", ["base", "stream"])
def test_any_number_of_input_channels(channels: int, form: Any) -> None:
    model = MoViNet(dataclasses.replace(family_config("t0", form), in_channels=channels, num_classes=3)).eval()
    assert model(torch.rand(1, 2, channels, 17, 40)).shape == (1, 3)


def test_uint8_is_float_over_255() -> None:
    model = small_model("movinet_a0_stream")
    clip = (small_clip() * 255).to(torch.uint8)
    assert torch.equal(model(clip), model(clip.double() / 255))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_pools_wide(dtype: torch.dtype) -> None:
    model, clip = small_copy("movinet_a3_stream").to(dtype), small_clip(1, 3)
    logits, state = model.step(clip, model.init_state(1, (19, 26)))
    assert logits.dtype == dtype
    assert {str(a.dtype) for n, a in state.items() if n.endswith("pool")} == {"torch.float32"}
    assert state["blocks.4.buffer"].dtype == dtype
    assert state["frame_count"].dtype == torch.int64
    exact = small_model("movinet_a3_stream")(clip)
    assert (logits - exact).abs().max() < 0.1 * exact.abs().max()


def test_a_fresh_head() -> None:
    model = small_copy("movinet_t0_stream")
    before = model.forward_features(small_clip())
    model.labels = ("a", "b", "c", "d", "e")
    model.reset_classifier(7)
    assert model(small_clip()).shape == (2, 7)
    assert model.config.num_classes == 7
    assert model.labels is None
    assert torch.equal(model.forward_features(small_clip()), before)
    with pytest.raises(UsageError, match="num_classes is 0"):
        model.reset_classifier(0)


# --- bad input ---


@pytest.mark.parametrize(
    "clip",
    [
        torch.rand(2, 3, 19, 26),
        torch.rand(1, 2, 19, 26, 3),
        torch.rand(1, 0, 3, 19, 26),
        torch.rand(1, 2, 3, 19, 26).to(torch.int64),
    ],
)
def test_a_wrong_clip_is_refused(clip: torch.Tensor) -> None:
    with pytest.raises(UsageError, match="a clip must be"):
        small_model("movinet_t0_base")(clip)


def test_a_wrong_state_is_refused() -> None:
    model, frame = small_model("movinet_t0_stream"), small_clip(2, 1)
    assert isinstance(model, MoViNet)
    good = model.init_state(2, (19, 26))
    wrong = [
        (model.init_state(1, (19, 26)), "batch, height and width"),
        (model.init_state(2, (64, 26)), "batch, height and width"),
        ({n: a for n, a in good.items() if n != "head.pool"}, "lacks head.pool"),
        ({**good, "extra": frame}, "extra"),
    ]
    for state, message in wrong:
        with pytest.raises(UsageError, match=message):
            model.step(frame, state)
    with pytest.raises(UsageError, match="batch_size is 0"):
        model.init_state(0, (19, 26))
    with pytest.raises(UsageError, match="not positive"):
        model.init_state(1, (0, 26))


def test_2plus1d_must_be_causal() -> None:
    with pytest.raises(UsageError, match="set causal=True"):
        MoViNet(dataclasses.replace(family_config("t0", "stream"), causal=False))


def test_ensembles_refuse_what_they_cannot_share_out() -> None:
    t0, a0 = small_model("movinet_t0_stream"), small_model("movinet_a0_stream")
    other = small_copy("movinet_t0_stream", num_classes=3)
    clip = small_clip()
    with pytest.raises(UsageError, match="share their classes"):
        Ensemble([t0, other])  # type: ignore[list-item]
    with pytest.raises(UsageError, match="1 clips for an ensemble of 2"):
        Ensemble([t0, a0])([clip])  # type: ignore[list-item]
    with pytest.raises(UsageError, match="two members"):
        TemporalEnsemble([t0])  # type: ignore[list-item]
    with pytest.raises(UsageError, match="one clip"):
        TemporalEnsemble([t0, a0])([clip, clip])  # type: ignore[list-item]


def test_an_ensemble_steps_members_at_their_own_times_and_sizes() -> None:
    first, second = small_copy("movinet_t0_stream"), small_copy("movinet_a0_stream")
    both = Ensemble([first, second])
    small, large = small_clip(1, 4), small_clip(1, 2, (33, 40))
    state = both.init_state(1, [(19, 26), (33, 40)])
    logits, state = both.step([small[:, :1], None], state)
    assert torch.allclose(logits, first(small[:, :1]))
    for frame in range(1, 4):
        logits, state = both.step(
            [small[:, frame : frame + 1], large[:, frame // 2 :][:, :1] if frame % 2 else None], state
        )
    assert torch.allclose(logits, (first(small) + second(large)) / 2)


# --- the parts ---


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8, 11])
def test_same_padding(size: int, kernel: int, stride: int) -> None:
    padded, own = pad_same(torch.ones(1, 1, size, size + 1), kernel, stride)
    out = nn.functional.conv2d(padded, torch.ones(1, 1, kernel, kernel), stride=stride, padding=own)
    assert out.shape[-2:] == (math.ceil(size / stride), math.ceil((size + 1) / stride))
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    rows_seen_first = sum(1 for row in range(kernel) if 0 <= row - total // 2 < size)
    assert out[0, 0, 0].max() / min(kernel, size + 1) <= rows_seen_first


def test_the_two_gates() -> None:
    x = torch.tensor([-4.0, 0.0, 1.0, 4.0])
    assert GATES["relu6"](x).tolist() == pytest.approx([0.0, 0.50001, 0.66668, 1.00002])
    assert GATES["keras"](x).tolist() == pytest.approx([0.0, 0.5, 0.7, 1.0])


def test_positional_encoding_is_sines_then_cosines() -> None:
    code = positional_encoding(torch.tensor([[0.0, 3.0]], dtype=torch.float64), 6)
    assert code[0, 0].tolist() == [0, 0, 0, 1, 1, 1]
    rates = [10000 ** (-2 * (i // 2) / 6) for i in range(6)]
    expected = [math.sin(3 * rates[i]) for i in (0, 2, 4)] + [math.cos(3 * rates[i]) for i in (1, 3, 5)]
    assert code[0, 1].tolist() == pytest.approx(expected)


# --- training starts where the reference starts ---


def test_initialisation() -> None:
    torch.manual_seed(0)
    model = MoViNet(family_config("a3", "stream"))
    for name, module in model.named_modules():
        if isinstance(module, BatchNorm):
            assert (module.eps, module.momentum) == (1e-3, 0.01)
            assert torch.all(module.weight == 1), name
            assert torch.all(module.bias == 0), name
            assert torch.all(module.running_mean == 0), name
            assert torch.all(module.running_var == 1), name
        if isinstance(module, nn.Linear):
            assert torch.all(module.bias == 0), name
    for name, parameter in model.named_parameters():
        if name.endswith("scale"):
            assert parameter.item() == 0, name
    fan_ins = {
        "stem.conv.weight": 27,
        "blocks.4.temporal.conv.weight": 3,
        "blocks.0.depthwise.conv.weight": 25,
        "blocks.20.expand.conv.weight": 88,
        "blocks.20.se.reduce.weight": 2 * 264,
        "classifier.hidden.weight": 744,
    }
    for name, fan_in in fan_ins.items():
        weight = model.get_parameter(name)
        std = math.sqrt(2 / fan_in)
        assert weight.std().item() == pytest.approx(std, rel=4 / math.sqrt(weight.numel()) + 0.01), name
        assert weight.abs().max() <= 2 * std / 0.8796 + 1e-6, name
    assert model.classifier.output.weight.std().item() == pytest.approx(0.01, rel=0.01)


def test_dropout_and_stochastic_depth_rates() -> None:
    rates = {n: config_of(n).dropout for n in list_models("*_stream")}
    assert rates["movinet_a0_stream"] == rates["movinet_a1_stream"] == rates["movinet_t0_stream"] == 0.2
    assert rates["movinet_a3_stream"] == rates["movinet_a5_stream"] == 0.5
    with torch.device("meta"):
        model = MoViNet(family_config("a0", "base"))
    count = len(model.blocks)
    assert [block.drop_rate for block in model.blocks] == pytest.approx([0.2 * (i + 1) / count for i in range(count)])
    assert model.classifier.dropout.p == 0.2


def test_stochastic_depth_drops_whole_samples() -> None:
    torch.manual_seed(0)
    block = small_copy("movinet_a0_stream").blocks[-1].train()
    assert block.drop_rate == pytest.approx(0.2)
    ones = torch.ones(1000 * 3, 2, 1, 1, dtype=torch.float64)
    kept = block._drop_samples(ones, 1000).view(1000, -1)
    assert torch.all(kept == kept[:, :1])
    assert set(kept.unique().tolist()) == {0.0, 1 / 0.8}
    assert kept[:, 0].count_nonzero().item() / 1000 == pytest.approx(0.8, abs=0.05)


def test_gradients_flow_in_training_mode() -> None:
    model = small_copy("movinet_t0_stream").train().requires_grad_(True)
    model(small_clip(2, 3, (35, 46))).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", ["movinet_a0_base", "movinet_a3_stream", LEGACY])
def test_gradients_reach_every_parameter(name: str) -> None:
    model = small_copy(name).requires_grad_(True)
    model(small_clip()).square().sum().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().max() > 0, parameter_name


def test_weight_decay_groups_partition_the_parameters() -> None:
    with torch.device("meta"):
        model = MoViNet(family_config("a0", "base"))
    decayed, rest = model.weight_decay_groups(3e-5)
    assert (decayed["weight_decay"], rest["weight_decay"]) == (3e-5, 0.0)
    assert len(decayed["params"]) + len(rest["params"]) == len(list(model.parameters()))
    assert all(p.dim() >= 2 for p in decayed["params"])
    assert sum(p.dim() >= 2 for p in rest["params"]) == 1  # the last layer's kernel


def test_models_and_states_can_be_copied_and_pickled() -> None:
    for name in ("movinet_a3_stream", "movinet_t0_base"):
        model, clip = small_copy(name), small_clip(1, 2)
        for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
            assert torch.equal(again(clip), model(clip))
    stream = small_copy("movinet_t0_stream")
    _, state = stream.step(small_clip(1, 2), stream.init_state(1, (19, 26)))
    again = pickle.loads(pickle.dumps(state))
    assert all(torch.equal(again[key], state[key]) for key in state)
