"""The values that the probe suite is run on: the same bits on every machine.

They are made of integers, by a generator and scaling by powers of two, both exact. (The random
generators of numpy may change between its versions.)
"""

from __future__ import annotations

from math import prod

import numpy as np

from .onnx_writer import Array


def integers(seed: int, count: int, bits: int) -> Array:
    """``count`` integers (int64) of ``bits`` bits: SplitMix64 (Steele, Lea, Flood 2014)."""
    z = np.arange(1, count + 1, dtype=np.uint64) + np.uint64(seed << 32)
    z *= np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    drawn: Array = (z >> np.uint64(64 - bits)).astype(np.int64)
    return drawn


def floats(seed: int, *shape: int, scale: int = 1, dtype: str = "float32") -> Array:
    """Values spread evenly over [-scale, scale), ``scale`` a power of two; every one is exact."""
    bits = {"float16": 11, "float32": 24, "float64": 48}[dtype]
    raw = integers(seed, prod(shape), bits) - 2 ** (bits - 1)
    values: Array = (raw.astype(np.float64) * (scale / 2 ** (bits - 1))).astype(dtype)
    return values.reshape(shape)


def bytes_of(seed: int, *shape: int, dtype: str) -> Array:
    """int8 or uint8 values; some stand at the ends of the range, where narrow sums saturate."""
    raw = integers(seed, prod(shape), 8)
    if dtype == "int8":
        raw -= 128
    low, high = (-128, 127) if dtype == "int8" else (0, 255)
    raw[::3] = high
    raw[1::7] = low
    return raw.astype(dtype).reshape(shape)


def extremes() -> Array:
    """float32 values at the edges: zeros, subnormals, the largest, infinities, NaN, near limits."""
    bits = [
        0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007FFFFF, 0x00400001, 0x00800000,
        0x80800000, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000, 0x3F800001,
        0x3F7FFFFF, 0xBF800000, 0x42B17217, 0xC2AEAC4F, 0xC2CFF1B4, 0x42B17218, 0x33800000,
        0xB3800001, 0x4B800001, 0x1E3CE508,
    ]  # fmt: skip
    return np.array(bits, np.uint32).view(np.float32)
