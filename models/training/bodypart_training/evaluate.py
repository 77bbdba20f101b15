"""Measure a trained run on the files themselves, through the same picture steps as serving.

Temperature and thresholds come from the validation split and from nothing else. The test split is read only when it is asked
for: whoever looks at it while tuning has no test split any more.
"""

from __future__ import annotations

import json
import os
import time

import numpy as np
import torch

from . import networks, picture
from .config import Config, from_plain
from .dataset import Row, check_splits, data_hash, read_list
from .metrics import (
    bootstrap,
    calibration_error,
    confusion_matrix,
    fit_temperature,
    scores,
    softmax,
    threshold,
    wilson_lower,
)
from .progress import Progress
from .train import predict


def add_arguments(parser) -> None:
    parser.add_argument("--run", required=True, dest="folder", metavar="FOLDER", help="run folder of a finished training")
    parser.add_argument("--data", required=True, metavar="FOLDER", help="the cache that the run was trained from (its list.csv)")
    parser.add_argument("--root", required=True, help="folder of the files themselves, as given to prepare")
    parser.add_argument("--splits", nargs="+", default=["val"], help="splits to measure (default val; test once, at the end)")
    parser.add_argument("--precision", type=float, default=0.995, help="precision that the thresholds aim at on val")
    parser.add_argument("--floor", type=float, default=0.95, help="least threshold of a class")
    parser.add_argument("--few", type=int, default=100, help="a class called less often than this in val has no mistake forgiven")
    parser.add_argument("--iterations", type=int, default=10_000, help="bootstrap iterations")
    parser.add_argument("--threads", type=int)


def load_run(folder: str) -> tuple[Config, torch.nn.Module, dict]:
    """The configuration, the network with its trained weights (evaluation mode) and the checkpoint's other contents."""
    state = torch.load(os.path.join(folder, "checkpoint.pt"), map_location="cpu")
    config = from_plain(state["config"])
    if state["epoch"] < config.epochs:
        raise ValueError(f"{folder}: training stopped after epoch {state['epoch']} of {config.epochs}; run train again to go on")
    network = networks.build(config.network, len(config.classes))
    network.load_state_dict(state["network"])
    network.eval()
    return config, network, state


def read_inputs(rows: list[Row], root: str, spec: picture.Spec) -> np.ndarray:
    """float32 [N, S, S]. A file that cannot be read raises PictureError with its name: a figure must not leave out pictures."""
    inputs = np.empty((len(rows), spec.size, spec.size), dtype=np.float32)
    progress = Progress(len(rows), "read")
    for place, row in enumerate(rows):
        try:
            inputs[place] = picture.tensor(picture.read(os.path.join(root, row.file)), spec)
        except picture.PictureError as error:
            raise picture.PictureError(f"{row.file}: {error}") from error
        progress.step()
    progress.close()
    return inputs


def choose_thresholds(probabilities: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], arguments) -> dict[str, dict]:
    """Per class: the threshold, and what in the validation split stands behind it.

    One mistake is forgiven in a class that is called often enough: with under 200 pictures the aim of 99.5 % would let a single
    doubtful label set the threshold, and send half of the class to review.
    """
    chosen = {}
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    for index, name in enumerate(classes):
        mine = predicted == index
        right = labels[mine] == index
        forgiven = int(mine.sum() >= arguments.few)
        own = threshold(confidence[mine], right, arguments.precision, forgiven) if mine.any() else 1.0
        value = max(own, arguments.floor)
        value = float(np.floor(value * 1e6) / 1e6)
        above = confidence[mine] >= value
        count, hits = int(above.sum()), int(right[above].sum())
        lower = wilson_lower(hits, count)
        chosen[name] = {
            "threshold": value,
            "by_precision_alone": round(own, 6),
            "val_predicted": int(mine.sum()),
            "val_above": count,
            "val_above_right": hits,
            "val_precision_lower95": round(lower, 4),
            "supported": lower >= arguments.precision,
        }
    return chosen


def measure(rows: list[Row], labels, logits, classes, temperature: float, thresholds: dict[str, float], iterations: int) -> dict:
    """All figures of one split, as JSON holds them."""
    probabilities = softmax(logits, temperature)
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    confusion = confusion_matrix(labels, predicted, len(classes))
    figures, intervals = scores(confusion), bootstrap(labels, predicted, len(classes), iterations)
    present = confusion.sum(1) > 0

    def both(name: str, index: int) -> dict:
        return {name: _round(figures[name][index]), name + "_ci95": _round(intervals[name][index])}

    per_class = {}
    for index, name in enumerate(classes):
        entry = {"n": int(confusion[index].sum())}
        for figure in ("precision", "recall", "f1"):
            entry.update(both(figure, index))
        per_class[name] = entry
    limits = np.array([thresholds[name] for name in classes])
    passed = confidence >= limits[predicted]
    per_source: dict[str, dict] = {}
    for row, label, guess, ok in zip(rows, labels, predicted, passed):
        nothing = {"n": 0, "right": 0, "review": 0, "wrong_passed": 0}
        entry = per_source.setdefault(row.source or "unnamed", {}).setdefault(row.label, nothing)
        entry["n"] += 1
        entry["right"] += int(label == guess)
        entry["review"] += int(not ok)
        entry["wrong_passed"] += int(ok and label != guess)
    return {
        "n": len(rows),
        "accuracy": _round(figures["accuracy"]),
        "accuracy_ci95": _round(intervals["accuracy"]),
        "macro": {
            "precision": _round(figures["precision"][present].mean()),
            "recall": _round(figures["recall"][present].mean()),
            "f1": _round(figures["macro_f1"]),
            "f1_ci95": _round(intervals["macro_f1"]),
        },
        "per_class": per_class,
        "per_source": {name: per_source[name] for name in sorted(per_source)},
        "confusion": {"rows": "true", "columns": "predicted", "classes": list(classes), "matrix": confusion.tolist()},
        "calibration": {"expected_error": _round(calibration_error(probabilities, labels))},
        "review": {
            "n": int((~passed).sum()),
            "rate": _round((~passed).mean()),
            "passed": int(passed.sum()),
            "passed_wrong": int((passed & (predicted != labels)).sum()),
        },
    }


def _round(value):
    return np.round(np.asarray(value, dtype=np.float64), 4).tolist()


def mistakes(rows: list[Row], labels, logits, inputs, classes, temperature: float, path: str, most: int = 60) -> list[dict]:
    """Name the pictures that are wrong, the most confident first, and draw them as one PNG for a person to look at."""
    from PIL import Image, ImageDraw

    probabilities = softmax(logits, temperature)
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    wrong = sorted(np.flatnonzero(predicted != labels), key=lambda i: -confidence[i])
    found = [
        {"file": rows[i].file, "class": classes[labels[i]], "predicted": classes[predicted[i]], "confidence": _round(confidence[i])}
        for i in wrong
    ]
    if wrong:
        side, columns = 200, 8
        shown = wrong[:most]
        sheet = Image.new("L", (columns * side, (side + 24) * -(-len(shown) // columns)))
        draw = ImageDraw.Draw(sheet)
        for place, index in enumerate(shown):
            left, top = place % columns * side, place // columns * (side + 24)
            grey = np.clip(inputs[index] * 50 + 128, 0, 255).astype(np.uint8)
            sheet.paste(Image.fromarray(grey).resize((side, side)), (left, top + 24))
            draw.text((left + 2, top), f"{rows[index].source} {classes[labels[index]]}", fill=255)
            draw.text((left + 2, top + 12), f"> {classes[predicted[index]]} {confidence[index]:.3f}", fill=255)
        sheet.save(path)
    return found


def run(arguments) -> int:
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    config, network, state = load_run(arguments.folder)
    rows = read_list(os.path.join(arguments.data, "list.csv"))
    check_splits(rows)
    if data_hash(rows) != state["data_sha256"]:
        raise ValueError(f"{arguments.data} is not the data that this run was trained from; prepare and train again")
    splits = ["val"] + [name for name in arguments.splits if name != "val"]
    figures = {"name": config.name, "version": config.version, "seed": config.seed, "data_sha256": state["data_sha256"], "splits": {}}
    temperature, thresholds = 1.0, {}
    for split in splits:
        inside = [row for row in rows if row.split == split]
        if not inside:
            raise ValueError(f"split {split}: no pictures in the list")
        labels = np.array([config.classes.index(row.label) for row in inside])
        inputs = read_inputs(inside, arguments.root, config.input)
        started = time.monotonic()
        logits = predict(network, inputs)
        print(f"{split}: {len(inside)} pictures, {1000 * (time.monotonic() - started) / len(inside):.1f} ms each", flush=True)
        if split == "val":
            temperature = round(fit_temperature(logits, labels), 4)
            support = choose_thresholds(softmax(logits, temperature), labels, config.classes, arguments)
            thresholds = {name: entry["threshold"] for name, entry in support.items()}
            figures.update(temperature=temperature, thresholds=thresholds, threshold_support=support)
        measured = measure(inside, labels, logits, config.classes, temperature, thresholds, arguments.iterations)
        sheet = os.path.join(arguments.folder, f"mistakes-{split}.png")
        listed = mistakes(inside, labels, logits, inputs, config.classes, temperature, sheet)
        with open(os.path.join(arguments.folder, f"mistakes-{split}.json"), "w", encoding="utf-8") as file:
            json.dump(listed, file, indent=1)
        np.savez_compressed(os.path.join(arguments.folder, f"logits-{split}.npz"), logits=logits, labels=labels)
        figures["splits"][split] = measured
        print(f"{split}: accuracy {measured['accuracy']}, macro F1 {measured['macro']['f1']} {measured['macro']['f1_ci95']}, "
              f"review {measured['review']}", flush=True)
    with open(os.path.join(arguments.folder, "figures.json"), "w", encoding="utf-8") as file:
        json.dump(figures, file, indent=1)
        file.write("\n")
    return 0
