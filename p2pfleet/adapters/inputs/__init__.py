"""What researchers have, read; what they get, written: numpy files on disk, tensor bundles inside.

``bundles`` turns arrays into canonical bundles and back, ``files`` reads ``.npz`` and ``.npy``,
``units`` makes work units of them, ``outputs`` keeps results so that their digests can be
recomputed from the files alone. Nothing here ever unpickles.
"""

from p2pfleet.adapters.inputs.bundles import (
    Array,
    arrays_from_bundle,
    bundle_from_arrays,
    describe,
)
from p2pfleet.adapters.inputs.files import MAX_INPUT_BYTES, read_input_file
from p2pfleet.adapters.inputs.outputs import outputs_path, read_outputs_file, write_outputs
from p2pfleet.adapters.inputs.units import Split, parse_split, units_from_files

__all__ = [
    "MAX_INPUT_BYTES",
    "Array",
    "Split",
    "arrays_from_bundle",
    "bundle_from_arrays",
    "describe",
    "outputs_path",
    "parse_split",
    "read_input_file",
    "read_outputs_file",
    "units_from_files",
    "write_outputs",
]
