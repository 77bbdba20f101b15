"""Tiny DICOM files and data sets for the tests, drawn by formula: no real picture."""

import csv
import os

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset


def dicom(path, stored, **tags):
    """Write an explicit little endian file of 16 bits around ``stored`` [rows, columns]; tags override what is set here."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    meta.TransferSyntaxUID = tags.pop("syntax", "1.2.840.10008.1.2.1")
    ds = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
    ds.is_little_endian, ds.is_implicit_VR = True, False
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID, "DX"
    signed = tags.get("PixelRepresentation", 0)
    ds.Rows, ds.Columns = stored.shape[:2]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, signed
    ds.PixelData = np.ascontiguousarray(stored.astype("<i2" if signed else "<u2")).tobytes()
    for name, value in tags.items():
        setattr(ds, name, value)
    ds["PixelData"].is_undefined_length = meta.TransferSyntaxUID.is_encapsulated
    ds.save_as(path, write_like_original=False)
    return path


def scene(height, width, maximum, seed=0):
    """A smooth picture with a bright ellipse, integers 0…maximum."""
    y, x = np.mgrid[0:height, 0:width]
    ellipse = np.exp(-(((y - height * 0.45) / (height * 0.3)) ** 2 + ((x - width * (0.4 + 0.05 * seed)) / (width * 0.25)) ** 2))
    return np.floor((0.15 + 0.1 * y / height + 0.7 * ellipse) * maximum).clip(0, maximum).astype(np.int64)


def data_set(folder, per_class=6, size=40):
    """A folder of PNG files of two classes (bars across, bars down) and list.csv; returns the list's path."""
    rng = np.random.default_rng(0)
    rows = []
    for label in ("spine", "others"):
        for number in range(per_class):
            line = np.arange(size) // 5 % 2 * 160
            content = np.tile(line, (size, 1)) if label == "spine" else np.tile(line[:, None], (1, size))
            content = (content + rng.integers(0, 60, (size, size))).astype(np.uint8)
            name = f"{label}-{number}.png"
            Image.fromarray(content).save(os.path.join(folder, name))
            split = "val" if number % 3 == 2 else "train"
            rows.append((name, label, split, f"patient-{label}-{number}", "synthetic", f"hospital-{number % 2}"))
    path = os.path.join(folder, "list.csv")
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "class", "split", "patient_id", "source", "hospital"))
        writer.writerows(rows)
    return path
