"""Changes to a training picture that another hospital, machine or technician could have made.

They act on the picture before it is letterboxed and normalised, so that the network is fed what serving would feed it. Half of
them exist to take away what gives a hospital away: borders, markers, exposure and the plate's shape.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from .picture import fitted

_MARKERS = ("L", "R", "LEFT", "RT", "AP", "PA", "PORTABLE", "SUPINE", "ERECT", "STAT", "1", "2", "12:40", "LAT", "AP SEMI-UPRIGHT")


@dataclass(frozen=True)
class Settings:
    """Ranges, and probabilities 0…1 of what happens to some pictures only."""

    flip: float = 0.5
    rotation: float = 14.0  # degrees either way
    scale: tuple[float, float] = (0.75, 1.15)  # below 1 the picture shrinks inside its plate
    aspect: float = 0.1  # ± of the ratio of the sides
    shift: float = 0.08  # ± of each side
    crop: float = 0.2  # probability of keeping only a part
    crop_keep: float = 0.85  # least share of each side that a crop keeps
    gamma: tuple[float, float] = (0.6, 1.6)
    window: float = 0.5  # probability of a narrower or wider window
    equalise: float = 0.15  # probability of a share of histogram equalisation, as some machines do
    gradient: float = 0.2  # probability of uneven exposure
    invert: float = 0.1
    borders: float = 0.3  # probability of collimation borders
    border_width: float = 0.07  # widest border, as a share of the side
    markers: float = 0.3  # probability of burned-in letters and arrows
    blur: float = 0.15
    noise: float = 0.2
    erase: float = 0.2

    def __post_init__(self) -> None:
        for name in ("scale", "gamma"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"augmentation.{name}: must be two numbers above 0, the smaller first (got {low}, {high})")
            object.__setattr__(self, name, (float(low), float(high)))


def augment(content: np.ndarray, size: int, settings: Settings, rng: np.random.Generator) -> np.ndarray:
    """uint8 [height, width] → float32 [height', width'], 0…1, whose longer side is ``size``."""
    y = _geometry(content, size, settings, rng).astype(np.float32) / 255.0
    y = _exposure(y, settings, rng)
    if rng.random() < settings.borders:
        _borders(y, settings.border_width, rng)
    if rng.random() < settings.markers:
        y = _markers(y, rng)
    if rng.random() < settings.erase:
        _erase(y, rng)
    return y


def _geometry(content: np.ndarray, size: int, settings: Settings, rng: np.random.Generator) -> np.ndarray:
    """One affine map at the cache's resolution, then an area average to the final size, as in serving."""
    height, width = content.shape
    zoom = rng.uniform(*settings.scale)
    stretch = math.exp(rng.uniform(-settings.aspect, settings.aspect))
    wide, high = width / zoom * stretch, height / zoom / stretch
    centre_x = width * (0.5 + rng.uniform(-settings.shift, settings.shift))
    centre_y = height * (0.5 + rng.uniform(-settings.shift, settings.shift))
    if rng.random() < settings.crop:
        keep_x, keep_y = rng.uniform(settings.crop_keep, 1.0, 2)
        centre_x += rng.uniform(-0.5, 0.5) * (1 - keep_x) * wide
        centre_y += rng.uniform(-0.5, 0.5) * (1 - keep_y) * high
        wide, high = wide * keep_x, high * keep_y
    angle = math.radians(rng.uniform(-settings.rotation, settings.rotation))
    cos, sin = math.cos(angle), math.sin(angle)
    out_w, out_h = max(8, round(wide)), max(8, round(high))
    a, b, d, e = cos, -sin, sin, cos
    if rng.random() < settings.flip:
        a, d = -a, -d
    c = centre_x - a * out_w / 2 - b * out_h / 2
    f = centre_y - d * out_w / 2 - e * out_h / 2
    outside = int(rng.choice([0, 0, 0, 0, 0, 0, 0, 255, rng.integers(256), rng.integers(256)]))
    image = Image.fromarray(content).transform((out_w, out_h), Image.AFFINE, (a, b, c, d, e, f), Image.BILINEAR, fillcolor=outside)
    target = fitted(out_w, out_h, size)
    image = image.resize(target, Image.BOX if max(out_w, out_h) >= size else Image.BILINEAR)
    if rng.random() < settings.blur:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.2)))
    return np.asarray(image)


def _exposure(y: np.ndarray, settings: Settings, rng: np.random.Generator) -> np.ndarray:
    if rng.random() < settings.equalise:
        counts, edges = np.histogram(y, bins=256, range=(0, 1))
        level = np.cumsum(counts) / y.size
        share = rng.uniform(0.3, 1.0)
        y = (1 - share) * y + share * np.interp(y, edges[1:], level).astype(np.float32)
    y = y ** np.float32(math.exp(rng.uniform(math.log(settings.gamma[0]), math.log(settings.gamma[1]))))
    if rng.random() < settings.gradient:
        height, width = y.shape
        slope_x, slope_y = rng.uniform(-0.4, 0.4, 2)
        field = 1 + slope_x * np.linspace(-1, 1, width)[None, :] + slope_y * np.linspace(-1, 1, height)[:, None]
        y = y * field.astype(np.float32)
    if rng.random() < settings.window:
        low, high = rng.uniform(-0.15, 0.15), rng.uniform(0.8, 1.2)
        y = (y - np.float32(low)) / np.float32(high - low)
    if rng.random() < settings.noise:
        y = y + rng.standard_normal(y.shape, dtype=np.float32) * np.float32(rng.uniform(0.005, 0.04))
    y = np.clip(y, 0, 1)
    return 1 - y if rng.random() < settings.invert else y


def _borders(y: np.ndarray, widest: float, rng: np.random.Generator) -> None:
    """Collimation: dark or bright bands along some of the sides, in place."""
    height, width = y.shape
    shade = rng.choice([0.0, 0.0, 0.0, 1.0, 1.0, rng.random()])
    for side in range(4):
        if rng.random() < 0.4:
            continue
        across = width if side < 2 else height
        band = int(rng.uniform(0.01, widest) * across)
        if band:
            (y[:, :band], y[:, -band:], y[:band], y[-band:])[side][...] = shade


def _markers(y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Burned-in letters, some in a box, and now and then an arrow."""
    image = Image.fromarray((y * 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    width, height = image.size
    for _ in range(int(rng.integers(1, 4))):
        ink = 255 if rng.random() < 0.8 else int(rng.integers(256))
        x, top = rng.uniform(0, 0.9) * width, rng.uniform(0, 0.92) * height
        if rng.random() < 0.2:
            length, angle = rng.uniform(0.06, 0.2) * width, rng.uniform(0, 2 * math.pi)
            end = (x + length * math.cos(angle), top + length * math.sin(angle))
            draw.line([(x, top), end], fill=ink, width=int(rng.integers(1, 3)))
            for turn in (2.6, -2.6):
                barb = (end[0] + 4 * math.cos(angle + turn), end[1] + 4 * math.sin(angle + turn))
                draw.line([end, barb], fill=ink, width=1)
            continue
        text = _text(str(rng.choice(_MARKERS)))
        tall = max(4, int(rng.uniform(0.03, 0.11) * height))
        mask = text.resize((max(2, text.width * tall // text.height), tall), Image.BILINEAR)
        if rng.random() < 0.2:
            draw.rectangle([x - 1, top - 1, x + mask.width + 1, top + tall + 1], fill=255 - ink)
        image.paste(ink, (int(x), int(top)), mask)
    return np.asarray(image).astype(np.float32) / 255.0


_TEXTS: dict[str, Image.Image] = {}


def _text(text: str) -> Image.Image:
    """The text as a mask in Pillow's built-in font, cut to its ink."""
    if text not in _TEXTS:
        canvas = Image.new("L", (12 * len(text) + 12, 24))
        ImageDraw.Draw(canvas).text((2, 2), text, fill=255, font=ImageFont.load_default())
        _TEXTS[text] = canvas.crop(canvas.getbbox())
    return _TEXTS[text]


def _erase(y: np.ndarray, rng: np.random.Generator) -> None:
    """Random erasing (Zhong et al., 2017, arXiv 1708.04896): one rectangle of one shade, in place."""
    height, width = y.shape
    area, ratio = rng.uniform(0.02, 0.15) * y.size, math.exp(rng.uniform(-1, 1))
    tall, wide = min(height, max(1, int(math.sqrt(area * ratio)))), min(width, max(1, int(math.sqrt(area / ratio))))
    top, left = int(rng.integers(0, height - tall + 1)), int(rng.integers(0, width - wide + 1))
    y[top : top + tall, left : left + wide] = rng.random()
