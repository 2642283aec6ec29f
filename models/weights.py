"""From a model's name to a folder of weights on this machine. Only safetensors files are ever loaded."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from models import smollm2
from models.errors import FailureKind, ModelError, UnknownModelError

FOLDER_STARTS = ("/", "~/", "./", "../")
# What an engine reads of a model. Code and pickled weights stay on the hub.
HUB_FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")
UNSAFE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".gguf"})

CONVERTED: dict[str, Callable[[Path], Path]] = {"smollm2-135m": smollm2.prepare}
"""Models whose weights a package carries in another format."""


def is_folder_name(name: str) -> bool:
    """Whether a model's name means a local folder."""
    return name.startswith(FOLDER_STARTS)


def check_folder(name: str) -> Path:
    """A local model folder as a path, seen to hold what an engine loads.

    Raises:
        UnknownModelError: it is not a folder, or lacks config.json or safetensors weights.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise UnknownModelError(f"the model folder {name!r} does not exist on this machine", "model_folder_missing")
    if not (folder / "config.json").is_file():
        raise UnknownModelError(f"the model folder {name!r} has no config.json", "model_folder_incomplete")
    if not any(folder.glob("*.safetensors")):
        others = sorted({path.suffix for path in folder.iterdir()} & UNSAFE_SUFFIXES)
        found = f"; its {', '.join(others)} files are not loaded: only safetensors are" if others else ""
        raise UnknownModelError(
            f"the model folder {name!r} has no *.safetensors weights{found}", "model_folder_incomplete"
        )
    return folder.resolve()


def check_whole(folder: Path) -> None:
    """See to it that each file of weights is as long as it says its header is: 8 bytes read of each.

    Of a file that is not, vLLM asks for as much memory as its first bytes happen to say; that must not pass for a
    machine with too little memory, on which another try could help.

    Raises:
        ModelError: kind MODEL, code `weights_damaged`.
    """
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            start = file.read(8)
        # https://github.com/huggingface/safetensors#format: a little-endian length, then so many bytes of JSON.
        if len(start) < 8 or 8 + int.from_bytes(start, "little") > path.stat().st_size:
            raise ModelError(
                FailureKind.MODEL,
                "weights_damaged",
                f"{path} is not a whole safetensors file: was it copied or downloaded in full?",
            )


def locate(name: str, cache_dir: Path) -> Path:
    """The folder of a model's weights, made or downloaded where it is not there yet. Takes seconds to minutes once.

    Raises:
        UnknownModelError: a local folder that is not one, or is incomplete.
        ModelError: kind MODEL, the weights cannot be had.
    """
    convert = CONVERTED.get(name)
    if convert is not None:
        return convert(cache_dir)
    if is_folder_name(name):
        return check_folder(name)
    return check_folder(str(_fetch(name)))


def revision(folder: Path) -> str:
    """`sha256:` and 16 hexadecimal digits that stand for a folder's weights: the digest of the files' digests.

    Reads all of them, a gigabyte in about a second, unless the folder carries its digests.
    """
    files = sorted(folder.glob("*.safetensors"))
    known = smollm2.known_digests(folder)
    digests = [known.get(path.name) or smollm2.sha256_of(path) for path in files]
    whole = digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
    return f"sha256:{whole[:16]}"


def _fetch(name: str) -> Path:
    # Imported here: the control plane, which checks names, installs without it.
    import huggingface_hub  # noqa: PLC0415
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415

    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(HUB_FILES)))
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError) as error:
        endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
        raise ModelError(
            FailureKind.MODEL,
            "hub_model_unavailable",
            f"the hub model {name!r} could not be fetched from {endpoint}: it does not exist, needs a token "
            "(HF_TOKEN), or the hub cannot be reached from here. A local folder that holds the model works too "
            f"(model: /path/to/it). {type(error).__name__}: {first_line(error)}",
        ) from error


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its class where it has none; of a chain, the innermost cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__
