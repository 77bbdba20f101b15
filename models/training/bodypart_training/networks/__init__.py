"""The networks by name. A new one is a module with ``build(classes, weights)`` and one line in REGISTRY."""

from __future__ import annotations

from . import mobilenet_v1

REGISTRY = {
    "mobilenet_v1": mobilenet_v1.build,
}


def build(name: str, classes: int, weights: str | None = None):
    """A network that maps float32 [N, 1, S, S] to logits [N, classes]. ``weights`` is the path of an .npz of starting weights."""
    if name not in REGISTRY:
        raise ValueError(f"network: unknown {name!r} (known: {', '.join(sorted(REGISTRY))})")
    return REGISTRY[name](classes, weights)
