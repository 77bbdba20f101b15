"""A measured run → the model folder that the router loads: model.onnx, model.yaml, figures.json and reference.json."""

from __future__ import annotations

import datetime
import hashlib
import inspect
import json
import os

import numpy as np
import torch
import yaml

from .config import Config
from .evaluate import load_run
from .train import predict

OPSET = 13


def add_arguments(parser) -> None:
    parser.add_argument("--run", required=True, dest="folder", metavar="FOLDER", help="run folder with figures.json (see evaluate)")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="model folder to write")
    parser.add_argument("--trained-on", required=True, help="one line for model.yaml: which data")
    parser.add_argument("--created", default=datetime.date.today().isoformat(), help="date in model.yaml (default today)")


def write_onnx(network: torch.nn.Module, config: Config, path: str) -> str:
    """Write the graph: input float32 [N, 1, S, S] → logits float32 [N, classes]. Returns the file's SHA-256 in hex."""
    import onnx

    sample = torch.zeros(2, 1, config.input.size, config.input.size)
    options = {}
    if "dynamo" in inspect.signature(torch.onnx.export).parameters:  # PyTorch ≥ 2.5; the tracing exporter is in all versions
        options["dynamo"] = False
    torch.onnx.export(
        network.to(memory_format=torch.contiguous_format).eval(),
        sample,
        path,
        opset_version=OPSET,
        input_names=["input"],
        output_names=["logits"],
        dynamic_axes={"input": {0: "N"}, "logits": {0: "N"}},
        **options,
    )
    model = onnx.load(path)
    simplify(model.graph, getattr(network, "export_pads", None))
    onnx.checker.check_model(model)
    onnx.save(model, path)
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def simplify(graph, pads: tuple[int, int, int, int] | None) -> None:
    """Take out what PyTorch's exporter leaves in: it costs time at every picture.

    ``pads`` (top, left, bottom, right) is the network's asymmetric padding: PyTorch writes it as Pad with a tail of shape
    arithmetic, ONNX has it as the convolution's own attribute. ReLU6 is written as Relu and Clip 0…6; Clip alone is the same.
    """
    made_by = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        before = made_by.get(node.input[0]) if node.input else None
        if before is None:
            continue
        if node.op_type == "Conv" and before.op_type == "Pad" and pads is not None:
            attribute = next(a for a in node.attribute if a.name == "pads")
            if any(attribute.ints):
                raise ValueError(f"export: {node.name} pads twice")
            attribute.ints[:] = pads
            node.input[0] = before.input[0]
        elif node.op_type == "Clip" and before.op_type == "Relu" and _scalar(graph, node.input[1]) >= 0:
            node.input[0] = before.input[0]
    while True:
        used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
        dead = [node for node in graph.node if not used.intersection(node.output)]
        if not dead:
            return
        for node in dead:
            graph.node.remove(node)


def _scalar(graph, name: str) -> float:
    """The value of a constant of the graph, NaN when it is computed."""
    from onnx import numpy_helper

    for tensor in graph.initializer:
        if tensor.name == name:
            return float(numpy_helper.to_array(tensor))
    for node in graph.node:
        if name in node.output and node.op_type == "Constant":
            return float(numpy_helper.to_array(node.attribute[0].t))
    return float("nan")


def reference_inputs(size: int) -> list[dict]:
    """Three inputs by closed formulas, so that any runtime can be compared with PyTorch without a picture."""
    row, column = np.meshgrid(np.arange(size, dtype=np.float64), np.arange(size, dtype=np.float64), indexing="ij")
    formulas = (
        ("sin(0.05*i)+cos(0.08*j)", np.sin(0.05 * row) + np.cos(0.08 * column)),
        ("1.5*sin(0.002*i*j)", 1.5 * np.sin(0.002 * row * column)),
        ("2*exp(-((i-80)^2+(j-60)^2)/1800)-0.5", 2 * np.exp(-((row - 80) ** 2 + (column - 60) ** 2) / 1800) - 0.5),
    )
    return [{"formula": formula, "values": values.astype(np.float32)} for formula, values in formulas]


def model_yaml(config: Config, figures: dict, sha256: str, trained_on: str, created: str) -> dict:
    """The contents of model.yaml; the router refuses a file with other keys."""
    metrics = {}
    for split, measured in figures["splits"].items():
        low, high = measured["macro"]["f1_ci95"]
        metrics.update({
            f"{split}_macro_f1": measured["macro"]["f1"],
            f"{split}_macro_f1_low95": low,
            f"{split}_macro_f1_high95": high,
            f"{split}_accuracy": measured["accuracy"],
            f"{split}_review_rate": measured["review"]["rate"],
        })
    spec = config.input
    return {
        "name": config.name,
        "version": config.version,
        "description": config.description,
        "file": "model.onnx",
        "sha256": sha256,
        "classes": list(config.classes),
        "input": {
            "name": "input",
            "size": spec.size,
            "channels": 1,
            "layout": "NCHW",
            "normalisation": spec.normalisation,
            "mean": float(spec.mean),
            "std": float(spec.std),
            "pad": float(spec.pad),
        },
        "output": {"name": "logits"},
        "temperature": figures["temperature"],
        "thresholds": figures["thresholds"],
        "provenance": {
            "architecture": config.network,
            "trained_on": trained_on,
            "data_sha256": figures["data_sha256"],
            "seed": config.seed,
            "created": datetime.date.fromisoformat(created),
            "code": "models/training",
            "metrics": metrics,
        },
    }


def run(arguments) -> int:
    config, network, state = load_run(arguments.folder)
    with open(os.path.join(arguments.folder, "figures.json"), encoding="utf-8") as file:
        figures = json.load(file)
    if figures["data_sha256"] != state["data_sha256"] or figures["name"] != config.name:
        raise ValueError(f"{arguments.folder}: figures.json is of another run; run evaluate again")
    os.makedirs(arguments.out, exist_ok=True)
    sha256 = write_onnx(network, config, os.path.join(arguments.out, "model.onnx"))
    with open(os.path.join(arguments.out, "model.yaml"), "w", encoding="utf-8") as file:
        contents = model_yaml(config, figures, sha256, arguments.trained_on, arguments.created)
        yaml.safe_dump(contents, file, sort_keys=False, allow_unicode=True, width=120)
    with open(os.path.join(arguments.out, "figures.json"), "w", encoding="utf-8") as file:
        json.dump(figures, file, indent=1)
        file.write("\n")
    cases = reference_inputs(config.input.size)
    logits = predict(network, np.stack([case["values"] for case in cases]))
    reference = {
        "about": "Logits of PyTorch for x[i,j] by formula, i = row, j = column, both from 0, computed in float64 and rounded to "
        "float32; the tensor is fed as it is, without normalisation. Tolerance 0.001.",
        "shape": [1, 1, config.input.size, config.input.size],
        "classes": list(config.classes),
        "sha256": sha256,
        "cases": [
            {"formula": case["formula"], "sum": round(float(case["values"].astype(np.float64).sum()), 3), "logits": row.tolist()}
            for case, row in zip(cases, logits.astype(float))
        ],
    }
    with open(os.path.join(arguments.out, "reference.json"), "w", encoding="utf-8") as file:
        json.dump(reference, file, indent=1)
        file.write("\n")
    print(f"{arguments.out}: model.onnx {os.path.getsize(os.path.join(arguments.out, 'model.onnx'))} bytes, sha256 {sha256}")
    return 0
