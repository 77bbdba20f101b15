"""Figures from labels and predictions: confusion matrix, precision, recall, F1, bootstrap intervals, calibration, thresholds."""

from __future__ import annotations

import math

import numpy as np


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts int64 [true, predicted]."""
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def scores(confusion: np.ndarray) -> dict:
    """accuracy, macro_f1 and, per class, precision, recall, f1 (0 where undefined) of a confusion matrix [..., true, predicted].

    macro_f1 is the mean over the classes that have pictures: a split without a class says nothing about it.
    """
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    true, called = confusion.sum(-1), confusion.sum(-2)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(called > 0, hits / called, 0.0)
        recall = np.where(true > 0, hits / true, 0.0)
        f1 = np.where(true + called > 0, 2 * hits / (true + called), 0.0)
        macro = np.where(true > 0, f1, 0.0).sum(-1) / (true > 0).sum(-1)
        accuracy = hits.sum(-1) / true.sum(-1)
    if confusion.ndim == 2:
        macro, accuracy = float(macro), float(accuracy)
    return {"accuracy": accuracy, "macro_f1": macro, "precision": precision, "recall": recall, "f1": f1}


def bootstrap(labels: np.ndarray, predicted: np.ndarray, classes: int, iterations: int = 10_000, seed: int = 1) -> dict:
    """95 % percentile intervals [low, high] of every figure of ``scores``, over pictures drawn with replacement.

    Drawing N pictures with replacement is drawing the cells of the confusion matrix from a multinomial, which is what is done.
    """
    confusion = confusion_matrix(labels, predicted, classes)
    rng = np.random.default_rng(seed)
    total = int(confusion.sum())
    drawn = rng.multinomial(total, confusion.ravel() / total, size=iterations).reshape(iterations, classes, classes)
    resampled = scores(drawn)
    return {name: np.percentile(values, [2.5, 97.5], axis=0).T for name, values in resampled.items()}


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Probabilities float64 [N, classes]."""
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(1, keepdims=True)
    powers = np.exp(scaled)
    return powers / powers.sum(1, keepdims=True)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature of least negative log-likelihood, between 0.05 and 20 (Guo et al., 2017, arXiv 1706.04599)."""

    def loss(log_temperature: float) -> float:
        p = softmax(logits, math.exp(log_temperature))[np.arange(len(labels)), labels]
        return float(-np.log(np.maximum(p, 1e-300)).mean())

    low, high = math.log(0.05), math.log(20.0)
    golden = (math.sqrt(5) - 1) / 2
    for _ in range(60):  # golden section: the loss has one minimum in log T
        left, right = high - golden * (high - low), low + golden * (high - low)
        if loss(left) < loss(right):
            high = right
        else:
            low = left
    return math.exp((low + high) / 2)


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error of the highest probability, in ``bins`` equal steps of confidence."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    error = 0.0
    for b in range(bins):
        inside = place == b
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return float(error)


def wilson_lower(right: int, count: int, z: float = 1.96) -> float:
    """Lower end of Wilson's 95 % interval of a share; 0 for no counts."""
    if count == 0:
        return 0.0
    share = right / count
    centre = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return (centre - spread) / (1 + z * z / count)


def threshold(confidence: np.ndarray, right: np.ndarray, precision: float, forgiven: int = 0) -> float:
    """The lowest confidence from which on the share of right predictions is at least ``precision``; 1 when there is none.

    Up to ``forgiven`` mistakes are let pass whatever their share: one picture of a hundred does not measure half a per cent.
    The threshold lies half-way, in log-odds, between the last picture that may pass and the one below it.
    """
    order = np.argsort(-confidence)
    wrong = np.cumsum(~right[order])
    allowed = np.maximum((1 - precision) * np.arange(1, len(order) + 1), forgiven)
    enough = np.flatnonzero((wrong <= allowed) & right[order])
    if not len(enough):
        return 1.0
    last = enough[-1]
    at = float(confidence[order[last]])
    if last + 1 == len(order):
        return at
    below = float(confidence[order[last + 1]])
    middle = (_log_odds(at) + _log_odds(below)) / 2
    return 1 / (1 + math.exp(-middle))


def _log_odds(p: float) -> float:
    p = min(max(p, 1e-9), 1 - 1e-9)
    return math.log(p / (1 - p))
