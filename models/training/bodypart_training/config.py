"""One YAML file per experiment. Unknown keys are refused: a misspelt setting must not silently train something else."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import yaml

from .augment import Settings
from .dataset import CLASSES
from .picture import Spec


@dataclass(frozen=True)
class Config:
    """An experiment. Everything that changes the trained network is here, nothing else (paths and threads are arguments)."""

    name: str
    network: str
    description: str = ""
    version: str = "1.0.0"
    weights: bool = True  # start from the file given by --weights; false: from nothing
    classes: tuple[str, ...] = CLASSES
    seed: int = 1
    epochs: int = 6
    batch_size: int = 32
    learning_rate: float = 3e-4  # the peak of the one cycle
    warm_up: float = 0.25  # share of the steps that climb to it
    weight_decay: float = 0.01
    label_smoothing: float = 0.05
    class_power: float = 0.7  # classes are drawn by count^-class_power
    hospital_power: float = 0.5  # inside a class, hospitals likewise
    input: Spec = field(default_factory=Spec)
    augmentation: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1 (got {getattr(self, name)})")
        if len(set(self.classes)) != len(self.classes) or len(self.classes) < 2:
            raise ValueError(f"classes: must be two or more different names (got {', '.join(self.classes)})")

    def plain(self) -> dict:
        """As YAML and JSON can hold it."""
        return _plain(dataclasses.asdict(self))


def load(path: str) -> Config:
    with open(path, encoding="utf-8") as file:
        values = yaml.safe_load(file)
    try:
        return from_plain(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def from_plain(values: dict) -> Config:
    values = dict(_known(values, Config, ""))
    for name, kind in (("input", Spec), ("augmentation", Settings)):
        if name in values:
            values[name] = kind(**_known(values[name], kind, name + "."))
    return Config(**values)


def _known(values, kind, prefix: str) -> dict:
    if not isinstance(values, dict):
        raise ValueError(f"{prefix.rstrip('.') or 'configuration'}: must be a mapping (got {values!r})")
    names = [f.name for f in dataclasses.fields(kind)]
    for name in values:
        if name not in names:
            raise ValueError(f"{prefix}{name}: unknown key (known: {', '.join(names)})")
    return values


def _plain(value):
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value
