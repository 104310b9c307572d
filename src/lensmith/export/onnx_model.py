"""One ONNX file from the pixels of images to the probabilities of the labels."""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.compose
import onnx.numpy_helper
import torch
from onnxscript.onnx_opset import opset20 as op
from torch.export import Dim

from lensmith.engine.features import feature_names
from lensmith.errors import UserError, reason
from lensmith.export.graph import Graph, traceable
from lensmith.export.original import Original
from lensmith.export.preparation import OPSET, OUTPUT, preparation
from lensmith.models.views import Fit

SCORES, PROBABILITIES = "log_probabilities", "probabilities"
"""The outputs: (images, labels) float32 each."""
LIMIT = 1_900_000_000
"""Bytes of weights above which they are a file of their own: Protocol Buffers end at 2^31."""
_MOST = 1 << 12
"""The largest number of steps of a side that is promised to the tracer."""


def require_one_view(original: Original) -> Fit:
    """How the one view is fitted that a graph shows the model.

    Raises:
        UserError: the model answers about several views of an image, or about one that isn't fitted.
    """
    model, head = original.model, original.classifier.head
    # The tower's features are those of the last view, which every image has.
    of_last_view = head is not None and head.feature in feature_names(model)[:2]
    if model.fit is None:
        raise UserError(
            f"{original.task['base']} prepares images in a way that isn't written as a graph here.",
            "Use --to weights, or teach an LFM2-VL.",
        )
    if model.tiled and not (of_last_view and getattr(model, "thumbnail", False)):
        raise UserError(
            f"{original.task['base']} shows a large image as a grid of tiles, and one graph can't hold every grid.",
            "Teach it with one view per image (for example model.image_tokens=256) and export that run.",
        )
    return model.fit


def write_onnx(original: Original, path: Path, int8: bool) -> None:
    """Write the file, and `path`.data beside it if there are more than `LIMIT` bytes of weights.

    Args:
        int8: store the weights of products in eight bits, with a scale for each column.

    Raises:
        UserError: the model can't be traced or converted.
    """
    fit = require_one_view(original)
    try:
        about, resample = original.about(), original.model.resample
        scores = traced(original, fit)
        original.release()
        if int8:
            scores = quantised(scores)
        pixels = preparation(fit, resample)
        pixels = onnx.compose.add_prefix(pixels, "prepare/", rename_inputs=False, rename_outputs=False)
        model = onnx.compose.merge_models(pixels, scores, [(OUTPUT, OUTPUT)], producer_name="lensmith")
    except UserError:
        raise
    except Exception as error:  # of torch.export, the converter, onnx or onnxruntime
        raise UserError(
            f"{original.task['base']} can't be converted to ONNX: {type(error).__name__}: {reason(error)}.",
            "If it is LFM2-VL, please report it with the versions of torch and onnxscript.",
        ) from error
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", OPSET))  # the functions' own domain is inlined
    about |= {"numbers": "int8" if int8 else "float32"}
    for key, value in about.items():
        model.metadata_props.add(
            key=key, value=value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        )
    apart = model.ByteSize() > LIMIT
    onnx.save_model(model, path, save_as_external_data=apart, location=f"{path.name}.data" if apart else None)


def traced(original: Original, fit: Fit) -> onnx.ModelProto:
    """The graph from views of any size that `fit` allows to the outputs."""
    graph = Graph(original.classifier).eval()
    view = torch.zeros(2, 3, 2 * fit.step, 3 * fit.step)  # unequal numbers, so that none is taken for another
    high, wide = Dim("high", min=1, max=_MOST), Dim("wide", min=1, max=_MOST)
    shapes = {0: Dim.DYNAMIC, 2: fit.step * high, 3: fit.step * wide}
    with traceable(), _quiet():
        program = torch.export.export(
            graph, (view,), dynamic_shapes=(shapes,), strict=False, prefer_deferred_runtime_asserts_over_guards=True
        )
        made: Any = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=[OUTPUT],
            output_names=[SCORES, PROBABILITIES],
            custom_translation_table={torch.ops.aten._adaptive_avg_pool2d.default: _quarters},
            verbose=False,
        )
    proto: onnx.ModelProto = made.model_proto
    return proto


def _quarters(maps: Any, output_size: Any) -> Any:
    """The means of the four quarters of (n, size, rows, columns) maps with even sides, as (n, size, 2, 2)."""
    shape, two = op.Shape(maps), op.Constant(value_ints=[2])
    n_and_size, sides = op.Slice(shape, [0], [2]), op.Slice(shape, [2], [4])
    rows, columns = op.Split(op.Div(sides, two), num_outputs=2)
    parts = op.Concat(n_and_size, two, rows, two, columns, axis=0)
    return op.ReduceMean(op.Reshape(maps, parts), [3, 5], keepdims=0)


def quantised(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the weights of its products in eight bits (of which products with rounded inputs use seven).

    Constants are folded first: a weight that stands behind a transposition would otherwise stay as it is. The inputs of
    the products are rounded too, over the whole batch, so answers depend on the batch. Not so where a product narrows
    (the second layer of each MLP): there a few inputs are far larger than the rest. On `nano` with LoRA, rounding those
    as well changed 5 of 600 answers and not 2 (dev/LOG.md).
    """
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory(prefix="lensmith-export-") as temporary:
        whole, folded, small = (Path(temporary) / f"{name}.onnx" for name in ("whole", "folded", "small"))
        apart = model.ByteSize() > LIMIT
        onnx.save_model(model, whole, save_as_external_data=apart)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(folded)
        options.log_severity_level = 3
        if apart:
            options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "folded.data")
        onnxruntime.InferenceSession(str(whole), options, providers=["CPUExecutionProvider"])
        narrowing = _store_in_eight_bits(folded, apart)
        with _quiet():
            quantize_dynamic(
                folded,
                small,
                per_channel=True,
                weight_type=QuantType.QInt8,
                # Seven bits of weights: processors without VNNI add two products of eight bits in 16, which saturates.
                reduce_range=True,
                op_types_to_quantize=["MatMul", "Gemm", "Gather"],
                nodes_to_exclude=narrowing,
                use_external_data_format=apart,
            )
        return onnx.load(small)


def _store_in_eight_bits(path: Path, apart: bool) -> list[str]:
    """Store the weights of the narrowing products of a file in eight bits, to be multiplied in float32.

    Returns:
        The names of these products.
    """
    model = onnx.load(path)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    names = []
    for node in list(model.graph.node):
        tensor = weights.get(node.input[1]) if node.op_type in ("MatMul", "Gemm") else None
        if tensor is None or len(tensor.dims) != 2:
            continue
        transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        inputs, outputs = reversed(tensor.dims) if transposed else tensor.dims
        if inputs <= outputs:
            continue
        axis, values = (0 if transposed else 1), onnx.numpy_helper.to_array(tensor)
        scale = np.maximum(np.abs(values).max(1 - axis), 1e-12) / 127
        rounded = np.round(values / np.expand_dims(scale, 1 - axis)).astype(np.int8)
        new = [f"{node.name}/{part}" for part in ("weight", "scale", "exact")]
        model.graph.initializer.append(onnx.numpy_helper.from_array(rounded, new[0]))
        model.graph.initializer.append(onnx.numpy_helper.from_array(scale.astype(np.float32), new[1]))
        model.graph.node.insert(0, onnx.helper.make_node("DequantizeLinear", new[:2], new[2:], axis=axis))
        node.input[1] = new[2]
        names.append(node.name)
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    onnx.save_model(model, path, save_as_external_data=apart)
    return names


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings and log lines of the converters, which say nothing that a user could act on."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
