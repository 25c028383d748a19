"""The numeric class of this machine: a hash over what its arithmetic makes of a fixed suite.

CPUs differ in the kernels that onnxruntime picks for them (AVX2, AVX-512, VNNI, fused multiply-add,
ARM), and platforms in their mathematical library; so equal models and inputs give equal bytes on
some pairs of machines and differ in the last digits on others. Two machines of equal class computed
the same bytes for every probe, and are *expected* to do so for a job; this is no proof, since a
suite of some hundred outputs cannot reach every kernel, and a node may state any class it likes.
Two machines of different class may well agree on a job that uses only what they have in common.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .model import open_session
from .numeric_models import probes
from .onnx_writer import Array

SUITE = b"p2pfleet-numeric-1"
"""The name of the suite, hashed first: classes of different suites never look alike."""

OpenSession = Callable[[bytes], Any]


def numeric_class(open_session: OpenSession = open_session) -> bytes:
    """SHA-256 over name, dtype, shape and little-endian bytes of every output of the suite.

    The same in every run and process of one machine with one version of onnxruntime. All NaNs count
    as one, since their sign and payload differ between CPUs and mean nothing. Takes one session
    after the other, some tenths of a second and a few megabytes; whatever onnxruntime raises
    comes through, so that a suite that did not run never looks like a class.
    """
    digest = hashlib.sha256(SUITE)
    for name, value in probe_results(open_session):
        array = np.asarray(value, order="C")
        digest.update(f"\n{name} {array.dtype.name} {list(array.shape)}\n".encode())
        digest.update(_canonical(array))
    return digest.digest()


def probe_results(open_session: OpenSession = open_session) -> Iterator[tuple[str, Array]]:
    """Every output of the suite in its order, named ``probe/output``."""
    for probe in probes():
        session = open_session(probe.model)
        names = [output.name for output in session.get_outputs()]
        values = session.run(names, probe.feeds)
        del session
        for name, value in zip(names, values, strict=True):
            yield f"{probe.name}/{name}", value


def _canonical(array: Array) -> bytes:
    """The elements in C order, little-endian, every NaN written as the same one."""
    if array.dtype.kind == "f":
        array = np.where(np.isnan(array), np.array(np.nan, array.dtype), array)
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
