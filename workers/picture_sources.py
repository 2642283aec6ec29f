"""Where an item's input image lies: in S3, in an upload, or in the row itself.

A path is never opened here: whoever may submit a job may not read this machine's files by it. The command line puts
local files into the rows before it submits them.
"""

from __future__ import annotations

import base64
import binascii
import re

from models.images import Pixels
from workers.pictures import PictureError, read_picture
from workers.store import UPLOAD_SCHEME, MissingObjectError, ObjectStore, StoreError, checked_key, open_uri
from workers.upstream import MadeFile

MAX_BYTES = 64 << 20
UPLOADS = "inputs/"
_DATA_URI = re.compile(r"data:[\w.+/-]*(?:;[\w=-]+)*;base64,", re.IGNORECASE)
_PATH = re.compile(r"[^\s]{1,4096}\.(?:png|jpe?g|webp|gif|bmp|tiff?|avif)", re.IGNORECASE)


def load_picture(value: object, field: str, store: ObjectStore, *, mask: bool = False) -> Pixels:
    """The pixels that a row's field stands for.

    Args:
        value: An `s3://` URI, the `nightmill://` URI of an upload, a `data:` URI, base64, or what an earlier node of a
            flow made.
        field: Its name, for messages.
        store: Nightmill's own.
        mask: As `read_picture`.

    Raises:
        PictureError: there is no such image, or none that can be used.
        StoreError: a store cannot be reached.
    """
    if isinstance(value, MadeFile):
        return read_picture(store.get(value.key), mask=mask)
    if not isinstance(value, str) or not value.strip():
        raise PictureError("image_missing", f"{field} is empty; it must name this item's image")
    try:
        return read_picture(_data(value.strip(), store), mask=mask)
    except PictureError as error:
        raise PictureError(error.error.code, f"{field}: {error.error.message}") from error


def _data(value: str, store: ObjectStore) -> bytes:
    if "://" in value[:16]:
        return _stored(value, store)
    found = _DATA_URI.match(value)
    if found is None and _PATH.fullmatch(value):
        raise PictureError(
            "invalid_image",
            f"{_short(value)} is a path, and workers open no files; upload the image, give s3://bucket/key, or submit "
            "the job with the command line, which sends local files along",
        )
    try:
        return base64.b64decode(value[found.end() :] if found else value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise PictureError(
            "invalid_image", f"{_short(value)} is neither s3://bucket/key, nightmill://…, nor an image in base64"
        ) from error


def _stored(uri: str, own: ObjectStore) -> bytes:
    if not uri.startswith(("s3://", UPLOAD_SCHEME)):
        raise PictureError("invalid_image", f"{_short(uri)} is not read; give s3://bucket/key or an upload's URI")
    if uri.startswith(UPLOAD_SCHEME):
        try:
            key = checked_key(uri.removeprefix(UPLOAD_SCHEME))
        except StoreError as error:
            raise PictureError("image_missing", str(error)) from error
        if not key.startswith(UPLOADS):
            raise PictureError("image_missing", f"{_short(uri)} is no upload")
    store, key = open_uri(uri, own)
    if not key:
        raise PictureError("image_missing", f"{_short(uri)} names no object; give s3://bucket/key")
    info = store.head(key)
    if info is None:
        raise PictureError("image_missing", f"there is no {_short(uri)}")
    if info.size > MAX_BYTES:
        raise PictureError("image_too_large", f"{_short(uri)} has {info.size:,} bytes; {MAX_BYTES:,} are the most")
    try:
        return store.get(key)
    except MissingObjectError as error:
        raise PictureError("image_missing", f"there is no {_short(uri)}") from error


def _short(value: str) -> str:
    return repr(value if len(value) <= 80 else value[:77] + "…")
