"""A folder of DICOM, PNG or JPEG files and a CSV → one cache that training reads without decoding anything again."""

from __future__ import annotations

import csv
import json
import math
import os
import sys
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from . import picture
from .dataset import COLUMNS, Row, check_splits, data_hash, read_list
from .progress import Progress


def add_arguments(parser) -> None:
    parser.add_argument("--root", required=True, help="folder that the CSV's file column is relative to")
    parser.add_argument("--list", required=True, metavar="CSV", help="columns file, class, patient_id[, split, source, hospital]")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where the cache is written")
    parser.add_argument("--side", type=int, default=224, help="longer side of a cached picture at most (default 224)")
    parser.add_argument("--png", type=int, metavar="SIDE", help="also write every picture as PNG, longer side at most SIDE")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)


def _shrink(read: picture.Picture, side: int) -> np.ndarray:
    """At most ``side`` square pixels on the longer side; enlarged only to make them square. uint8."""
    pixels, width, height = read.pixels, read.width, read.height * read.aspect
    if max(width, height) > side or read.aspect != 1:
        width, height = picture.fitted(width, height, min(side, math.ceil(max(width, height))))
        pixels = picture.resize(pixels, width, height)
    return np.clip(np.floor(pixels * 255 + 0.5), 0, 255).astype(np.uint8)


def _load(task: tuple[str, int, str | None, int]) -> tuple[np.ndarray | None, str | None]:
    path, side, png, png_side = task
    try:
        read = picture.read(path)
    except (picture.PictureError, OSError) as error:
        return None, str(error)
    if read.blank:
        return None, "blank"
    if png:
        from PIL import Image

        os.makedirs(os.path.dirname(png), exist_ok=True)
        Image.fromarray(_shrink(read, png_side)).save(png)
    return _shrink(read, side), None


def run(arguments) -> int:
    """Read every listed file. Those that cannot be read are named, left out and counted; status 1 when there were any."""
    rows = read_list(arguments.list)
    check_splits(rows)
    os.makedirs(arguments.out, exist_ok=True)
    tasks = []
    for row in rows:
        png = os.path.join(arguments.out, "png", os.path.splitext(row.file)[0] + ".png") if arguments.png else None
        tasks.append((os.path.join(arguments.root, row.file), arguments.side, png, arguments.png or 0))
    kept: list[Row] = []
    sizes: list[tuple[int, int]] = []
    failed = 0
    target = os.path.join(arguments.out, "pictures.npy")
    store = np.lib.format.open_memmap(target + ".part", "w+", np.uint8, (len(rows), arguments.side, arguments.side))
    progress = Progress(len(rows), "prepare")
    with ProcessPoolExecutor(max(1, arguments.workers)) as pool:
        for row, (pixels, error) in zip(rows, pool.map(_load, tasks, chunksize=16)):
            progress.step()
            if pixels is None:
                failed += 1
                print(f"{row.file}: left out: {error}", file=sys.stderr)
                continue
            height, width = pixels.shape
            store[len(kept), :height, :width] = pixels
            kept.append(row)
            sizes.append((width, height))
    progress.close()
    if not kept:
        raise SystemExit("prepare: none of the listed files could be read")
    store.flush()
    if failed:
        np.save(target + ".kept.npy", store[: len(kept)])
        os.replace(target + ".kept.npy", target)
        os.remove(target + ".part")
    else:
        os.replace(target + ".part", target)
    np.save(os.path.join(arguments.out, "sizes.npy"), np.asarray(sizes, dtype=np.int64))
    with open(os.path.join(arguments.out, "list.csv"), "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows((r.file, r.label, r.split, r.patient, r.source, r.hospital) for r in kept)
    description = {"data_sha256": data_hash(kept), "pictures": len(kept), "left_out": failed, "side": arguments.side}
    with open(os.path.join(arguments.out, "prepared.json"), "w", encoding="utf-8") as file:
        json.dump(description, file, indent=2)
        file.write("\n")
    print(json.dumps(description))
    return 1 if failed else 0
