"""The certificate of the bulk channel: self-signed, bound to a peer id by the libp2p TLS extension.

The certificate's key is fresh for every run of a node. The extension holds the identity's public
key, and its signature over the certificate's key, as in libp2p's TLS specification.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import ssl
import tempfile
from collections.abc import Callable

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from p2pfleet.core.errors import Malformed
from p2pfleet.core.model.ids import PeerId

EXTENSION = x509.ObjectIdentifier("1.3.6.1.4.1.53594.1.1")
MAX_CERTIFICATE_BYTES = 4096
_SIGNED_PREFIX = b"libp2p-tls-handshake:"
# SEQUENCE { OCTET STRING (protobuf-framed Ed25519 key), OCTET STRING (signature) }: all lengths are
# fixed, so that the one DER form there is can be compared byte by byte.
_KEY_HEAD = b"\x30\x68\x04\x24\x08\x01\x12\x20"
_SIGNATURE_HEAD = b"\x04\x40"
_EXTENSION_BYTES = len(_KEY_HEAD) + 32 + len(_SIGNATURE_HEAD) + 64
_NEVER = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
_ALWAYS = datetime.datetime(1975, 1, 1, tzinfo=datetime.UTC)

Sign = Callable[[bytes], bytes]
"""Sign with the node's identity key: 64 bytes."""


def _key_bytes(certificate: x509.Certificate | ec.EllipticCurvePrivateKey) -> bytes:
    return certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


class OwnCertificate:
    """This run's certificate, and the server side's TLS settings with it.

    ``digest`` is its SHA-256.
    """

    def __init__(self, peer: PeerId, sign: Sign) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        signature = sign(_SIGNED_PREFIX + _key_bytes(key))
        bound = _KEY_HEAD + peer + _SIGNATURE_HEAD + signature
        # Without a clock: the ticket says how long it is good for.
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(x509.Name([]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(_ALWAYS)
            .not_valid_after(_NEVER)
            .add_extension(x509.UnrecognizedExtension(EXTENSION, bound), critical=True)
            .sign(key, hashes.SHA256())
        )
        self.digest = hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).digest()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_3
        self.context.num_tickets = 0
        _load(
            self.context,
            certificate.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        )


def _load(context: ssl.SSLContext, pem: bytes) -> None:
    """Python reads certificates from files only: one in memory, or one for the owner alone."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, pem)
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
        return
    with tempfile.NamedTemporaryFile() as file:
        file.write(pem)
        file.flush()
        context.load_cert_chain(file.name)


def dialling_context() -> ssl.SSLContext:
    """The client side's TLS settings. They accept any certificate: check it with :func:`check`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def check(certificate: bytes | None, peer: PeerId, digest: bytes) -> None:
    """See that a certificate (DER) is the one announced, and bound to ``peer``.

    Raises :class:`Malformed`.
    """
    if not certificate or len(certificate) > MAX_CERTIFICATE_BYTES:
        raise Malformed("no certificate, or one that is too long")
    if hashlib.sha256(certificate).digest() != digest:
        raise Malformed("another certificate than announced")
    if bound_peer(certificate) != peer:
        raise Malformed("a certificate of another peer")


def bound_peer(certificate: bytes) -> PeerId:
    """The peer whose identity signed the certificate's key. Raises :class:`Malformed`."""
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        key = parsed.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise Malformed("the certificate's key is not on an elliptic curve")
        parsed.verify_directly_issued_by(parsed)
        found = [one.value for one in parsed.extensions if one.oid == EXTENSION]
        others = [one for one in parsed.extensions if one.critical and one.oid != EXTENSION]
    except Malformed:
        raise
    except Exception as error:  # the library's many kinds, for many ways to be malformed
        raise Malformed(f"not a self-signed certificate: {type(error).__name__}") from error
    if len(found) != 1 or others:
        raise Malformed("not exactly the libp2p extension in the certificate")
    value = found[0].value if isinstance(found[0], x509.UnrecognizedExtension) else b""
    signature_at = len(_KEY_HEAD) + 32
    if (
        len(value) != _EXTENSION_BYTES
        or not value.startswith(_KEY_HEAD)
        or value[signature_at : signature_at + 2] != _SIGNATURE_HEAD
    ):
        raise Malformed("not an Ed25519 identity in the certificate")
    peer = PeerId(value[len(_KEY_HEAD) : signature_at])
    try:
        Ed25519PublicKey.from_public_bytes(peer).verify(
            value[signature_at + 2 :], _SIGNED_PREFIX + _key_bytes(parsed)
        )
    except (InvalidSignature, ValueError) as error:
        raise Malformed("the identity did not sign the certificate's key") from error
    return peer
