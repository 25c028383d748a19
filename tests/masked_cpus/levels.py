"""The CPUs that can be imitated: for each level, the features that are taken away.

A feature is ``(leaf, subleaf, register, bit)`` of ``cpuid``, as in the manuals of Intel and AMD;
a subleaf of ``None`` stands for all. Each level has what it does not take away only as far as this
machine has it.
"""

from __future__ import annotations

from typing import Final, Literal

Register = Literal["eax", "ebx", "ecx", "edx"]
Feature = tuple[int, int | None, Register, int]


def _bits(leaf: int, subleaf: int | None, register: Register, *bits: int) -> tuple[Feature, ...]:
    return tuple((leaf, subleaf, register, bit) for bit in bits)


# Dot products of bytes and of bfloat16, half precision, tiles, and all that came after.
_NEWEST: Final = (
    *_bits(7, 0, "ecx", 11),  # AVX512-VNNI
    *_bits(7, 0, "edx", 22, 23, 24, 25),  # AMX-BF16, AVX512-FP16, AMX-TILE, AMX-INT8
    *_bits(7, 1, "eax", *range(32)),  # AVX-VNNI, AVX512-BF16, AMX-FP16, AVX-IFMA ...
    *_bits(7, 1, "edx", *range(32)),  # AVX-VNNI-INT8, AVX-NE-CONVERT, AVX10 ...
)
_AVX512: Final = (
    *_NEWEST,
    *_bits(7, 0, "ebx", 16, 17, 21, 26, 27, 28, 30, 31),  # F DQ IFMA PF ER CD BW VL
    *_bits(7, 0, "ecx", 1, 6, 8, 9, 10, 12, 14),  # VBMI VBMI2 GFNI VAES VPCLMUL BITALG VPOPCNT
    *_bits(7, 0, "edx", 2, 3, 8),  # 4VNNIW 4FMAPS VP2INTERSECT
)
_AVX2: Final = (
    *_AVX512,
    *_bits(7, 0, "ebx", 3, 5, 8),  # BMI1 AVX2 BMI2
    *_bits(1, None, "ecx", 12, 22, 29),  # FMA MOVBE F16C
    *_bits(0x80000001, None, "ecx", 5, 11, 16),  # LZCNT XOP FMA4
)
_AVX: Final = (*_AVX2, *_bits(1, None, "ecx", 26, 27, 28))  # XSAVE OSXSAVE AVX

LEVELS: Final[dict[str, tuple[Feature, ...]]] = {
    "native": (),
    "avx512": _NEWEST,
    "avx2": _AVX512,
    "avx": _AVX2,
    "sse": _AVX,
}
"""From the newest to the oldest, about: this machine, Skylake-X, Haswell, Sandy Bridge, Nehalem.

Without SSE4, which no level takes away, onnxruntime computes as with it."""
