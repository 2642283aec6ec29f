"""Certificates for Content Credentials, of an authority that exists for one test."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from workers.settings import CredentialFiles

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
DAY = timedelta(days=1)


@dataclass(frozen=True)
class Authority:
    """A root, in memory, and the files of what it has issued."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    folder: Path

    @classmethod
    def found(cls, folder: Path) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        return cls(key, _certificate("Test root", key, "Test root", key, days=30, root=True), folder)

    @property
    def root(self) -> str:
        """Its own certificate, PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def issue(self, name: str = "signer", *, key: Key | None = None, days: float = 30) -> CredentialFiles:
        """A certificate for signing, of P-256 by default, that ends in so many days."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        issued = _certificate(name, key, "Test root", self.key, days=days)
        certificate = self.folder / f"{name}.pem"
        certificate.write_bytes(issued.public_bytes(serialization.Encoding.PEM))
        return CredentialFiles(str(certificate), str(write_key(self.folder / f"{name}.key", key)))


def write_key(file: Path, key: Key, *, passphrase: bytes | None = None) -> Path:
    """A key as OpenSSL writes it."""
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        encryption = serialization.BestAvailableEncryption(passphrase)
    file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    return file


def _certificate(
    name: str, key: Key, issuer: str, issuer_key: ec.EllipticCurvePrivateKey, *, days: float, root: bool = False
) -> x509.Certificate:
    now = datetime.now(UTC)
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=root,
        crl_sign=root,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 90 * DAY)
        .not_valid_after(now + days * DAY)
        .add_extension(x509.BasicConstraints(ca=root, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if not root:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _name(common: str) -> x509.Name:
    parts = {NameOID.COUNTRY_NAME: "DE", NameOID.ORGANIZATION_NAME: "Test", NameOID.COMMON_NAME: common}
    return x509.Name([x509.NameAttribute(of, value) for of, value in parts.items()])
