"""Signed manifests: what a reader of the standard finds in a file, and certificates that do not serve."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import c2pa
import numpy as np
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from PIL import Image

from tests.support.certificates import Authority, Key, write_key
from workers.content_credentials import ASSERTION, ContentCredentials, CredentialsError
from workers.picture_files import CONTENT_TYPES, encode_picture
from workers.provenance import Provenance
from workers.settings import CredentialFiles, Settings, SettingsError, load_settings

MADE = Provenance(prompt="a red shoe", model="m", revision="sha256:1", seed=5, job="J", index=3, image=1)
PIXELS = np.random.default_rng(5).integers(0, 255, (40, 30, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.found(tmp_path_factory.mktemp("authority"))


def read(data: bytes, content_type: str, authority: Authority) -> tuple[str, dict[str, Any]]:
    """A file's state, as a reader sees it that trusts the authority, and its manifest."""
    trust = {"verify": {"verify_trust": True}, "trust": {"trust_anchors": authority.root}}
    context = c2pa.Context(settings=c2pa.Settings.from_dict(trust))
    with c2pa.Reader(content_type, io.BytesIO(data), context=context) as reader:
        found = orjson.loads(reader.json())
    return found["validation_state"], found["manifests"][found["active_manifest"]]


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_a_signed_file_says_who_made_it_and_how(form: Any, authority: Authority) -> None:
    credentials = ContentCredentials(authority.issue())
    content_type = CONTENT_TYPES[form]
    plain = encode_picture(PIXELS, form, provenance=MADE)
    signed = credentials.sign(plain, content_type, MADE)
    state, manifest = read(signed, content_type, authority)
    assert state == "Trusted"
    assert manifest["claim_generator_info"][0]["name"] == "Nightmill"
    assert manifest["claim_generator_info"][0]["version"] == version("nightmill")
    assert manifest["signature_info"]["common_name"] == "signer"
    said = {assertion["label"]: assertion["data"] for assertion in manifest["assertions"]}
    [action] = said["c2pa.actions.v2"]["actions"]
    assert action["action"] == "c2pa.created"
    assert action["digitalSourceType"].endswith("/digitalsourcetype/trainedAlgorithmicMedia")
    assert said[ASSERTION] == MADE.fields
    assert (said[ASSERTION]["seed"], said[ASSERTION]["item"], said[ASSERTION]["job"]) == ("5", "3", "J")
    assert b"a red shoe" not in signed
    # The XMP and the pixels are as they were; only the signature's bytes differ from time to time.
    before, after = (Image.open(io.BytesIO(data)) for data in (plain, signed))
    assert np.array_equal(np.asarray(before), np.asarray(after))
    assert before.info["xmp"] == after.info["xmp"]
    assert credentials.sign(plain, content_type, MADE) != signed


def test_a_file_that_was_changed_is_found_out(authority: Authority) -> None:
    signed = ContentCredentials(authority.issue()).sign(encode_picture(PIXELS, "png"), "image/png", MADE)
    changed = bytearray(signed)
    changed[-30] ^= 1  # of the pixels, at the end of the last chunk of them
    assert read(bytes(changed), "image/png", authority)[0] == "Invalid"


@pytest.mark.parametrize(
    ("step", "kind"), [("inpaint", "compositeWithTrainedAlgorithmicMedia"), ("upscale", "algorithmicallyEnhanced")]
)
def test_a_picture_that_was_gone_on_with_is_not_called_a_models(authority: Authority, step: Any, kind: str) -> None:
    made = Provenance(prompt="", model="m", revision="r", seed=1, job="J", index=0, image=0, first_step=step)
    plain = encode_picture(PIXELS, "png", provenance=made)
    assert kind.encode() in plain
    _, manifest = read(ContentCredentials(authority.issue()).sign(plain, "image/png", made), "image/png", authority)
    [action] = manifest["assertions"][0]["data"]["actions"]
    assert action["digitalSourceType"].endswith(f"/{kind}")


@pytest.mark.parametrize(
    "make",
    [
        lambda: ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate,
        lambda: rsa.generate_private_key(65537, 2048),
    ],
)
def test_other_kinds_of_keys_sign_too(authority: Authority, make: Callable[[], Key]) -> None:
    credentials = ContentCredentials(authority.issue("other", key=make()))
    signed = credentials.sign(encode_picture(PIXELS, "png"), "image/png", MADE)
    assert read(signed, "image/png", authority)[0] == "Trusted"


def test_threads_sign_side_by_side(authority: Authority) -> None:
    credentials, plain = ContentCredentials(authority.issue()), encode_picture(PIXELS, "webp", provenance=MADE)
    with ThreadPoolExecutor(4) as threads:
        signed = list(threads.map(lambda _: credentials.sign(plain, "image/webp", MADE), range(40)))
    assert len(set(signed)) == 40
    assert {read(data, "image/webp", authority)[0] for data in signed} == {"Trusted"}


def bad_files(authority: Authority, what: str) -> CredentialFiles:
    folder, good = authority.folder, authority.issue()
    (folder / "text").write_text("no PEM")
    match what:
        case "no certificate":
            return CredentialFiles(str(folder / "nowhere"), good.key)
        case "text for a certificate":
            return CredentialFiles(str(folder / "text"), good.key)
        case "text for a key":
            return CredentialFiles(good.certificate, str(folder / "text"))
        case "a passphrase":
            key = write_key(folder / "locked", ec.generate_private_key(ec.SECP256R1()), passphrase=b"x")
            return CredentialFiles(good.certificate, str(key))
        case "another's key":
            return CredentialFiles(good.certificate, authority.issue("another").key)
        case "a key of another kind":
            key = write_key(folder / "dsa", dsa.generate_private_key(2048))  # type: ignore[arg-type] # what is refused
            return CredentialFiles(good.certificate, str(key))
        case "expired":
            return authority.issue("old", days=-1)
        case _:
            (folder / "root.pem").write_text(authority.root)
            return CredentialFiles(str(folder / "root.pem"), str(write_key(folder / "root.key", authority.key)))


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("no certificate", "nowhere cannot be read: No such file"),
        ("text for a certificate", "text holds no certificate in PEM"),
        ("text for a key", "text holds no private key in PEM"),
        ("a passphrase", "locked has a passphrase"),
        ("another's key", "The key must be that of the file's first certificate"),
        ("a key of another kind", "make one of P-256, Ed25519 or RSA"),
        ("expired", "old.pem has expired"),
        ("the root's own", "not its own issuer"),
    ],
)
def test_files_that_do_not_serve_are_told_at_once(authority: Authority, what: str, says: str) -> None:
    with pytest.raises(CredentialsError) as caught:
        ContentCredentials(bad_files(authority, what))
    assert says in str(caught.value)


def test_the_end_of_a_certificate_is_known(authority: Authority) -> None:
    ends = ContentCredentials(authority.issue(days=5)).expires - datetime.now(UTC)
    assert timedelta(days=4) < ends < timedelta(days=6)


def test_one_setting_without_the_other_is_refused(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = authority.issue()
    monkeypatch.setenv("NIGHTMILL_C2PA_CERTIFICATE", files.certificate)
    with pytest.raises(SettingsError, match="C2PA_CERTIFICATE and NIGHTMILL_C2PA_KEY go together"):
        load_settings(Settings)
    monkeypatch.setenv("NIGHTMILL_C2PA_KEY", files.key)
    assert load_settings(Settings).credential_files == files
    monkeypatch.delenv("NIGHTMILL_C2PA_CERTIFICATE")
    with pytest.raises(SettingsError, match="C2PA_CERTIFICATE and NIGHTMILL_C2PA_KEY go together"):
        load_settings(Settings)
