"""The preparation of images as an ONNX graph: bytes of any size in, the model's view of them out.

`views.resize` on a CPU is PyTorch's kernel for bytes: a separable filter with 16-bit weights, the width first, each sum
rounded and clipped. The same integers are computed here, bit for bit, so that a program in any language needs nothing
but a decoder of images. The view's size is that of `views.Fit`, in double precision as in Python.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx
import onnx.inliner
import onnx.shape_inference
from onnxscript import DOUBLE, FLOAT, INT32, INT64, UINT8, optimizer, script
from onnxscript.onnx_opset import opset20 as op
from onnxscript.values import Opset

if TYPE_CHECKING:
    from lensmith.models.views import Fit

INPUT, OUTPUT = "images", "view"
OPSET = 20
"""The version of ONNX's operators, which onnxruntime has had since 1.17."""
ours = Opset("lensmith", 1)


@script(ours)
def view_size(full: DOUBLE, step: DOUBLE, narrowest: DOUBLE, least: DOUBLE, most: DOUBLE) -> DOUBLE:
    """(height, width) of an image's view, as `Fit.size` computes it; all doubles."""
    area = op.ReduceProd(full, keepdims=0)
    rounded = op.Max(op.Round(full / step) * step, narrowest)
    shrunk = op.Max(step, op.Floor(full / op.Sqrt(area / most) / step) * step)
    stretch = op.Sqrt(least / area)
    above = op.Ceil(full * stretch / step) * step
    below = op.Max(step, op.Floor(full * stretch / step) * step)
    grown = op.Where(op.ReduceProd(above, keepdims=0) > most, below, above)
    now = op.ReduceProd(rounded, keepdims=0)
    size = op.Where(now > most, shrunk, op.Where(now < least, grown, rounded))
    return op.Min(size, op.Max(op.Floor(most / (step * step)), 1.0) * step)


@script(ours)
def bilinear(x: DOUBLE) -> DOUBLE:
    """The weights of pixels at the distances x, in pixels of the smaller image."""
    return op.Max(1.0 - x, 0.0)


@script(ours)
def bicubic(x: DOUBLE) -> DOUBLE:
    """As `bilinear`: Keys' filter with a = -0.5, which Pillow and PyTorch use when they smooth."""
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((x - 5.0) * x + 8.0) * x * -0.5 + 2.0
    return op.Where(x < 1.0, near, op.Where(x < 2.0, far, 0.0))


def _scaler(resample: int) -> Any:
    """The function that scales with a filter: (n, rows, columns, channels) int32 -> the same, with other columns."""
    weigh, reach = {2: (bilinear, 1.0), 3: (bicubic, 2.0)}[resample]

    @script(ours, default_opset=op)
    def scaled(pixels: INT32, columns: DOUBLE) -> INT32:
        shape = op.Shape(pixels)
        last = shape[2] - 1
        now = op.Cast(shape[2], to=DOUBLE.dtype)
        ratio = now / columns
        stretch = op.Max(ratio, 1.0)
        centre = op.Unsqueeze((op.Range(0.0, columns, 1.0) + 0.5) * ratio, [1])
        # Truncated and not rounded down, as PyTorch does; below 0 both give 0.
        first = op.Cast(op.Max(centre - reach * stretch + 0.5, 0.0), to=INT64.dtype)
        end = op.Cast(op.Min(centre + reach * stretch + 0.5, now), to=INT64.dtype)
        taps = first + op.Range(0, op.Cast(op.Ceil(reach * stretch) * 2.0 + 1.0, to=INT64.dtype), 1)
        exact = weigh(op.Abs(op.Cast(taps, to=DOUBLE.dtype) - centre + 0.5) / stretch)
        exact = op.Where(taps < end, exact, 0.0)
        exact = exact / op.ReduceSum(exact, [1])
        # As many bits after the point as keep the largest weight below 2^15, and 22 at most.
        largest = op.ReduceMax(exact, keepdims=0)
        two = op.CastLike(2.0, largest)
        unit = op.Pow(two, op.Min(op.Ceil(op.Log(32767.5 / largest) / op.Log(two)) - 1.0, 22.0))
        weights = op.Cast(op.Sign(exact) * op.Floor(op.Abs(exact) * unit + 0.5), to=INT32.dtype)
        chosen = op.Cast(op.Gather(pixels, op.Min(taps, last), axis=2), to=INT32.dtype)
        total = op.ReduceSum(chosen * op.Unsqueeze(weights, [2]), [3], keepdims=0)
        level = op.Floor(op.Cast(total, to=DOUBLE.dtype) / unit + 0.5)
        return op.Cast(op.Clip(level, 0.0, 255.0), to=INT32.dtype)

    return scaled


def preparation(fit: Fit, resample: int) -> onnx.ModelProto:
    """The graph: `INPUT`, (n, height, width, 3) bytes -> `OUTPUT`, (n, 3, rows, columns) float32 of whole numbers.

    Args:
        resample: as for `views.resize`.
    """
    scaled = _scaler(resample)
    step, least, most, narrowest = map(float, (fit.step, fit.min_pixels, fit.max_pixels, fit.step * fit.narrow))

    @script(ours, default_opset=op)
    def prepared(images: UINT8[None, None, None, None]) -> FLOAT[None, None, None, None]:
        full = op.Cast(op.Shape(images)[1:3], to=DOUBLE.dtype)
        side, shortest = op.CastLike(step, full), op.CastLike(narrowest, full)
        size = view_size(full, side, shortest, op.CastLike(least, full), op.CastLike(most, full))
        wide = scaled(op.Cast(images, to=INT32.dtype), size[1])
        high = scaled(op.Transpose(wide, perm=[0, 2, 1, 3]), size[0])
        view = op.Transpose(op.Cast(high, to=FLOAT.dtype), perm=[0, 3, 2, 1])
        return view

    # Without the optimizer, the types of constants would be looked up again for each image.
    whole = onnx.inliner.inline_local_functions(prepared.to_model_proto())
    model: onnx.ModelProto = optimizer.optimize(onnx.shape_inference.infer_shapes(whole))
    for value, names in ((model.graph.input[0], "n height width"), (model.graph.output[0], "n channels rows columns")):
        for dim, name in zip(value.type.tensor_type.shape.dim, names.split(), strict=False):
            dim.dim_param = name
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 3
    return model
