"""Vectors of ``identity.md`` and ``encoding.md``: names, canonical bytes, signatures."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgpack
import msgspec
from nacl.bindings import (
    crypto_core_ed25519_add,
    crypto_scalarmult_ed25519_base_noclamp,
    crypto_sign_ed25519_sk_to_curve25519,
)
from samples import (
    ALICE,
    BASE,
    BOB,
    ID,
    INVITED,
    JOB,
    MALLORY,
    OWNER,
    REQUIREMENT,
    VALID_BODIES,
    VALID_OTHERS,
    acceptance,
    admission,
    frame,
    seed_of,
)

from p2pfleet.adapters.inputs.outputs import outputs_path, write_outputs
from p2pfleet.core.errors import Accept, Verdict
from p2pfleet.core.model.ids import (
    PeerId,
    cid_of,
    cid_text,
    parse_job,
    peer_text,
    sha256,
)
from p2pfleet.core.model.network import NetworkParameters, network_id
from p2pfleet.core.wire.codec import encode
from p2pfleet.core.wire.messages import (
    SIGNATURE_PREFIX,
    Release,
    Sealed,
)
from p2pfleet.core.wire.names import announcements_topic, rendezvous_key
from p2pfleet.core.wire.tensors import Tensor, digest_of, encode_bundle
from p2pfleet.runtime.signing import Signer

Case = dict[str, Any]
_NAMED = ("member", "publisher", "author", "owner", "key", "peer")
ED25519_ORDER = 2**252 + 27742317777372353535851937790883648493
POINT_OF_ORDER_8 = bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05")


def described(value: Any) -> Any:
    """A message as JSON: bytes in hexadecimal, structs by field, tagged ones with their name."""
    match value:
        case msgspec.Struct():
            config = value.__struct_config__
            named = {} if config.tag is None else {"is": type(value).__name__}
            fields = {name: described(getattr(value, name)) for name in value.__struct_fields__}
            return named | fields
        case bytes():
            return value.hex()
        case tuple() | list():
            return [described(one) for one in value]
        case _:
            return value


def hashed(data: bytes) -> Case:
    return {"encoding": data.hex(), "sha256": sha256(data).hex()}


def identities() -> Iterable[Case]:
    for name in ("publisher", "alice", "bob"):
        seed = seed_of(name)
        key = BASE[name].peer
        yield {
            "about": f"the key of {name}",
            "seed": seed.hex(),
            "public_key": key.hex(),
            "peer_id": peer_text(key),
        }
    good = peer_text(ALICE.peer)
    for about, given in (
        ("empty", ""),
        ("a letter that base58 does not have", good[:-1] + "0"),
        ("one letter too few", good[:-1]),
        ("one letter too many", good + "1"),
        ("a zero byte in front", "1" + good),
        ("the SHA-256 multihash of an RSA key", "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG"),
        ("longer than 80 letters", good + "2" * 40),
        ("a space behind it", good + " "),
        ("a line feed behind it", good + "\n"),
        ("a space before it", " " + good),
    ):
        yield {"about": about, "refused": given}


def networks() -> Iterable[Case]:
    for name, testnet, owner, bits, votes in (
        ("main", False, None, 0, 0), ("main", True, None, 0, 0), ("a", False, None, 0, 0),
        ("0.lab-7.example", False, None, 0, 0), ("x" * 64, True, None, 0, 0),
        ("main", False, OWNER, 0, 0), ("main", True, OWNER, 0, 0), ("main", True, MALLORY, 0, 0),
        ("main", False, None, 1, 0), ("main", False, None, 18, 0), ("main", False, OWNER, 40, 0),
        ("main", False, None, 0, 1), ("main", False, None, 0, 64), ("main", False, OWNER, 18, 3),
    ):  # fmt: skip
        key = None if owner is None else owner.peer
        yield from _networks((NetworkParameters(name, testnet, key, bits, votes),))
    for about, name in (
        ("empty name", ""), ("65 letters", "x" * 65), ("a capital", "Main"), ("a space", "a b"),
        ("begins with a dash", "-a"), ("begins with a dot", ".a"), ("an umlaut", "m\u00e4in"),
        ("a line feed behind it", "main\n"), ("an underscore", "a_b"),
    ):  # fmt: skip
        yield {
            "about": about, "parameters": {**_plain(), "name": name}, "refused": "bound",
        }  # fmt: skip
    for bits in (-1, 41):
        yield {
            "about": f"{bits} bits", "parameters": {**_plain(), "puzzle_bits": bits},
            "refused": "bound",
        }  # fmt: skip
    closed = untagged(NetworkParameters("main", False, OWNER.peer, closed=True))
    yield from _networks((NetworkParameters("main", False, OWNER.peer, closed=True),))
    yield {
        "about": "closed, but nobody's", "parameters": {**closed, "owner": None},
        "refused": "bound",
    }  # fmt: skip
    for votes in (-1, 65):
        yield {
            "about": f"{votes} votes a subnet",
            "parameters": {**_plain(), "votes_a_subnet": votes},
            "refused": "bound",
        }


def _networks(given: Iterable[NetworkParameters]) -> Iterable[Case]:
    for parameters in given:
        network, owner = network_id(parameters), parameters.owner
        whose = "nobody's" if owner is None else f"of {peer_text(owner)}"
        yield {
            "about": f"network {parameters.name[:20]}, "
            f"{'for tests' if parameters.testnet else 'for work'}, {whose}, "
            f"{parameters.puzzle_bits} bits, {parameters.votes_a_subnet} votes a subnet"
            f"{', closed' if parameters.closed else ''}",
            "parameters": untagged(parameters),
            "encoding": encode(parameters).hex(),
            "id": network.hex(),
            "topic": announcements_topic(network),
            "rendezvous_key": rendezvous_key(network).hex(),
        }


def _plain() -> Case:
    return untagged(NetworkParameters("main"))


def untagged(parameters: NetworkParameters) -> Case:
    found: Case = described(parameters)
    del found["is"]
    return found


def cids() -> Iterable[Case]:
    for about, content in (("nothing", b""), ("some text", b"p2pfleet"), ("a byte", b"\x00")):
        cid = cid_of(content)
        yield {
            "about": about,
            "content": content.hex(),
            "cid": cid.hex(),
            "text": cid_text(cid),
        }
    good = cid_text(cid_of(b""))
    for about, given in (
        ("empty", ""),
        ("another multibase", "z" + good[1:]),
        ("a digit that base32 does not have", good[:-1] + "1"),
        ("cut short", good[:-8]),
        ("version 0", "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG"),
        ("capitals", "b" + good[1:].upper()),
        ("a capital B", "B" + good[1:]),
        ("padding", good + "======"),
        ("bits behind the end", good[:-1] + "v"),
        ("a line feed behind it", good + "\n"),
        ("the dag-pb codec", "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi"),
    ):
        yield {"about": about, "refused": given}


def job_ids() -> Iterable[Case]:
    good = JOB.hex()
    assert parse_job(good) == JOB
    yield {"about": "64 hexadecimal digits", "text": good, "job": JOB.hex()}
    for about, given in (
        ("empty", ""),
        ("63 digits", good[:-1]),
        ("65 digits", good + "0"),
        ("capitals", good.upper()),
        ("0x before it", "0x" + good),
        ("spaces between the bytes", " ".join(good[at : at + 2] for at in range(0, 64, 2))),
        ("a line feed behind it", good + "\n"),
        ("a letter that is no digit", good[:-1] + "g"),
        ("a digit of another script", good[:-1] + "\u0663"),
    ):
        yield {"about": about, "refused": given}


def messages() -> Iterable[Case]:
    for kind, about, value in (*VALID_BODIES, *VALID_OTHERS):
        yield {
            "about": about,
            "kind": kind,
            "value": described(value),
            **hashed(encode(value)),
        }


def bundles() -> Iterable[Case]:
    for about, tensors in (
        ("no tensor at all", ()),
        ("one float32 matrix", (Tensor("scores", "float32", (2, 2), bytes(range(16))),)),
        ("a scalar", (Tensor("mean", "float64", (), bytes(8)),)),
        ("an empty axis", (Tensor("boxes", "int64", (0, 4), b""),)),
        (
            "several, and a name that no file may have",
            (
                Tensor("a/b:0", "uint8", (3,), b"\x01\x02\x03"),
                Tensor("\u00fcber", "bool", (2, 1), b"\x01\x00"),
                Tensor("half", "float16", (1,), b"\x00\x3c"),
            ),
        ),
    ):
        data = encode_bundle(tensors)
        case = {
            "about": about,
            "tensors": described(tensors),
            "encoding": data.hex(),
            "digest": digest_of(data).hex(),
        }
        yield case | ({"file": _outputs_file(data)} if tensors else {})


def _outputs_file(bundle: bytes) -> str:
    with tempfile.TemporaryDirectory() as folder:
        write_outputs(Path(folder), 0, bundle)
        return outputs_path(Path(folder), 0).read_bytes().hex()


def _sealed(about: str, sealed: Sealed, rule_: str | None) -> Case:
    return {
        "about": about,
        **hashed(encode(sealed)),
        "hash": sealed.hash.hex(),
        "rule": rule_,
    }


def sealed_bodies() -> Iterable[Case]:
    for _, about, body in VALID_BODIES:
        named = next(getattr(body, name) for name in _NAMED if hasattr(body, name))
        signer = next(one for one in (*BASE.values(), INVITED) if one.peer == named)
        yield _sealed(about, signer.seal(body), None)
    good = ALICE.seal(frame(ALICE, [Release((1,))]))
    bare = good.body
    key = ALICE._key
    flipped = good.signature[:-1] + bytes([good.signature[-1] ^ 1])
    scalar = int.from_bytes(good.signature[32:], "little") + ED25519_ORDER
    stretched = good.signature[:32] + scalar.to_bytes(32, "little")
    # With this key, whose order is 1, and this signature everything would verify in an
    # implementation that does not refuse keys of small order.
    small = bytes([1]) + bytes(31)
    yield _sealed("a bit of the signature flipped", _with(good, signature=flipped), "signature")
    yield _sealed("signed without the prefix", _signed(key, bare, b""), "signature")
    yield _sealed(
        "signed for another version", _signed(key, bare, b"p2pfleet-signed-2:"), "signature"
    )
    yield _sealed("the body changed after signing",
                  _with(good, body=bare[:-1] + b"\x02"), "signature")  # fmt: skip
    yield _sealed("another signer's key beside it", _with(good, signer=BOB.peer), "signature")
    yield _sealed(
        "the scalar plus the group's order", _with(good, signature=stretched), "signature"
    )
    yield _sealed(
        "a key of small order", Sealed(bare, PeerId(small), small + bytes(32)), "signature"
    )
    # Both are made with the right key, and RFC 8032 leaves open whether they hold: the first does
    # where both sides are multiplied by the cofactor, the second where R may be of small order.
    yield _sealed(
        "a point of order 8 added to R", _shifted(ALICE, bare, POINT_OF_ORDER_8), "signature"
    )
    yield _sealed("R is the neutral element", _shifted(ALICE, bare, None), "signature")
    yield _sealed("signed by somebody it does not name", BOB.seal(frame(ALICE, [Release((1,))])),
                  "signer")  # fmt: skip
    yield _sealed("a requirement that the owner it names did not sign", MALLORY.seal(REQUIREMENT),
                  "signer")  # fmt: skip
    stray = admission(BOB)
    accepted = acceptance(ALICE, BOB)
    for about, signer, body in (
        ("an admission that holds no invitation", INVITED,
         msgspec.structs.replace(stray, invitation=OWNER.seal(REQUIREMENT))),
        ("an admission by another key than that of its invitation", MALLORY,
         msgspec.structs.replace(stray, key=MALLORY.peer)),
        ("an admission to another network than that of its invitation", INVITED,
         msgspec.structs.replace(stray, network=ID)),
        ("an acceptance that holds no admission", ALICE,
         msgspec.structs.replace(accepted, admission=ALICE.seal(accepted))),
        ("an acceptance for another network than that of its admission", ALICE,
         msgspec.structs.replace(accepted, network=ID)),
    ):  # fmt: skip
        yield _sealed(about, signer.seal(body), "nested")
    forged = INVITED.seal(msgspec.structs.replace(stray, invitation=_with(
        stray.invitation, signature=bytes(64))))  # fmt: skip
    yield _sealed("an invitation that nobody signed", forged, "signature")
    raw = msgpack.unpackb(bare)
    for about, changed, rule_ in (
        ("version 2 of a frame", ["p2pfleet/2/frame", *raw[1:]], "tag"),
        ("a frame of another domain", ["otherfleet/1/frame", *raw[1:]], "tag"),
        ("a frame without entries", [*raw[:-2], [], 0], "bound"),
    ):
        yield _sealed(about, _signed(key, msgpack.packb(changed), SIGNATURE_PREFIX), rule_)
    wide = bare[:-1] + b"\xcc\x00"
    yield _sealed("a body that is not canonical", _signed(key, wide, SIGNATURE_PREFIX), "canonical")


def _with(sealed: Sealed, **changes: Any) -> Sealed:
    return msgspec.structs.replace(sealed, **changes)


def _signed(key: Any, body: bytes, prefix: bytes) -> Sealed:
    return Sealed(body, ALICE.peer, key.sign(prefix + body).signature)


def _shifted(author: Signer, body: bytes, torsion: bytes | None) -> Sealed:
    """Signed by hand, with another R: plus ``torsion``; the neutral element if that is None."""
    message = SIGNATURE_PREFIX + body
    half = hashlib.sha512(bytes(author._key)).digest()
    clamped = crypto_sign_ed25519_sk_to_curve25519(author._key._signing_key)
    secret = int.from_bytes(clamped, "little")
    nonce = int.from_bytes(hashlib.sha512(half[32:] + message).digest(), "little") % ED25519_ORDER
    if torsion is None:
        nonce, point = 0, bytes([1]) + bytes(31)
    else:
        base = crypto_scalarmult_ed25519_base_noclamp(nonce.to_bytes(32, "little"))
        point = crypto_core_ed25519_add(base, torsion)
    challenge = int.from_bytes(hashlib.sha512(point + author.peer + message).digest(), "little")
    scalar = (nonce + challenge * secret) % ED25519_ORDER
    return Sealed(body, author.peer, point + scalar.to_bytes(32, "little"))


def verdict_text(verdict: Verdict, check: str) -> str:
    return "accept" if isinstance(verdict, Accept) else f"{type(verdict).__name__.lower()} {check}"
