"""What a DICOM file says about the shape of its pixels and the outline of its picture; the same rules as in Go's package ``picture``."""

from __future__ import annotations

import math

import numpy as np

MOST_VERTICES = 1000  # of a polygon that is believed
ASPECTS = (0.1, 10.0)  # a pixel's height by its width, at least and at most
SQUARE_ENOUGH = 0.001  # difference of that from 1 below which pixels are square


def _numbers(ds, keyword: str) -> list[float]:
    """All numbers of an element, none when one of them cannot be read or is not finite."""
    try:
        value = ds.get(keyword)
        if value is None or value == "":
            return []
        values = [value] if isinstance(value, (str, bytes, int, float)) else list(value)
        numbers = [float(v) for v in values]
    except (TypeError, ValueError, OverflowError):
        return []
    return numbers if all(map(math.isfinite, numbers)) else []


def pixel_aspect(ds) -> float:
    """A pixel's height by its width. The first spacing that can be read counts before Pixel Aspect Ratio, which PS3.3 C.7.6.3 has
    only where no spacing says the same; all have the vertical number first."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio"):
        numbers = _numbers(ds, keyword)
        if len(numbers) < 2 or numbers[0] <= 0 or numbers[1] <= 0:
            continue
        aspect = numbers[0] / numbers[1]
        if ASPECTS[0] <= aspect <= ASPECTS[1]:
            return 1.0 if abs(aspect - 1) < SQUARE_ENOUGH else aspect
    return 1.0


def covered(ds, device: str, shape: tuple[int, int], aspect: float) -> np.ndarray | None:
    """True where a Display Shutter (PS3.3 C.7.6.11) or an X-Ray Collimator (C.8.7.3) covers the picture, or None without one.

    Several shapes leave free what is inside of all. Rows and columns count from 1; edges belong to what is free.
    """
    try:
        said = ds.get(f"{device}Shape") or []
        shapes = {str(s).strip() for s in ([said] if isinstance(said, str) else said)}
    except (TypeError, ValueError):
        return None
    row, column = np.mgrid[1.0 : shape[0] + 1, 1.0 : shape[1] + 1]
    outside = None
    for name in ("RECTANGULAR", "CIRCULAR", "POLYGONAL"):
        free = _free(ds, device, name, row, column, aspect) if name in shapes else None
        if free is not None:
            outside = ~free if outside is None else outside | ~free
    return outside


def _free(ds, device: str, shape: str, row: np.ndarray, column: np.ndarray, aspect: float) -> np.ndarray | None:
    """What one shape leaves free, None when its numbers make no sense."""
    if shape == "RECTANGULAR":
        edges = ("LeftVertical", "RightVertical", "UpperHorizontal", "LowerHorizontal")
        numbers = [_numbers(ds, f"{device}{edge}Edge") for edge in edges]
        if not all(numbers):
            return None
        left, right, upper, lower = (n[0] for n in numbers)
        if left > right or upper > lower:
            return None
        return (row >= upper) & (row <= lower) & (column >= left) & (column <= right)
    if shape == "CIRCULAR":
        centre, radius = _numbers(ds, f"CenterOfCircular{device}"), _numbers(ds, f"RadiusOfCircular{device}")
        if len(centre) < 2 or not radius or radius[0] <= 0:
            return None
        half = radius[0] ** 2 - ((row - centre[0]) * aspect) ** 2  # the radius is given in columns
        reach = np.sqrt(np.maximum(half, 0))
        return (half >= 0) & (column >= centre[1] - reach) & (column <= centre[1] + reach)
    vertices = _numbers(ds, f"VerticesOfThePolygonal{device}")
    if len(vertices) < 6 or len(vertices) % 2 or len(vertices) > 2 * MOST_VERTICES:
        return None
    free = np.zeros(row.shape, dtype=bool)
    points = list(zip(vertices[::2], vertices[1::2]))
    for y, line in enumerate(free, start=1):
        at = sorted(
            x1 + (y - y1) * (x2 - x1) / (y2 - y1) for (y1, x1), (y2, x2) in zip([points[-1]] + points, points) if (y1 <= y) != (y2 <= y)
        )
        for first, last in zip(at[::2], at[1::2]):
            line[max(math.ceil(first), 1) - 1 : max(math.floor(last), 0)] = True
    return free
