"""The first lines of the fork server: ``python -I -S -B boot.py CONTROL_FD SETTING PATH...``.

The interpreter is isolated and without ``site``; the folders of the libraries come as arguments.
SETTING is the words of ``server.Setting`` with commas between them.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def main() -> None:
    """Load the package beside this file under a name of its own, and serve."""
    control_fd = int(sys.argv[1])
    namespaces, self_test, idle = sys.argv[2].split(",")
    sys.path += sys.argv[3:]
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
    server = importlib.import_module("p2pfleet_inside.server")
    server.serve(control_fd, server.Setting(namespaces, self_test == "yes", idle == "yes"))


if __name__ == "__main__":
    main()
