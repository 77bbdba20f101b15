"""Writes the networks of the classifier's tests, each under 1 KB. Needs the Python package onnx (Debian: python3-onnx).

All take float32 [N,1,8,8] and return logits = weight * f(mean of the picture) + bias, so that a test can say what must come out.
"""

import pathlib

from onnx import TensorProto, checker, helper

WEIGHTS = [1.0, -1.0, 2.0, 0.5, 0.0]
BIAS = [0.0, 0.5, -1.0, 0.25, 0.1]


def network(name: str, middle: list, classes: int = 5) -> None:
    """``middle`` turns the tensor "mean" into the tensor "value"."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["input"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["mean"], axis=1),
        *middle,
        helper.make_node("MatMul", ["value", "weight"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes])],
        [
            helper.make_tensor("weight", TensorProto.FLOAT, [1, classes], WEIGHTS[:classes]),
            helper.make_tensor("bias", TensorProto.FLOAT, [classes], BIAS[:classes]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], producer_name="make_networks.py")
    model.ir_version = 8
    checker.check_model(model)
    pathlib.Path(__file__).with_name(name + ".onnx").write_bytes(model.SerializeToString())


if __name__ == "__main__":
    network("tiny", [helper.make_node("Identity", ["mean"], ["value"])])
    network("four_classes", [helper.make_node("Identity", ["mean"], ["value"])], classes=4)
    network("root", [helper.make_node("Sqrt", ["mean"], ["value"])])  # not a number where the mean is negative
    network("ratio", [helper.make_node("Div", ["mean", "mean"], ["value"])])  # not a number for a picture of zeros
