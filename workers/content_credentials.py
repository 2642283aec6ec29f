"""Content Credentials: a signed manifest in each image's file, by the standard of the C2PA.

With an operator's certificate, whoever gets a file can check who made it, that a model did, and that nothing was
changed since. Nothing is asked of the network: there is no time stamp of an authority.

Source: C2PA Technical Specification, https://spec.c2pa.org; the library is the C2PA's own, c2pa-python.
"""

from __future__ import annotations

import importlib
import io
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from workers.picture_files import CONTENT_TYPES, encode_picture
from workers.provenance import Provenance
from workers.settings import CredentialFiles

ASSERTION = "dev.nightmill.provenance"
"""Label of the assertion that holds what the XMP packet holds."""
INSTALL = "pip install 'nightmill[c2pa]'"


class CredentialsError(Exception):
    """Nothing can be signed with a certificate and its key; the message says which file, and what would be right."""


class ContentCredentials:
    """Signs files. Several threads may ask at once."""

    def __init__(self, files: CredentialFiles) -> None:
        """Read both files, and sign a picture for a trial.

        Raises:
            CredentialsError: the library is not installed, or they cannot be used.
        """
        try:
            self._c2pa: Any = importlib.import_module("c2pa")  # its classes are only in part typed
        except (ImportError, OSError, RuntimeError) as error:
            raise CredentialsError(f"c2pa-python cannot be loaded ({error}): {INSTALL}") from error
        chain = _read(files.certificate)
        algorithm, key = _read_key(files.key)
        self.expires = _expiry(files.certificate, chain)
        # A thumbnail would be larger than many of the pictures.
        settings = self._c2pa.Settings.from_dict({"builder": {"thumbnail": {"enabled": False}}})
        self._context = self._c2pa.Context(settings=settings)
        self._agent = {"name": "Nightmill", "version": version("nightmill")}
        try:
            self._signer = self._c2pa.Signer.from_info(self._c2pa.C2paSignerInfo(algorithm, chain, key, None))
        except self._c2pa.C2paError as error:
            raise CredentialsError(f"{files.certificate} with {files.key}: {error}") from error
        try:
            self.sign(encode_picture(np.zeros((8, 8, 3), np.uint8), "png"), CONTENT_TYPES["png"], _TRIAL)
        except CredentialsError as error:
            raise CredentialsError(
                f"{files.certificate} with {files.key}: {error}. The key must be that of the file's first certificate, "
                "and that one for signing (extended key usage emailProtection) and not its own issuer"
            ) from error

    def sign(self, data: bytes, content_type: str, provenance: Provenance) -> bytes:
        """A file with its manifest. The pixels stay as they are; the bytes are others each time.

        Raises:
            CredentialsError: it cannot be signed: the certificate has expired since, say.
        """
        manifest = {
            "claim_generator_info": [self._agent],
            "assertions": [
                {"label": "c2pa.actions", "data": {"actions": [self._action(provenance)]}},
                {"label": ASSERTION, "data": provenance.fields},
            ],
        }
        signed = io.BytesIO()
        try:
            with self._c2pa.Builder(manifest, context=self._context) as builder:
                builder.sign(self._signer, content_type, io.BytesIO(data), signed)
        except self._c2pa.C2paError as error:
            raise CredentialsError(f"it cannot be signed: {error}") from error
        return signed.getvalue()

    def _action(self, provenance: Provenance) -> dict[str, object]:
        return {
            "action": "c2pa.created",
            "digitalSourceType": provenance.source_type,
            "softwareAgent": self._agent,
        }


_TRIAL = Provenance(prompt="", model="", revision="", seed=0, job="", index=0, image=0)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise CredentialsError(f"{path} cannot be read: {error.strerror or error}") from error


def _read_key(path: str) -> tuple[str, bytes]:
    """The algorithm that a key signs with, and the key in the one form that the library reads."""
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - comes with c2pa-python
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa  # noqa: PLC0415

    try:
        key = serialization.load_pem_private_key(_read(path), password=None)
    except TypeError as error:
        raise CredentialsError(
            f"{path} has a passphrase, and nobody is there to give it: store the key without"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CredentialsError(f"{path} holds no private key in PEM") from error
    if isinstance(key, ec.EllipticCurvePrivateKey):
        algorithm = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}.get(key.curve.name)
    elif isinstance(key, rsa.RSAPrivateKey):
        algorithm = "ps256"
    else:
        algorithm = "ed25519" if isinstance(key, ed25519.Ed25519PrivateKey) else None
    if algorithm is None:
        raise CredentialsError(f"{path} holds a key that C2PA does not sign with; make one of P-256, Ed25519 or RSA")
    form = serialization.PrivateFormat.PKCS8
    return algorithm, key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def _expiry(path: str, chain: bytes) -> datetime:
    from cryptography import x509  # noqa: PLC0415 - comes with c2pa-python

    try:
        first = x509.load_pem_x509_certificates(chain)[0]
    except ValueError as error:
        raise CredentialsError(f"{path} holds no certificate in PEM") from error
    if first.not_valid_after_utc <= datetime.now(UTC):
        raise CredentialsError(f"the certificate in {path} has expired, on {first.not_valid_after_utc:%Y-%m-%d}")
    return first.not_valid_after_utc
