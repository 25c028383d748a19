"""From the options of ``submit`` to the fields of a request, checked before anything starts."""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from p2pfleet.core.errors import ExitCode, P2pfleetError
from p2pfleet.core.model.comparison import (
    ABSOLUTE_UNIT,
    MAX_ABSOLUTE,
    MAX_RELATIVE,
    RELATIVE_UNIT,
)

MAX_MODEL_BYTES = 2 * 2**30
MAX_NAME_CHARS = 64
INPUT_SUFFIXES = (".npz", ".npy")
MAX_OUTPUT_CHARS = 256
_NUMBER = r"([0-9]{1,20}(?:\.[0-9]{0,20})?(?:[eE][+-]?[0-9]{1,3})?)"
_TOLERANCE_TEXT = re.compile(rf"(.+)={_NUMBER},{_NUMBER}", re.ASCII)
_SPLIT_TEXT = re.compile(r"[0-9]{1,2}(:[1-9][0-9]{0,11})?", re.ASCII)


def make_request(
    model: Path,
    inputs: Sequence[Path],
    *,
    name: str | None = None,
    split: str | None = None,
    quorum: int | None = None,
    confidence: float | None = None,
    assume_faulty: float | None = None,
    replicas_max: int | None = None,
    exact: bool = False,
    tolerances: Sequence[str] = (),
    model_class: str = "any",
    **limits: Any,
) -> dict[str, Any]:
    """The fields of a SubmitRequest, as far as they can be checked before anything is started.

    Raises :class:`P2pfleetError` for a file that is missing, empty, too large or no file, and for
    terms that cannot be met.
    """
    _check_file(model, "the model")
    if model.stat().st_size > MAX_MODEL_BYTES:
        raise P2pfleetError(
            f"the model {model} has more than 2 GiB, where a single ONNX file ends.",
            "Publish a smaller model.",
            ExitCode.USAGE,
        )
    if split is not None and not _SPLIT_TEXT.fullmatch(split):
        raise P2pfleetError(
            f"{split[:80]!r} is no split.",
            "Write AXIS or AXIS:SIZE, as in --split 0:50 for units of 50 rows.",
            ExitCode.USAGE,
        )
    _check_stop(quorum, confidence, assume_faulty, replicas_max)
    if exact and tolerances:
        raise P2pfleetError(
            "--exact and --tolerance are two ways to compare outputs.",
            "Give one of them.",
            ExitCode.USAGE,
        )
    if not 1 <= len(model_class) <= MAX_NAME_CHARS or not model_class.isprintable():
        raise P2pfleetError(
            f"{model_class[:80]!r} is no name for a class of models.",
            f"Give 1 to {MAX_NAME_CHARS} printable characters.",
            ExitCode.USAGE,
        )
    for key, value in (
        *limits.items(),
        ("confidence", confidence),
        ("assume-faulty", assume_faulty),
    ):
        if value is not None and not math.isfinite(value):
            option = "window" if key == "window_s" else key.replace("_", "-")
            raise P2pfleetError(
                f"--{option} {value} is no number to reckon with.",
                "See 'p2pfleet submit --help'.",
                ExitCode.USAGE,
            )
    files = [file for path in inputs for file in _input_files(path)]
    return {
        "model": str(model.absolute()),
        "inputs": [str(file.absolute()) for file in files],
        "name": _job_name(name, model),
        "quorum": quorum,
        "confidence": confidence,
        "assume_faulty": assume_faulty,
        "replicas_max": replicas_max,
        "tolerance": bool(tolerances),
        "tolerances": [parse_tolerance(text) for text in tolerances if text],
        "model_class": model_class,
        "split": split,
        **limits,
    }


def alone_tolerances(arguments: Sequence[str]) -> list[str]:
    """The command line with a value, if an empty one, for every ``--tolerance`` that stands alone.

    What follows one is its value only if it looks like NAME=ABS,REL: else it is a model or an
    input.
    """
    found: list[str] = []
    for index, argument in enumerate(arguments):
        if argument == "--":
            return [*found, *arguments[index:]]
        found.append(argument)
        following = arguments[index + 1] if index + 1 < len(arguments) else ""
        if argument == "--tolerance" and not _TOLERANCE_TEXT.fullmatch(following):
            found[-1] = "--tolerance="
    return found


def parse_tolerance(text: str) -> list[Any]:
    """NAME=ABS,REL as [name, absolute in 1e-12, relative in 1e-9].

    Raises :class:`P2pfleetError` if it is none, too fine to be told, or too wide to mean anything.
    """
    match = _TOLERANCE_TEXT.fullmatch(text)
    if match is None or not 1 <= len(match[1]) <= MAX_OUTPUT_CHARS:
        raise P2pfleetError(
            f"{text[:80]!r} is no tolerance.",
            "Write NAME=ABS,REL as in --tolerance y=1e-6,1e-4, or --tolerance alone.",
            ExitCode.USAGE,
        )
    parts = []
    for number, unit, most in (
        (match[2], ABSOLUTE_UNIT, MAX_ABSOLUTE),
        (match[3], RELATIVE_UNIT, MAX_RELATIVE),
    ):
        value = Decimal(number) * unit
        if value > most or value != value.to_integral_value():
            raise P2pfleetError(
                f"{number} cannot be the tolerance of {match[1]!r}.",
                "ABS is at most 1e-3, in steps of 1e-12; REL at most 1e-2, in steps of 1e-9.",
                ExitCode.USAGE,
            )
        parts.append(int(value))
    return [match[1], *parts]


def _check_stop(
    quorum: int | None,
    confidence: float | None,
    assume_faulty: float | None,
    replicas_max: int | None,
) -> None:
    if quorum is not None and confidence is not None:
        raise P2pfleetError(
            "--confidence and --quorum are two ways to decide a unit.",
            "Give one of them.",
            ExitCode.USAGE,
        )
    if assume_faulty is not None and confidence is None:
        raise P2pfleetError(
            "--assume-faulty says nothing without --confidence.", "Give both.", ExitCode.USAGE
        )
    needed = 1 if confidence is not None else 2 if quorum is None else quorum
    if replicas_max is not None and replicas_max < needed:
        raise P2pfleetError(
            f"{replicas_max} replicas at most cannot give a quorum of {needed}.",
            "Raise --replicas-max or lower --quorum.",
            ExitCode.USAGE,
        )


def _job_name(name: str | None, model: Path) -> str:
    if name is None:
        kept = "".join(char if char.isprintable() else "_" for char in model.stem)
        return kept[:MAX_NAME_CHARS] or "job"
    if not 1 <= len(name) <= MAX_NAME_CHARS or not name.isprintable():
        raise P2pfleetError(
            f"{name[:80]!r} is no name for a job.",
            f"Give 1 to {MAX_NAME_CHARS} printable characters.",
            ExitCode.USAGE,
        )
    return name


def _input_files(path: Path) -> list[Path]:
    if not path.is_dir():
        _check_file(path, "the input")
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in INPUT_SUFFIXES)
    if not files:
        raise P2pfleetError(
            f"the folder {path} holds no .npz or .npy file.",
            "Name a folder with inputs, or the files themselves.",
            ExitCode.USAGE,
        )
    for file in files:
        _check_file(file, "the input")
    return files


def _check_file(path: Path, what: str) -> None:
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise P2pfleetError(
            f"{what} {path} cannot be read: {reason}.",
            "Check its name and folder.",
            ExitCode.USAGE,
        ) from error
    if not stat.S_ISREG(status.st_mode):
        problem, advice = "is no ordinary file", "Name a file."
    elif not os.access(path, os.R_OK):
        problem, advice = "cannot be read: permission denied", "Check its permissions."
    elif status.st_size == 0:
        problem, advice = "is empty", "Write it again."
    else:
        return
    raise P2pfleetError(f"{what} {path} {problem}.", advice, ExitCode.USAGE)
