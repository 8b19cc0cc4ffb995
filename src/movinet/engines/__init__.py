"""What computes a step. The one place that decides which engine is best; each lives in its own file or folder.

`torch` runs everything everywhere. `native` runs stream and mobile models in float32 on a CPU, several times faster;
it is there if the package was installed with a C++ compiler at hand.
"""

from __future__ import annotations

import warnings
from typing import Literal

from movinet.config import ModelConfig
from movinet.engines import native
from movinet.errors import UsageError

Engine = Literal["auto", "native", "torch"]


def choose(engine: Engine, config: ModelConfig, *, on_cpu: bool, float32: bool) -> Literal["native", "torch"]:
    """The engine to use. `auto` takes the native one wherever it can run, and says once if only a compiler is missing.

    Raises `UsageError` for a name that does not exist, or where `native` is asked for and cannot run.
    """
    if engine == "torch":
        return "torch"
    if engine not in ("auto", "native"):
        raise UsageError(f"unknown engine {engine!r}; choose auto, native or torch")
    if not (native.supports(config) and on_cpu and float32):
        if engine == "auto":
            return "torch"
        raise UsageError(
            "the native engine runs stream and mobile models in their (2+1)D form, in float32 on a CPU; use"
            " engine='torch'"
        )
    try:
        native.library()
    except UsageError as error:
        if engine == "native":
            raise
        warnings.warn(f"streams run on torch, several times slower: {error}", stacklevel=3)
        return "torch"
    return "native"
