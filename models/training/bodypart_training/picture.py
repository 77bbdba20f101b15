"""DICOM, PNG or JPEG → grey picture → model input, by the same steps as the router's picture stage.

Every step here is part of a contract with the Go package ``picture``: a change on one side is a change of the network's input.
"""

from __future__ import annotations

import io
import json
import math
import os
import struct
from dataclasses import dataclass

import numpy as np

from . import geometry

# Transfer syntaxes whose pixel data are plain integers (PS3.5 A.1, A.2, A.3, A.5).
_UNCOMPRESSED = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"}
_JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float64)

BLANK_RANGE = 1.0 / 255.0  # a picture whose grey values span less than this carries nothing
BLANK_DEVIATION = 0.004  # … or whose standard deviation is below this
SATURATED = 0.99  # a window that puts this share of the pixels at one end shows nothing
FARTHEST = 1e25  # of a number in a file: a stored value of 32 bits times it still is a float32
LEAST_COLLIMATED = 0.1  # a collimator that leaves less of the picture free is none


class PictureError(ValueError):
    """The file holds no picture that can be read; the message says why and names the tag or the transfer syntax."""


@dataclass(frozen=True)
class Picture:
    """A grey picture as displayed: ``pixels`` is float32 [rows, columns], 0 (black) … 1, MONOCHROME2 polarity."""

    pixels: np.ndarray
    blank: bool
    voi: str  # "window", "percentile", "lut" or "none"
    aspect: float = 1.0  # a pixel's height by its width

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])


@dataclass(frozen=True)
class Spec:
    """How a picture becomes the network's input; the same keys stand in model.yaml under ``input``."""

    size: int = 160
    normalisation: str = "per_image"  # or "mean_std"
    mean: float = 0.0
    std: float = 1.0
    pad: float = 0.0  # in normalised units

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size: must be at least 1 (got {self.size})")
        if self.normalisation not in ("per_image", "mean_std"):
            raise ValueError(f"normalisation: must be per_image or mean_std (got {self.normalisation!r})")
        if self.normalisation == "mean_std" and not self.std > 0:
            raise ValueError(f"std: must be greater than 0 (got {self.std})")


def read(path: str | os.PathLike) -> Picture:
    """Read one DICOM (with or without preamble), PNG or JPEG file. Raises PictureError, or OSError from the file system."""
    with open(path, "rb") as file:
        return decode(file.read())


def decode(content: bytes) -> Picture:
    """The picture in the bytes of one file. Raises PictureError."""
    if content.startswith(b"\x89PNG\r\n\x1a\n") or content.startswith(b"\xff\xd8\xff"):
        return _ordinary(content)
    return _dicom(content)


def _ordinary(content: bytes) -> Picture:
    """PNG or JPEG: luminance over full scale, no VOI."""
    grey, full_scale = _luminance_of_image(content)
    pixels = np.clip(grey / full_scale, 0, 1)
    return _finish(pixels, np.zeros(pixels.shape, dtype=bool), "none")


def _luminance_of_image(content: bytes, raw_rgb: bool = False) -> tuple[np.ndarray, float]:
    """Luminance [rows, columns] as float64 and its full scale. raw_rgb: a JPEG's components are RGB though no marker says so."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            if raw_rgb and image.format == "JPEG" and "adobe_transform" not in image.info:
                image.draft("YCbCr", image.size)  # hands the components out as they are stored
                return np.asarray(image, dtype=np.float64) @ _LUMA, 255.0
            if image.mode.startswith("I"):  # PNG of 16 bits
                return np.asarray(image, dtype=np.float64), 65535.0
            if image.mode == "1":
                image = image.convert("L")
            if image.mode == "L":
                return np.asarray(image, dtype=np.float64), 255.0
            if image.mode == "LA":
                return np.asarray(image.getchannel("L"), dtype=np.float64), 255.0
            return np.asarray(image.convert("RGB"), dtype=np.float64) @ _LUMA, 255.0
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise PictureError(f"decode picture: {error}") from error


def _dicom(content: bytes) -> Picture:
    import pydicom
    from pydicom.uid import UID

    try:
        ds = pydicom.dcmread(io.BytesIO(content), force=True)
    except Exception as error:  # pydicom raises nearly anything on broken files
        raise PictureError(f"parse DICOM: {type(error).__name__}: {error}") from error
    try:
        syntax = str(getattr(ds.file_meta, "TransferSyntaxUID", "") or "") if hasattr(ds, "file_meta") else ""
        if not syntax:
            implicit, little = getattr(ds, "is_implicit_VR", True), getattr(ds, "is_little_endian", True)
            syntax = "1.2.840.10008.1.2" if implicit else "1.2.840.10008.1.2.1" if little else "1.2.840.10008.1.2.2"
            if not hasattr(ds, "file_meta"):
                ds.file_meta = pydicom.dataset.FileMetaDataset()
            ds.file_meta.TransferSyntaxUID = UID(syntax)
        return _picture_of_dataset(ds, syntax)
    except PictureError:
        raise
    except Exception as error:
        raise PictureError(f"read DICOM picture: {type(error).__name__}: {error}") from error


def _picture_of_dataset(ds, syntax: str) -> Picture:
    if "PixelData" not in ds:
        raise PictureError("no Pixel Data (7FE0,0010)")
    if int(ds.get("NumberOfFrames") or 1) > 1:
        raise PictureError(f"multi-frame: Number of Frames (0028,0008) is {ds.NumberOfFrames}")
    if not int(ds.get("Rows") or 0) or not int(ds.get("Columns") or 0):
        raise PictureError("Rows (0028,0010) or Columns (0028,0011) is zero or missing")
    photometric = str(ds.get("PhotometricInterpretation") or "MONOCHROME2").strip().upper()
    stored = _stored_values(ds, syntax, photometric)
    aspect = geometry.pixel_aspect(ds)
    padding = _padding(ds, stored) if photometric.startswith("MONOCHROME") else np.zeros(stored.shape, dtype=bool)
    covered = geometry.covered(ds, "Shutter", stored.shape, aspect)
    if covered is not None and not covered.all():
        padding = padding | covered
    values = _modality(ds, stored)
    inverted = photometric == "MONOCHROME1" or (
        photometric == "MONOCHROME2" and str(ds.get("PresentationLUTShape") or "").strip().upper() == "INVERSE"
    )
    pixels, voi = _voi(ds, values, padding, aspect)
    if inverted:
        pixels = 1.0 - pixels
    return _finish(pixels, padding, voi, aspect)


def _stored_values(ds, syntax: str, photometric: str) -> np.ndarray:
    """Stored values [rows, columns] as float64; colour as the luminance of its stored values."""
    if syntax == _JPEG_BASELINE:
        from pydicom.encaps import generate_pixel_data_frame

        frame = next(generate_pixel_data_frame(ds.PixelData, 1))
        grey, _ = _luminance_of_image(frame, raw_rgb=photometric == "RGB")
        return grey  # of the size that the JPEG has, whatever the header says
    if syntax not in _UNCOMPRESSED:
        from pydicom.uid import UID

        raise PictureError(
            f"transfer syntax {UID(syntax).name} ({syntax}) is not decoded here; convert first, for example with gdcmconv --raw"
        )
    if ds.BitsAllocated not in (8, 16, 32):
        raise PictureError(f"Bits Allocated (0028,0100) is {ds.BitsAllocated}; 8, 16 and 32 are read")
    pixels = int(ds.Rows) * int(ds.Columns)
    if photometric == "YBR_PARTIAL_422" and ds.BitsAllocated == 8 and 2 * pixels <= len(ds.PixelData) < 3 * pixels:
        pairs = np.frombuffer(ds.PixelData, dtype=np.uint8, count=2 * pixels).reshape(-1, 4)  # Y1 Y2 Cb Cr
        return pairs[:, :2].reshape(ds.Rows, ds.Columns).astype(np.float64)
    array = ds.pixel_array
    if photometric == "PALETTE COLOR":
        from pydicom.pixel_data_handlers.util import apply_color_lut

        return apply_color_lut(array, ds)[..., :3].astype(np.float64) @ _LUMA
    array = _stored_bits(array, ds)
    if array.ndim == 2:
        return array.astype(np.float64)
    if array.ndim == 3 and array.shape[2] == 3:
        if photometric.startswith("YBR"):
            return array[..., 0].astype(np.float64)  # Y is the luminance (PS3.3 C.7.6.3.1.2)
        return array.astype(np.float64) @ _LUMA
    raise PictureError(f"pixel data of shape {array.shape}")


def _stored_bits(array: np.ndarray, ds) -> np.ndarray:
    """Keep the Bits Stored below High Bit: older files carry overlays in the bits above (PS3.5 8.1.1)."""
    allocated, stored = int(ds.BitsAllocated), int(ds.get("BitsStored") or ds.BitsAllocated)
    high = int(ds.get("HighBit", stored - 1))
    shift = high + 1 - stored
    if stored >= allocated or stored < 1 or shift < 0 or high >= allocated:
        return array
    wide = (array.astype(np.int64) >> shift) & ((1 << stored) - 1)
    if int(ds.get("PixelRepresentation") or 0) == 1:
        sign = 1 << (stored - 1)
        wide = (wide ^ sign) - sign
    return wide


def _padding(ds, stored: np.ndarray) -> np.ndarray:
    """True where the stored value is Pixel Padding Value, or lies between it and Pixel Padding Range Limit (PS3.3 C.7.5.1.1.2)."""
    first = _padding_value(ds, "PixelPaddingValue")
    if first is None:
        return np.zeros(stored.shape, dtype=bool)
    last = _padding_value(ds, "PixelPaddingRangeLimit")
    if last is None:
        last = first
    return (stored >= min(first, last)) & (stored <= max(first, last))


def _padding_value(ds, keyword: str) -> int | None:
    value = ds.get(keyword)
    if value is None or value == "":
        return None
    if isinstance(value, bytes):  # read with VR UN
        value = struct.unpack("<H", value[:2])[0]
    value = int(value)
    bits = int(ds.BitsAllocated)
    if int(ds.get("PixelRepresentation") or 0) == 1 and value >= 1 << (bits - 1):
        return value - (1 << bits)  # written as US though the pixels are signed
    if int(ds.get("PixelRepresentation") or 0) == 0 and value < 0:
        return value + (1 << bits)
    return value


def _modality(ds, stored: np.ndarray) -> np.ndarray:
    """Modality LUT Sequence if present, else Rescale Slope and Intercept (PS3.3 C.11.1)."""
    sequence = ds.get("ModalityLUTSequence")
    if sequence:
        table, first, _ = _lut(sequence[0], ds)
        return table[_lut_index(stored, first, len(table))]
    slope, intercept = _number(ds.get("RescaleSlope")), _number(ds.get("RescaleIntercept"))
    if slope is None or abs(slope) < 1 / FARTHEST:
        slope = 1.0
    return stored * slope + (intercept or 0.0)


def _lut(item, ds) -> tuple[np.ndarray, int, int]:
    """The table as float64, the first mapped input and the bits of an entry (PS3.3 C.11.1.1.1)."""
    count, first, bits = (int(v) for v in item.LUTDescriptor)
    count = count or 1 << 16
    if int(ds.get("PixelRepresentation") or 0) == 1 and first >= 1 << 15:
        first -= 1 << 16
    content = item.LUTData
    if isinstance(content, bytes):
        order = "<" if ds.is_little_endian else ">"
        narrow = len(content) in (count, count + 1) and bits <= 8
        table = np.frombuffer(content, dtype=np.uint8 if narrow else order + "u2", count=count)
    else:
        table = np.atleast_1d(np.asarray(content, dtype=np.float64))
    if len(table) < 1:
        raise PictureError("LUT Data (0028,3006) is empty")
    return table[:count].astype(np.float64), first, bits


def _lut_index(values: np.ndarray, first: int, count: int) -> np.ndarray:
    return np.clip(np.floor(values - first + 0.5), 0, count - 1).astype(np.int64)


def _number(value) -> float | None:
    """The first of the values of a decimal string, None when there is none or it is no number that can be calculated with."""
    if value is None or value == "":
        return None
    if not isinstance(value, (str, bytes, int, float)) and hasattr(value, "__len__"):
        if len(value) == 0:
            return None
        value = value[0]
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if abs(number) <= FARTHEST else None  # NaN is not


def _voi(ds, values: np.ndarray, padding: np.ndarray, aspect: float) -> tuple[np.ndarray, str]:
    """Values → 0…1 float64 by the first window, the first VOI LUT or the percentiles, and which of them it was."""
    counted = values[~padding] if padding.any() else values
    if _present(ds, "WindowCenter") and _present(ds, "WindowWidth"):
        centre, width = _number(ds.WindowCenter), _number(ds.WindowWidth)
        function = str(ds.get("VOILUTFunction") or "LINEAR").strip().upper()
        linear = function not in ("LINEAR_EXACT", "SIGMOID")
        wide = width is not None and (width >= 1 if linear else width >= 1 / FARTHEST)
        if wide and centre is not None and centre - width / 2 != centre + width / 2:
            shown = _window(counted, centre, width, function)
            if shown.size and np.mean(shown <= 0) < SATURATED and np.mean(shown >= 1) < SATURATED:
                return _window(values, centre, width, function), "window"
    elif ds.get("VOILUTSequence"):
        table, first, bits = _lut(ds.VOILUTSequence[0], ds)
        return np.clip(table[_lut_index(values, first, len(table))] / ((1 << bits) - 1), 0, 1), "lut"
    return _percentile_window(values, counted, _framed(ds, values, padding, aspect)), "percentile"


def _framed(ds, values: np.ndarray, padding: np.ndarray, aspect: float) -> np.ndarray | None:
    """The values inside the collimation, None where there is none that can be believed."""
    covered = geometry.covered(ds, "Collimator", values.shape, aspect)
    if covered is None or np.count_nonzero(~covered) < LEAST_COLLIMATED * covered.size:
        return None
    framed = values[~covered & ~padding]
    return framed if framed.size else None


def _present(ds, keyword: str) -> bool:
    value = ds.get(keyword)
    return value is not None and value != "" and not (hasattr(value, "__len__") and len(value) == 0)


def _window(values: np.ndarray, centre: float, width: float, function: str) -> np.ndarray:
    """PS3.3 C.11.2.1.2.1 (LINEAR), C.11.2.1.3.1 (SIGMOID), C.11.2.1.3.2 (LINEAR_EXACT), onto 0…1."""
    if function == "SIGMOID":
        return 1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - centre) / width, -700, 700)))
    if function == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0, 1)
    if width == 1:
        return (values > centre - 0.5).astype(np.float64)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


def _percentile_window(values: np.ndarray, counted: np.ndarray, framed: np.ndarray | None) -> np.ndarray:
    """Between the 0.5th and the 99.5th percentile by nearest rank, of the values inside the collimation where there is one; min and
    max of all where those are alike; black where these are too."""
    if not counted.size:
        return np.zeros(values.shape)
    ranked = counted if framed is None else framed
    low_rank, high_rank = (max(0, math.ceil(share * ranked.size) - 1) for share in (0.005, 0.995))
    ordered = np.partition(ranked.ravel(), (low_rank, high_rank))
    low, high = ordered[low_rank], ordered[high_rank]
    if low == high:
        low, high = counted.min(), counted.max()
    if low == high:
        return np.zeros(values.shape)
    return np.clip((values - low) / (high - low), 0, 1)


def _finish(pixels: np.ndarray, padding: np.ndarray, voi: str, aspect: float = 1.0) -> Picture:
    """Padding and what a shutter covers become black and are left out when the picture is tested for being blank."""
    counted = pixels[~padding] if padding.any() else pixels
    blank = not counted.size or bool(counted.max() - counted.min() < BLANK_RANGE or counted.std() < BLANK_DEVIATION)
    pixels = np.where(padding, 0.0, pixels).astype(np.float32)
    return Picture(np.ascontiguousarray(pixels), blank, voi, aspect)


def fitted(width: float, height: float, size: int) -> tuple[int, int]:
    """Width and height of the content of a letterbox of ``size``; rounds half away from zero."""
    scale = size / max(width, height)
    return max(1, math.floor(width * scale + 0.5)), max(1, math.floor(height * scale + 0.5))


def resize(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Separable resize to [height, width] float32: area average to fewer pixels, half-pixel linear interpolation to more."""
    across = _weights(pixels.shape[1], width)
    down = _weights(pixels.shape[0], height)
    return (down @ (pixels.astype(np.float32) @ across.T)).astype(np.float32)


def _weights(inputs: int, outputs: int) -> np.ndarray:
    """Rows of weights [outputs, inputs] that each sum to 1."""
    if inputs >= outputs:
        ratio = inputs / outputs
        edges = np.arange(outputs + 1, dtype=np.float64) * ratio
        cells = np.arange(inputs, dtype=np.float64)
        overlap = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
        weights = np.clip(overlap, 0, None)
        return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    at = np.clip((np.arange(outputs) + 0.5) * inputs / outputs - 0.5, 0, inputs - 1)
    left = np.floor(at).astype(np.int64)
    right = np.minimum(left + 1, inputs - 1)
    weights = np.zeros((outputs, inputs), dtype=np.float64)
    rows = np.arange(outputs)
    np.add.at(weights, (rows, left), 1 - (at - left))
    np.add.at(weights, (rows, right), at - left)
    return weights.astype(np.float32)


def letterbox(content: np.ndarray, spec: Spec) -> np.ndarray:
    """Normalise content that already fits the square, and centre it: float32 [size, size]. The pad counts in no statistic."""
    height, width = content.shape
    if spec.normalisation == "per_image":
        wide = content.astype(np.float64)
        normal = (wide - wide.mean()) / max(wide.std(), 1e-3)
    else:
        normal = (content.astype(np.float64) - spec.mean) / spec.std
    square = np.full((spec.size, spec.size), spec.pad, dtype=np.float32)
    top, left = (spec.size - height) // 2, (spec.size - width) // 2
    square[top : top + height, left : left + width] = normal
    return square


def tensor(picture: Picture, spec: Spec) -> np.ndarray:
    """The network's input for one picture: float32 [size, size]."""
    width, height = fitted(picture.width, picture.height * picture.aspect, spec.size)
    return letterbox(resize(picture.pixels, width, height), spec)


def add_arguments(parser) -> None:
    parser.add_argument("--size", type=int, default=160, help="side of the square, in pixels")
    parser.add_argument("--normalisation", choices=("per_image", "mean_std"), default="per_image")
    parser.add_argument("--mean", type=float, default=0.0, help="for mean_std, in units of 0…1")
    parser.add_argument("--std", type=float, default=1.0, help="for mean_std, in units of 0…1")
    parser.add_argument("--pad", type=float, default=0.0, help="value around the content, in normalised units")
    parser.add_argument("--out", required=True, help="folder for <index>.f32, little-endian float32, size*size values")
    parser.add_argument("files", nargs="+", metavar="FILE")


def run(arguments) -> int:
    """Write each file's tensor and print one JSON line for it; a file that cannot be read is told in its line's ``error``."""
    spec = Spec(arguments.size, arguments.normalisation, arguments.mean, arguments.std, arguments.pad)
    os.makedirs(arguments.out, exist_ok=True)
    for index, path in enumerate(arguments.files):
        line = {"file": path, "width": 0, "height": 0, "blank": False, "voi": "none", "error": None}
        try:
            picture = read(path)
            tensor(picture, spec).astype("<f4").tofile(os.path.join(arguments.out, f"{index}.f32"))
            line.update(width=picture.width, height=picture.height, blank=picture.blank, voi=picture.voi)
        except (PictureError, OSError) as error:
            line["error"] = str(error)
        print(json.dumps(line, ensure_ascii=False), flush=True)
    return 0
