"""Which layers of a decoder attend within a window, and which rotate."""

from __future__ import annotations

from hubvram.architecture.config import Config
from hubvram.architecture.families._decoder import kinds_of
from hubvram.architecture.families._variant import Variant


def layer_kinds(config: Config, layers: int, window: int | None) -> tuple[list[int | None], tuple[int, ...]]:
    """Distinct attention windows and, per layer, which it has.

    ``layer_types`` (transformers 5) or ``use_sliding_window`` / ``max_window_layers``
    (Qwen2: layers from max_window_layers on) or the whole model (Mistral).
    """
    types = config.raw("layer_types")
    if isinstance(types, list) and len(types) == layers:
        windows = [window if t == "sliding_attention" else None for t in types]
    elif window is not None and config.raw("use_sliding_window") is not None:
        first = config.whole("max_window_layers", default=layers)
        windows = [
            window if config.flag("use_sliding_window", default=False) and i >= first else None for i in range(layers)
        ]
    else:
        windows = [window] * layers
    return kinds_of(windows)


def windows_of(config: Config, variant: Variant, layers: int) -> list[int | None]:
    """The attention window of each layer (None: all of the sequence)."""
    window = config.optional("sliding_window")
    if variant.window == "none" or window is None:
        return [None] * layers
    if variant.window == "all":
        return [window] * layers
    types = config.raw("layer_types")
    if isinstance(types, list) and len(types) >= layers:
        return [window if t == "sliding_attention" else None for t in types[:layers]]
    if variant.window == "qwen":
        first = config.whole("max_window_layers", default=28)
        sliding = config.flag("use_sliding_window", default=False)
        return [window if sliding and i >= first else None for i in range(layers)]
    step = abs(variant.pattern)
    named = config.raw("sliding_window_pattern", "_sliding_window_pattern")
    if step and isinstance(named, int) and not isinstance(named, bool) and named > 0:
        step = named
    elif isinstance(named, str):  # EXAONE 4 writes the pattern as letters: L local, G global
        return [window if named[i % len(named)] == "L" else None for i in range(layers)]
    if not step:
        return [window] * layers
    full = 0 if variant.pattern < 0 else step - 1
    return [None if i % step == full else window for i in range(layers)]


def rotated(config: Config, variant: Variant, windows: list[int | None]) -> list[bool]:
    """Which layers have rotary embeddings."""
    layers = len(windows)
    if variant.rope_only == "sliding":
        if variant.class_name.startswith("Exaone") and config.optional("sliding_window") is None:
            return [True] * layers
        return [w is not None for w in windows]
    if variant.rope_only == "listed":
        listed = config.raw("no_rope_layers")
        if isinstance(listed, list) and len(listed) >= layers:
            return [bool(x) for x in listed[:layers]]
        step = config.whole("no_rope_layer_interval", default=4)
        return [(i + 1) % step != 0 for i in range(layers)]
    return [True] * layers
