"""The graph that prepares images equals Lensmith's own preparation to the bit."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lensmith.export.preparation import preparation
from lensmith.models.views import Fit, resize

pytestmark = pytest.mark.long

FITS = [Fit(32, 4 * 32**2, 8 * 32**2), Fit(32, 64 * 32**2, 256 * 32**2), Fit(28, 4 * 28**2, 100 * 28**2, narrow=False)]


@cache
def session(which: int, resample: int) -> Any:
    model = preparation(FITS[which], resample)
    onnx.checker.check_model(model)
    return onnxruntime.InferenceSession(model.SerializeToString())


@settings(max_examples=60)
@given(
    which=st.integers(0, len(FITS) - 1),
    resample=st.sampled_from([2, 3]),
    height=st.integers(1, 700),
    width=st.integers(1, 700),
    seed=st.integers(0, 99),
)
def test_any_image_gets_the_same_bytes(which: int, resample: int, height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    images[1] = 255 * (images[1] > 128)  # the hardest edges, which a bicubic filter overshoots
    (view,) = session(which, resample).run(None, {"images": images})
    size = FITS[which].size(height, width)
    wanted = resize(torch.from_numpy(images).permute(0, 3, 1, 2), size, resample)
    assert view.shape[2:] == size
    assert (view == wanted.numpy()).all()
