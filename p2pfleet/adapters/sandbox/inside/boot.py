"""The first lines of the fork server: ``python -I -S -B boot.py CONTROL_FD PATH...``.

The interpreter is isolated and without ``site``; the folders of the libraries come as arguments.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def main() -> None:
    """Load the package beside this file under a name of its own, and serve."""
    control_fd = int(sys.argv[1])
    sys.path += sys.argv[2:]
    here = Path(__file__).resolve().parent
    # By path, because importing it as part of p2pfleet would pull in the node's code.
    spec = importlib.util.spec_from_file_location(
        "p2pfleet_inside", here / "__init__.py", submodule_search_locations=[str(here)]
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = package
    spec.loader.exec_module(package)
    importlib.import_module("p2pfleet_inside.server").serve(control_fd)


if __name__ == "__main__":
    main()
