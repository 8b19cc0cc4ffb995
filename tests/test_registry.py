from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest

from movinet.config import ModelConfig, Preprocessing, family_config, make_divisible
from movinet.errors import UsageError
from movinet.profile import cost
from movinet.registry import REGISTRY, list_models, model_info
from tests.shared import SHARED, needs_shared

# Trained and all parameters of the running reference, 600 classes.
PARAMETERS = {
    "movinet_t0_base": (1_727_414, 1_740_502),
    "movinet_t0_stream": (2_368_958, 2_385_118),
    "movinet_a0_base": (3_111_799, 3_126_071),
    "movinet_a0_stream": (3_748_031, 3_765_983),
    "movinet_a0_mobile": (2_732_383, 2_750_335),
    "movinet_a1_base": (4_690_296, 4_717_912),
    "movinet_a1_stream": (6_447_352, 6_481_560),
    "movinet_a1_mobile": (3_750_392, 3_784_600),
    "movinet_a2_base": (5_249_562, 5_280_922),
    "movinet_a2_stream": (7_326_962, 7_366_050),
    "movinet_a2_mobile": (4_079_530, 4_118_618),
    "movinet_a3_base": (7_397_545, 7_443_289),
    "movinet_a3_stream": (10_986_618, 11_043_146),
    "movinet_a4_base": (11_349_463, 11_422_727),
    "movinet_a4_stream": (18_136_182, 18_228_326),
    "movinet_a5_base": (18_650_523, 18_763_355),
    "movinet_a5_stream": (31_495_934, 31_636_734),
}


def test_names() -> None:
    assert sorted(REGISTRY) == sorted([*PARAMETERS, "movinet_a6_base"])
    assert list_models("*stream*") == [f"movinet_{v}_stream" for v in ("t0", "a0", "a1", "a2", "a3", "a4", "a5")]
    assert list_models("nothing") == []


def test_an_unknown_name_says_what_is_near() -> None:
    with pytest.raises(UsageError, match="'movinet_a0_steam'; did you mean movinet_a0_stream"):
        model_info("movinet_a0_steam")
    with pytest.raises(UsageError, match="`movinet models` lists them"):
        model_info("resnet")


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_equal_the_reference(name: str) -> None:
    row = cost(name)
    assert (row.parameters, row.parameters_with_statistics) == PARAMETERS[name]


def test_the_ensemble_is_the_sum_of_its_members() -> None:
    a4, a5, a6 = (cost(f"movinet_{v}_base") for v in ("a4", "a5", "a6"))
    assert a6.parameters == a4.parameters + a5.parameters
    assert a6.multiply_adds_per_clip == a4.multiply_adds_per_clip + a5.multiply_adds_per_clip


@needs_shared
def test_costs_equal_independent_arithmetic() -> None:
    rows = [r.split() for r in (SHARED / "reference/architecture_rows.txt").read_text().splitlines() if r[0] != "#"]
    assert len(rows) == len(PARAMETERS)
    for name, trained, everything, size, frames, fps, body, answer, clip, state in rows:
        row = cost(name)
        assert (row.parameters, row.parameters_with_statistics) == (int(trained), int(everything))
        assert (row.size, row.frames, row.fps) == ((int(size), int(size)), int(frames), float(fps))
        assert row.multiply_adds_per_clip == pytest.approx(int(clip), rel=0.005)
        per_frame = int(clip) / int(frames) if name.endswith("base") else int(body) + int(answer)
        assert row.multiply_adds_per_frame == pytest.approx(per_frame, rel=0.005)
        # Theirs has an int32 counter per pool and per positional encoding, ours one int64 in all.
        assert abs(row.state_bytes - int(state)) <= 4 * 150


@pytest.mark.parametrize("name", list_models())
def test_records_survive_json(name: str) -> None:
    info = REGISTRY[name]
    assert ModelConfig.from_dict(json.loads(json.dumps(info.config.to_dict()))) == info.config
    assert Preprocessing.from_dict(json.loads(json.dumps(info.preprocessing.to_dict()))) == info.preprocessing
    assert info.preprocessing.frames / info.preprocessing.fps == 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gate": "hard"}, "'gate' is 'hard'; choose one of sigmoid, relu6, keras"),
        ({"stem": 0}, "'stem' is 0"),
        ({"stem": 10**9}, "'stem' is 1000000000"),
        ({"stem": True}, "'stem' is True"),
        ({"causal": "yes"}, "'causal' is 'yes'"),
        ({"dropout": 1.0}, "'dropout' is 1.0"),
        ({"dropout": math.nan}, "'dropout' is nan"),
        ({"colour": 1}, "unknown configuration field 'colour'"),
        ({"stages": []}, "'stages'"),
        ({"stages": [[]]}, "'stages'"),
        ({"stages": [[{"expand": 8, "out": 8, "kernel": [2, 3]}]]}, "kernel 2 is even"),
        ({"stages": [[{"expand": 8, "out": 8, "kernel": [1, 3], "stride": 3}]]}, "'stride' is 3"),
        ({"stages": [[{"expand": 8, "kernel": [1, 3]}]]}, "'stages' is malformed"),
        ({"stages": 5}, "'stages' is malformed"),
    ],
)
def test_a_configuration_from_outside_is_checked(change: dict[str, Any], message: str) -> None:
    record = {**family_config("a0", "stream").to_dict(), **change}
    with pytest.raises(UsageError, match=message.replace("(", "\\(")):
        ModelConfig.from_dict(record)


def test_a_configuration_must_be_complete() -> None:
    record = family_config("a0", "stream").to_dict()
    del record["head"]
    with pytest.raises(UsageError, match="lacks the field 'head'"):
        ModelConfig.from_dict(record)


@pytest.mark.parametrize(
    "change",
    [{"fps": 0}, {"fps": math.inf}, {"size": [0, 5]}, {"size": 5}, {"value_range": [1, 0]}, {"resize": "big"}],
)
def test_a_preprocessing_from_outside_is_checked(change: dict[str, Any]) -> None:
    record = {**REGISTRY["movinet_a0_base"].preprocessing.to_dict(), **change}
    with pytest.raises(UsageError):
        Preprocessing.from_dict(record)


def test_widths_are_rounded_as_the_reference_does() -> None:
    assert [make_divisible(w) for w in (4, 11.9, 12, 20, 76, 6)] == [8, 16, 16, 24, 80, 8]
    config = family_config("a3", "stream")
    assert {block.expand: config.gate_width(block) for block in config.blocks}[40] == 24


def test_configurations_are_values() -> None:
    config = family_config("a0", "base")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.stem = 3  # type: ignore[misc]
