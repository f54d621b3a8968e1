"""Questions a family asks of the safetensors header."""

from __future__ import annotations

from collections.abc import Iterable

from hubvram.snapshot.records import TensorInfo


class Header:
    """Names and shapes of the tensors of one snapshot."""

    def __init__(self, tensors: Iterable[TensorInfo]) -> None:
        """Indexes by name."""
        self.shapes = {t.name: t.shape for t in tensors}
        self.dtypes = {t.name: t.dtype for t in tensors}

    def __contains__(self, name: str) -> bool:
        """Whether a tensor of exactly this name is there."""
        return name in self.shapes

    def has_suffix(self, suffix: str) -> bool:
        """Whether any tensor's name ends so."""
        return any(name.endswith(suffix) for name in self.shapes)

    def find(self, suffix: str) -> tuple[int, ...] | None:
        """Shape of the first tensor whose name ends so, or None."""
        for name, shape in self.shapes.items():
            if name.endswith(suffix):
                return shape
        return None

    def has_bias(self, path: str, default: bool) -> bool:
        """Whether the linear layer at ``path`` has a bias.

        The header decides where it holds the layer's plain weight (with or
        without the base model's prefix); ``default``, the config's word, where
        it does not: packed formats write bias tensors of zeros.
        """
        for name in (path, path.split(".", 1)[-1]):
            if f"{name}.weight" in self.shapes:
                return f"{name}.bias" in self.shapes
        return default
