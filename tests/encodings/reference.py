"""What pydicom, numpy, Pillow and OpenJPH make of DICOM files: the reference that the router's picture stage is held against.

    reference.py OUT < list of files, one path a line
    reference.py --versions

For the n-th file it writes one line of JSON to standard output, and into the folder OUT, where it can,

    n.values.f32   rescaled values, or the luminance of a colour picture, before any window; NaN where padding
    n.shown.f32    the picture as displayed, 0 (black) … 1
    n.dcm          a file of the same pixels whose one window spans all of them, so that a viewer shows the values themselves

It knows nothing of the router's code and of models/training. Pixels, Modality LUT, window, VOI LUT and palette are pydicom's. What
pydicom has no opinion on follows the text of docs/architecture.md, "The picture steps".
"""

import json
import math
import os
import subprocess
import sys
import tempfile
import warnings

import gdcm
import numpy as np
import PIL
import pydicom
import pydicom.encaps
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomFile
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.pixel_data_handlers import util
from pydicom.uid import UID

# Native pixels and RLE are pydicom's own code. For the rest Pillow (libjpeg-turbo, OpenJPEG) comes before GDCM, since the router uses
# gdcmconv too: there GDCM says something about the router's way around the pixels, and nothing about the decoder.
DECODERS = ("numpy", "rle", "pillow", "gdcm")
HTJ2K = ("1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.203")
LUMA = np.array([0.299, 0.587, 0.114])
SATURATED = 0.99
PERCENTILES = (0.5, 99.5)


class Unreadable(Exception):
    """The reference cannot read the file; the text says why."""


def dataset(path):
    """The file's dataset, with the transfer syntax that pydicom found where the file names none."""
    ds = pydicom.dcmread(path, force=True)
    if not hasattr(ds, "file_meta"):
        ds.file_meta = FileMetaDataset()
    if not ds.file_meta.get("TransferSyntaxUID"):
        little = "1.2.840.10008.1.2" if ds.is_implicit_VR else "1.2.840.10008.1.2.1"
        ds.file_meta.TransferSyntaxUID = UID(little if ds.is_little_endian else "1.2.840.10008.1.2.2")
    return ds


def swapped(content):
    """The bytes with every two of them exchanged."""
    return np.frombuffer(content, dtype="<u2").byteswap().tobytes()


def mended(ds):
    """What pydicom 2 reads otherwise than the standard says, put right in the dataset before it reads it."""
    for keyword in ("ModalityLUTSequence", "VOILUTSequence"):  # an empty table is none
        if ds.get(keyword) and not ds[keyword].value[0].get("LUTDescriptor"):
            del ds[keyword]
    for keyword in ("RescaleSlope", "RescaleIntercept"):  # neither is an empty number
        if keyword in ds and ds[keyword].VM == 0:
            del ds[keyword]
    if not ds.is_little_endian and ds.get("BitsAllocated") == 8 and ds["PixelData"].VR == "OW" and int(pydicom.__version__.split(".")[0]) < 3:
        ds.PixelData = swapped(ds.PixelData)  # two pixels of 8 bits share a word (PS3.5, 8.1.1)


def decoded(ds):
    """pydicom's pixel array, and the name of the decoder. ds's PhotometricInterpretation is that of the array afterwards."""
    if "PixelData" not in ds:
        raise Unreadable("no Pixel Data")
    if int(ds.get("NumberOfFrames") or 1) > 1:
        raise Unreadable("multi-frame")
    mended(ds)
    if str(ds.file_meta.TransferSyntaxUID) in HTJ2K:
        return expanded(ds), "openjph"
    refusals = []
    for name in DECODERS:
        try:
            ds.convert_pixel_data(handler_name=name)
            return ds.pixel_array, name
        except Exception as error:  # pydicom raises nearly anything
            refusals.append(f"{name}: {type(error).__name__}: {error}")
    raise Unreadable(" | ".join(refusals))


def expanded(ds):
    """High-Throughput JPEG 2000, which pydicom does not read, by OpenJPH's ojph_expand; the router's comes from OpenJPEG."""
    with tempfile.TemporaryDirectory() as folder:
        stream, out = os.path.join(folder, "in.j2c"), os.path.join(folder, "out.pgm" if ds.SamplesPerPixel == 1 else "out.ppm")
        with open(stream, "wb") as file:
            file.write(pydicom.encaps.defragment_data(ds.PixelData))
        subprocess.run(["ojph_expand", "-i", stream, "-o", out], check=True, capture_output=True)
        with Image.open(out) as image:
            return np.asarray(image).copy()


def stored_bits(array, ds):
    """The Bits Stored below High Bit; above them, older files carry overlays (PS3.5, 8.1.1). pydicom leaves them in."""
    if array.dtype.kind not in "iu":
        return array
    stored, high = int(ds.BitsStored), int(ds.get("HighBit", ds.BitsStored - 1))
    shift = high + 1 - stored
    if stored == ds.BitsAllocated or shift < 0:
        return array
    wide = (array.astype(np.int64) >> shift) & ((1 << stored) - 1)
    if ds.PixelRepresentation == 1:
        wide = (wide ^ (1 << (stored - 1))) - (1 << (stored - 1))
    return wide


def luminance(array, ds):
    """Colour [rows, columns, 3] or a palette's indices to luminance, grey as it is; and the bits of a sample."""
    photometric = str(ds.PhotometricInterpretation)
    if photometric == "PALETTE COLOR":
        if not ds.is_little_endian:  # pydicom reads the tables' OW as the machine's own words
            for colour in ("Red", "Green", "Blue"):
                element = ds[colour + "PaletteColorLookupTableData"]
                element.value = swapped(element.value)
        colours = util.apply_color_lut(array, ds)[..., :3]
        return colours.astype(np.float64) @ LUMA, 8 * colours.dtype.itemsize
    if array.ndim == 2:
        return array, int(ds.BitsStored)
    if photometric not in ("RGB", "YBR_RCT", "YBR_ICT"):
        return array[..., 0].astype(np.float64), int(ds.BitsStored)  # Y is the luminance (PS3.3, C.7.6.3.1.2)
    return array.astype(np.float64) @ LUMA, int(ds.BitsStored)  # JPEG 2000's decoders turn YBR_RCT and YBR_ICT to RGB


def padding(array, ds):
    """True where the stored value is Pixel Padding Value, or between it and Pixel Padding Range Limit (PS3.3, C.7.5.1.1.2)."""
    value = ds.get("PixelPaddingValue")
    if value is None or value == "" or not str(ds.PhotometricInterpretation).startswith("MONOCHROME"):
        return np.zeros(array.shape[:2], dtype=bool)
    limit = ds.get("PixelPaddingRangeLimit")
    ends = [wrapped(v, ds) for v in (value, value if limit is None else limit)]
    return (array >= min(ends)) & (array <= max(ends))


def wrapped(value, ds):
    """A 16-bit value read with the sign of the pixels: VR US or SS does not always tell."""
    value = int(value) & 0xFFFF
    return value - 0x10000 if ds.PixelRepresentation == 1 and value > 0x7FFF else value


def first(ds, keyword):
    """The first value of a decimal string, None where there is none or it is no finite number."""
    value = ds.get(keyword)
    if value is None or value == "":
        return None
    try:
        number = float(value[0] if isinstance(value, (pydicom.multival.MultiValue, list)) else value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def windowed(values, ds):
    """pydicom's window on the values, scaled to 0…1, or None and why the file's window is unusable."""
    if first(ds, "WindowCenter") is None or first(ds, "WindowWidth") is None:
        return None, "no window"
    unit = Dataset()  # pydicom scales to the range of the stored bits: one bit is 0…1
    unit.PhotometricInterpretation, unit.PixelRepresentation, unit.BitsStored = "MONOCHROME2", 0, 1
    unit.WindowCenter, unit.WindowWidth = first(ds, "WindowCenter"), first(ds, "WindowWidth")
    if ds.get("VOILUTFunction") in ("LINEAR_EXACT", "SIGMOID"):
        unit.VOILUTFunction = ds.VOILUTFunction
    try:
        return util.apply_windowing(values, unit), ""
    except ValueError as error:
        return None, f"window unusable: {error}"


def nearest_rank(ordered, percent):
    return float(ordered[min(max(math.ceil(percent * len(ordered) / 100), 1), len(ordered)) - 1])


def displayed(values, pad, ds):
    """The picture 0…1 before polarity, how it was windowed, the ends of a ramp over percentiles, and how steep it is."""
    seen = values[~pad]
    shown, why = windowed(values, ds)
    if shown is not None:
        share = [np.count_nonzero(shown[~pad] <= 0), np.count_nonzero(shown[~pad] >= 1)]
        if max(share) < SATURATED * seen.size:
            return shown, "window", None, 1 / max(first(ds, "WindowWidth") - 1, 1)
        why = "window saturated"
    elif ds.get("VOILUTSequence") and ds.get("WindowCenter") in (None, ""):
        item = ds.VOILUTSequence[0]
        top = 2 ** item.LUTDescriptor[2] - 1
        return util.apply_voi(np.rint(values).astype(np.int64), ds) / top, "VOI LUT", None, 0
    if seen.size == 0 or seen.min() == seen.max():
        return None, "flat", None, 0
    ordered = np.sort(seen, axis=None)
    low, high = (nearest_rank(ordered, p) for p in PERCENTILES)
    if low == high:
        low, high = float(ordered[0]), float(ordered[-1])
    return np.clip((values - low) / (high - low), 0, 1), "percentiles, " + why, [low, high], 1 / (high - low)


def values_file(ds, values, path):
    """Writes a DICOM file of the same pixels whose only window, LINEAR_EXACT, is a little wider than all of its values. Returns its ends."""
    out = Dataset()
    for element in ds.group_dataset(0x0028):
        if element.keyword not in DISPLAY:
            out.add(element)
    for keyword in ("PixelData", "SOPClassUID"):
        if keyword in ds:
            out.add(ds[keyword])
    if str(out.PhotometricInterpretation) == "MONOCHROME1":
        out.PhotometricInterpretation = "MONOCHROME2"
    margin = (float(values.max()) - float(values.min())) / 32 or 1.0
    low, high = float(values.min()) - margin, float(values.max()) + margin
    low, high = math.floor(low), math.ceil(high)
    out.WindowCenter, out.WindowWidth, out.VOILUTFunction = repr((low + high) / 2), repr(high - low), "LINEAR_EXACT"
    out.file_meta = FileMetaDataset()
    out.file_meta.TransferSyntaxUID = ds.file_meta.TransferSyntaxUID
    if ds.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1.99":  # deflated: pydicom has inflated it
        out.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.1")
    out.is_little_endian, out.is_implicit_VR = ds.is_little_endian, ds.is_implicit_VR
    with DicomFile(path, "wb") as file:  # save_as refuses the transfer syntaxes that pydicom does not know
        file.is_little_endian, file.is_implicit_VR = ds.is_little_endian, ds.is_implicit_VR
        file.write(bytes(128) + b"DICM")
        write_file_meta_info(file, out.file_meta, enforce_standard=False)
        write_dataset(file, out)
    return [low, high]


# What values_file leaves out.
DISPLAY = {
    "WindowCenter", "WindowWidth", "WindowCenterWidthExplanation", "VOILUTFunction", "VOILUTSequence", "PixelPaddingValue",
    "PixelPaddingRangeLimit",
}


def look(path, out, n):
    """Everything about one file, as a dictionary for JSON."""
    ds = dataset(path)
    original = dataset(path)
    raw, decoder = decoded(ds)
    array = stored_bits(raw, ds)
    if array.ndim not in (2, 3):
        raise Unreadable(f"an array of {array.ndim} dimensions")
    pad = padding(array, ds)
    values, depth = luminance(array, ds)
    if str(ds.PhotometricInterpretation).startswith("MONOCHROME"):
        values = util.apply_modality_lut(values, ds)
    values = values.astype(np.float64)
    grey = array.ndim == 2 and str(ds.PhotometricInterpretation) != "PALETTE COLOR"
    result = {
        "decoder": decoder, "rows": values.shape[0], "columns": values.shape[1], "colour": not grey, "function": ds.get("VOILUTFunction") or "",
        "modality_lut": grey and "ModalityLUTSequence" in ds, "inverse": ds.get("PresentationLUTShape") == "INVERSE",
        "level": abs(float(ds.get("RescaleSlope") or 1)) if grey else 1.0, "depth": depth,
        "overlaid": np.flatnonzero(raw != array).tolist() if grey else [],
    }
    np.where(pad, np.nan, values).astype("<f4").tofile(os.path.join(out, f"{n}.values.f32"))
    try:
        result["span"] = values_file(original, values, os.path.join(out, f"{n}.dcm"))
    except Exception as error:
        result["no_values"] = f"{type(error).__name__}: {error}"
    shown, result["window"], result["ramp"], result["gain"] = displayed(values, pad, ds)
    if "ShutterShape" in ds or ("CollimatorShape" in ds and result["ramp"]):
        raise Unreadable("Display Shutter and collimation are not applied here")
    if shown is None:
        shown = np.zeros(values.shape)
    elif inverted(ds):
        shown = 1 - shown
    np.where(pad, 0, shown).astype("<f4").tofile(os.path.join(out, f"{n}.shown.f32"))
    return result


def inverted(ds):
    photometric = str(ds.PhotometricInterpretation)
    return photometric == "MONOCHROME1" or (photometric == "MONOCHROME2" and ds.get("PresentationLUTShape") == "INVERSE")


def main():
    if sys.argv[1] == "--versions":
        print(f"pydicom {pydicom.__version__}, numpy {np.__version__}, Pillow {PIL.__version__}, GDCM {gdcm.Version.GetVersion()}, OpenJPH")
        return
    out = sys.argv[1]
    warnings.simplefilter("ignore")
    for n, path in enumerate(sys.stdin.read().splitlines()):
        result = {"n": n}
        try:
            result.update(look(path, out, n))
        except Unreadable as error:
            result["error"] = str(error)
        except Exception as error:  # the corpora hold files that break pydicom anywhere
            result["error"] = f"{type(error).__name__}: {error}"
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
