"""The product's own ``boot.py``, but the children run attempts where they would load a model."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

_here = Path(__file__).resolve().parent
_inside = _here.parents[3] / "p2pfleet" / "adapters" / "sandbox" / "inside"
_import = importlib.import_module


def _load(name: str, file: Path, folder: Path | None = None) -> ModuleType:
    search = None if folder is None else [str(folder)]
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=search)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _import_taken_over(name: str, package: str | None = None) -> ModuleType:
    """Import what the product's boot script asks for, and change the one class in it."""
    module = _import(name, package)
    if name.endswith(".server"):
        child = _import(f"{name.partition('.')[0]}.child")
        _load("p2pfleet_escapes", _here / "__init__.py", _here)
        taken_over = _import("p2pfleet_escapes.taken_over").taken_over
        child.Model = taken_over(child.Fault)  # type: ignore[attr-defined]
    return module


def main() -> None:
    """Serve as the product does."""
    importlib.import_module = _import_taken_over
    _load("p2pfleet_boot", _inside / "boot.py").main()


if __name__ == "__main__":
    main()
