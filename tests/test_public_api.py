"""The public names, pinned: adding or losing one is a decision, not an accident."""

from __future__ import annotations

import subprocess
import sys

import pytest

import movinet

NAMES = """
DownloadError Ensemble Frame MoViNet ModelConfig MovinetError Prediction Preprocessing State Stream TemporalEnsemble
UsageError VideoError WeightsError create_model list_models model_info open_video predict predictions preprocess
save_model
""".split()


def test_the_public_names() -> None:
    assert sorted(movinet.__all__) == sorted(NAMES)
    assert set(dir(movinet)) == {*NAMES, "__version__"}


@pytest.mark.parametrize("name", NAMES)
def test_every_name_resolves_and_is_documented(name: str) -> None:
    assert getattr(movinet, name).__doc__


def test_a_wrong_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'create_modell'"):
        _ = movinet.create_modell  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "code",
    [
        "import movinet",
        "import movinet; movinet.list_models(); movinet.model_info('movinet_a0_stream'); movinet.State",
        "import movinet; movinet.open_video, movinet.preprocess",
        "import movinet.weights, movinet.weights.tensorflow, movinet.weights.tflite, movinet.weights.own",
        "import movinet.weights.download, movinet.weights.port",
        "import movinet.cli; movinet.cli.build_parser()",
    ],
)
def test_rooms_that_need_no_torch_load_none(code: str) -> None:
    check = f"{code}\nimport sys; assert 'torch' not in sys.modules, 'torch was imported'"
    subprocess.run([sys.executable, "-W", "error", "-c", check], check=True, capture_output=True, text=True)
