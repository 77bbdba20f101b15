"""Labelled pictures: the list (CSV), the cache of decoded pictures, and the order in which training draws them."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from dataclasses import dataclass

import numpy as np

# The order of the logits. A network may be trained on other classes (the configuration names them); the router knows these.
CLASSES = ("abdominal", "adult_chest", "pediatric_chest", "spine", "others")
COLUMNS = ("file", "class", "split", "patient_id", "source", "hospital")
NEEDED = ("file", "class", "patient_id")


@dataclass(frozen=True)
class Row:
    """One line of the list. ``patient_id`` is any stable pseudonym; ``source`` and ``hospital`` may be empty."""

    file: str
    label: str
    split: str
    patient: str
    source: str
    hospital: str


def read_list(path: str) -> list[Row]:
    """Read a CSV with the columns file, class, patient_id and, where known, split, source and hospital; others are ignored.

    Without a column ``split`` it is drawn by patient (see draw_split).
    """
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        present = reader.fieldnames or ()
        missing = [name for name in NEEDED if name not in present]
        if missing:
            raise ValueError(f"{path}: column {missing[0]} is missing (needed: {', '.join(NEEDED)})")
        rows = []
        for r in reader:
            split = r["split"] if "split" in present else draw_split(r["patient_id"])
            source = r.get("source") or ""
            rows.append(Row(r["file"], r["class"], split, r["patient_id"], source, r.get("hospital") or source))
    if not rows:
        raise ValueError(f"{path}: no pictures in the list")
    return rows


def draw_split(patient: str, seed: int = 1) -> str:
    """train, val or test in 0.70/0.15/0.15, by patient.

    It depends on the patient alone: pictures that are added later do not move a patient from test to train.
    """
    digest = hashlib.sha256(f"{seed}\x1f{patient}".encode()).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    return "train" if share < 0.70 else "val" if share < 0.85 else "test"


def check_splits(rows: list[Row]) -> None:
    """Raise ValueError when a patient stands in more than one split, or a file is listed twice."""
    split_of: dict[str, str] = {}
    files: set[str] = set()
    for row in rows:
        if row.file in files:
            raise ValueError(f"file {row.file} is listed twice")
        files.add(row.file)
        if not row.patient:
            raise ValueError(f"file {row.file}: no patient_id; without it a patient could be in training and in test")
        before = split_of.setdefault(row.patient, row.split)
        if before != row.split:
            raise ValueError(f"patient {row.patient} is in split {before} and in split {row.split} ({row.file})")


def data_hash(rows: list[Row]) -> str:
    """SHA-256 over the sorted list (file, class, split, patient): names the data that a network was made from."""
    digest = hashlib.sha256()
    for row in sorted(rows, key=lambda r: r.file):
        digest.update("\x1f".join((row.file, row.label, row.split, row.patient)).encode() + b"\n")
    return digest.hexdigest()


class Cache:
    """Decoded pictures as written by ``prepare``: pictures.npy uint8 [N, side, side], each content in the top left corner."""

    def __init__(self, folder: str):
        self.rows = read_list(os.path.join(folder, "list.csv"))
        with open(os.path.join(folder, "prepared.json"), encoding="utf-8") as file:
            self.description = json.load(file)
        self.sizes = np.load(os.path.join(folder, "sizes.npy"))  # int [N, 2]: width, height
        self.pictures = np.load(os.path.join(folder, "pictures.npy"), mmap_mode="r")
        if not len(self.rows) == len(self.sizes) == len(self.pictures):
            raise ValueError(f"{folder}: list.csv, sizes.npy and pictures.npy differ in length; run prepare again")

    def content(self, index: int) -> np.ndarray:
        """uint8 [height, width]"""
        width, height = self.sizes[index]
        return np.asarray(self.pictures[index, :height, :width])


def draw_weights(labels: np.ndarray, hospitals: list[str], class_power: float, hospital_power: float) -> np.ndarray:
    """Probability of each picture, float64 [N], sums to 1.

    Classes are drawn by count^-class_power; inside a class the hospitals by count^-hospital_power, so that the few pictures by
    which a class is not one hospital are seen often enough to matter.
    """
    weights = np.zeros(len(labels))
    hospitals_array = np.asarray(hospitals)
    for label in np.unique(labels):
        inside = np.flatnonzero(labels == label)
        names, member, counts = np.unique(hospitals_array[inside], return_inverse=True, return_counts=True)
        share = counts[member].astype(np.float64) ** -hospital_power
        weights[inside] = share / share.sum() * len(inside) ** (1.0 - class_power)
    return weights / weights.sum()
