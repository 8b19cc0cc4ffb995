"""Where the reference material lies that is never copied here: beside the checkout, or `MOVINET_SHARED`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("MOVINET_SHARED") or Path(__file__).resolve().parents[1].parent / "shared")

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"needs the reference material in {SHARED}")
