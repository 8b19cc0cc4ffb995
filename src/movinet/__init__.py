"""MoViNets in PyTorch: recognise what happens in a video, frame by frame, in constant memory.

>>> model = movinet.create_model(pretrained="movinet_a0_stream.safetensors")
>>> print(movinet.predict("video.mp4", model).label)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from movinet.config import ModelConfig, Preprocessing
    from movinet.errors import DownloadError, MovinetError, UsageError, VideoError, WeightsError
    from movinet.factory import create_model, save_model
    from movinet.inference import predict, predictions
    from movinet.model import Ensemble, MoViNet, TemporalEnsemble
    from movinet.registry import list_models, model_info
    from movinet.state import State
    from movinet.stream import Prediction, Stream
    from movinet.video import Frame, open_video, preprocess

__version__ = "0.1.0"

# Names resolve when they are first used, so that `import movinet` is light and whoever needs no torch loads none.
_ROOMS = {
    "config": ("ModelConfig", "Preprocessing"),
    "errors": ("DownloadError", "MovinetError", "UsageError", "VideoError", "WeightsError"),
    "factory": ("create_model", "save_model"),
    "inference": ("predict", "predictions"),
    "model": ("Ensemble", "MoViNet", "TemporalEnsemble"),
    "registry": ("list_models", "model_info"),
    "state": ("State",),
    "stream": ("Prediction", "Stream"),
    "video": ("Frame", "open_video", "preprocess"),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "DownloadError",
    "Ensemble",
    "Frame",
    "MoViNet",
    "ModelConfig",
    "MovinetError",
    "Prediction",
    "Preprocessing",
    "State",
    "Stream",
    "TemporalEnsemble",
    "UsageError",
    "VideoError",
    "WeightsError",
    "create_model",
    "list_models",
    "model_info",
    "open_video",
    "predict",
    "predictions",
    "preprocess",
    "save_model",
]


def __getattr__(name: str) -> Any:
    if name not in _ROOM_OF:
        raise AttributeError(f"module 'movinet' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"movinet.{_ROOM_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
