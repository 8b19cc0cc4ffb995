from __future__ import annotations

import numpy as np
import pytest

from movinet.errors import UsageError
from movinet.video import clip_indices, middle_indices, segment_indices
from tests.shared import SHARED, needs_shared


@needs_shared
def test_reference_indices():
    golden = np.load(SHARED / "golden" / "frames.npz")
    names = [name for name in golden.files if name.startswith("sample/")]
    assert len(names) > 40
    for name in names:
        _, kind, arguments = name.split("/")
        numbers = [int(number) for number in arguments.split("_")]
        if kind == "middle":
            ours = middle_indices(*numbers)
        elif kind == "segment":
            ours = segment_indices(*numbers)
        else:
            ours = clip_indices(*numbers, clips=int(kind.removeprefix("linspace"))).ravel()
        np.testing.assert_array_equal(ours, golden[name], err_msg=name)


def test_indices_by_hand():
    assert middle_indices(10, 4).tolist() == [3, 4, 5, 6]
    assert middle_indices(3, 5).tolist() == [0, 1, 2, 0, 1]
    assert clip_indices(10, 4, clips=3).tolist() == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]
    assert clip_indices(10, 4).tolist() == [[0, 1, 2, 3]]
    assert segment_indices(300, 4).tolist() == [37, 112, 187, 262]
    assert segment_indices(2, 4).tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("call", [lambda: middle_indices(0, 1), lambda: clip_indices(5, 1, clips=0)])
def test_nonsense(call):
    with pytest.raises(UsageError, match="at least 1"):
        call()
