"""Makes small ONNX networks with the inputs and outputs of the published ones, beside itself.

Writing them needs the package onnx, which tests do not: the files lie beside this one. What they compute is
written once more in `test_rtmpose.py`, from the numbers here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
STRIDES = (8, 16, 32)
BOX = 5.0
"""Sides of the box around a cell, in cells"""


def heads() -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Weight "85 3" and bias "85" for each stride, of a cell's mean colour in levels.

    Blue cells of 8 px and red ones of 32 px hold a person (class 0), green ones of 16 px a dog (class 16).
    """
    made = []
    for colour, number in ((2, 0), (1, 16), (0, 0)):
        weight, bias = np.zeros((85, 3), np.float32), np.full(85, -8, np.float32)
        bias[:4] = (0.5, 0.5, np.log(BOX), np.log(BOX))
        for row in (4, 5 + number):
            weight[row] = -0.1
            weight[row, colour] = 0.1
        made.append((weight, bias))
    return made


def mixture(points: int) -> NDArray[np.float32]:
    """Weight "3 2*points", of a column's or row's mean colour: for each point's first and second bins."""
    return np.random.default_rng(points).normal(0, 3, (3, 2 * points)).astype(np.float32)


def _detector() -> object:
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants, found = [], [], []
    for stride, (weight, bias) in zip(STRIDES, heads(), strict=True):
        count = 640 // stride
        constants += [
            numpy_helper.from_array(weight[:, :, None, None], f"w{stride}"),
            numpy_helper.from_array(bias, f"b{stride}"),
            numpy_helper.from_array(np.array([1, 85, count * count]), f"s{stride}"),
        ]
        nodes += [
            helper.make_node(
                "AveragePool", ["input"], [f"p{stride}"], kernel_shape=[stride] * 2, strides=[stride] * 2
            ),
            helper.make_node(
                "Conv", [f"p{stride}", f"w{stride}", f"b{stride}"], [f"c{stride}"], kernel_shape=[1, 1]
            ),
            helper.make_node("Reshape", [f"c{stride}", f"s{stride}"], [f"r{stride}"]),
        ]
        found.append(f"r{stride}")
    for name, values in (("zero", [0]), ("four", [4]), ("end", [85]), ("axis", [1])):
        constants.append(numpy_helper.from_array(np.array(values), name))
    nodes += [
        helper.make_node("Concat", found, ["cells"], axis=2),
        helper.make_node("Slice", ["cells", "zero", "four", "axis"], ["boxes"]),
        helper.make_node("Slice", ["cells", "four", "end", "axis"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["likely"]),
        helper.make_node("Concat", ["boxes", "likely"], ["all"], axis=1),
        helper.make_node("Transpose", ["all"], ["output"], perm=[0, 2, 1]),
    ]
    graph = helper.make_graph(
        nodes,
        "yolox",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 640, 640])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 8400, 85])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)


def _pointer(points: int, width: int, height: int) -> object:
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants = [], [numpy_helper.from_array(mixture(points), "mixture")]
    for name, axis, size in (("x", 2, width), ("y", 3, height)):
        constants.append(numpy_helper.from_array(np.array([1, points, 2 * size]), f"shape_{name}"))
        nodes += [
            helper.make_node("ReduceMean", ["input"], [f"mean_{name}"], axes=[axis], keepdims=0),
            helper.make_node("Transpose", [f"mean_{name}"], [f"line_{name}"], perm=[0, 2, 1]),
            helper.make_node("MatMul", [f"line_{name}", "mixture"], [f"mixed_{name}"]),
            helper.make_node("Transpose", [f"mixed_{name}"], [f"bins_{name}"], perm=[0, 2, 1]),
            helper.make_node("Sigmoid", [f"bins_{name}"], [f"likely_{name}"]),
            helper.make_node("Reshape", [f"likely_{name}", f"shape_{name}"], [f"simcc_{name}"]),
        ]
    graph = helper.make_graph(
        nodes,
        "simcc",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, height, width])],
        [
            helper.make_tensor_value_info("simcc_x", TensorProto.FLOAT, [1, points, 2 * width]),
            helper.make_tensor_value_info("simcc_y", TensorProto.FLOAT, [1, points, 2 * height]),
        ],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)


def main() -> None:
    """Write the files."""
    import onnx

    for name, model in (
        ("yolox", _detector()),
        ("wholebody", _pointer(133, 288, 384)),
        ("ap10k", _pointer(17, 256, 256)),
    ):
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, HERE / f"{name}.onnx")


if __name__ == "__main__":
    main()
