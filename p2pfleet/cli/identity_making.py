"""Makes the identity of a data folder before it is needed, so that whoever waits hears why."""

from __future__ import annotations

from pathlib import Path

from p2pfleet.cli.output import Output, duration
from p2pfleet.core.model.network import NetworkFile

_SAY_EVERY_S = 15.0


def make_identity(output: Output, folder: Path, network: NetworkFile) -> bytes:
    """The seed of the identity in ``folder``, made to fit ``network`` if there is none yet.

    A KeyboardInterrupt meanwhile leaves nothing behind. Raises :class:`P2pfleetError` if the
    identity cannot be used, or was made for another network.
    """
    from p2pfleet.adapters.store import load_or_create_identity

    bits, said = network.parameters.puzzle_bits, 0.0

    def progress(drawn: int, seconds: float) -> None:
        nonlocal said
        # Chance has no memory: what is to be expected is the same however long it took already.
        expected = 2**bits * seconds / drawn
        if not said:
            output.note(
                f"making an identity that fits the network {network.parameters.name}: about "
                f"{duration(max(1.0, expected))}, more or less by chance; it is done only once"
            )
        elif seconds - said >= _SAY_EVERY_S:
            output.note(f"still making the identity, for {duration(seconds)} now")
        else:
            return
        said = seconds

    return load_or_create_identity(folder / "identity.key", network.terms, progress)
