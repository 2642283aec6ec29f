"""ncnn's files: read to the last byte, or refused; and run as ncnn would run them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from models.backends.ncnn_network import NcnnNetwork
from models.ncnn import NcnnError, read

# A convolution with a leaky ReLU beside the picture itself, both summed; then two pictures side by side in channels.
PARAM = """7767517
6 8
Input       data   0 1 data
Split       split  1 3 data a b c
Convolution conv   1 1 a d 0=3 1=3 4=1 5=1 6=81 9=2 -23310=1,2.000000e-01
Eltwise     sum    2 1 d b e 0=1 -23301=2,5.000000e-01,1.000000e+00
Concat      both   2 1 e c f
PReLU       slopes 1 1 f output 0=6
"""
GENERATOR = np.random.default_rng(1)
KERNEL = GENERATOR.normal(size=(3, 3, 3, 3)).astype(np.float16)
BIAS = GENERATOR.normal(size=3).astype(np.float32)
SLOPES = GENERATOR.normal(size=6).astype(np.float32)
FLOAT16 = (0x01306B47).to_bytes(4, "little")
FLOAT32 = bytes(4)
PADDING = bytes(2)  # 81 half-precision numbers end within a word
WEIGHTS = FLOAT16 + KERNEL.tobytes() + PADDING + BIAS.tobytes() + SLOPES.tobytes()


def write(folder: Path, param: str = PARAM, weights: bytes = WEIGHTS) -> tuple[Path, Path]:
    (folder / "n.param").write_text(param)
    (folder / "n.bin").write_bytes(weights)
    return folder / "n.param", folder / "n.bin"


@pytest.mark.parametrize("tag", [FLOAT16, FLOAT32])
def test_a_network_computes_what_its_file_says(tmp_path: Path, tag: bytes) -> None:
    kernel = KERNEL.tobytes() + PADDING if tag == FLOAT16 else KERNEL.astype(np.float32).tobytes()
    network = NcnnNetwork(read(*write(tmp_path, weights=tag + kernel + BIAS.tobytes() + SLOPES.tobytes())))
    images = torch.from_numpy(GENERATOR.normal(size=(2, 3, 5, 7)).astype(np.float32))
    filtered = functional.conv2d(images, torch.from_numpy(KERNEL).float(), torch.from_numpy(BIAS), padding=1)
    both = torch.cat([0.5 * functional.leaky_relu(filtered, 0.2) + images, images], dim=1)
    expected = torch.where(both > 0, both, both * torch.from_numpy(SLOPES)[:, None, None])
    torch.testing.assert_close(network(images), expected)


@pytest.mark.parametrize(
    ("param", "weights", "message"),
    [
        ("P6\n", WEIGHTS, "not a text"),
        (PARAM.replace("6 8", "7 8"), WEIGHTS, "7 layers"),
        (PARAM.replace("PReLU ", "Softmax"), WEIGHTS, "not known"),
        (PARAM.replace("6=81", "6=81 2=2"), WEIGHTS, "not known"),
        (PARAM, WEIGHTS[:-4], "4 bytes too early"),
        (PARAM, WEIGHTS + bytes(4), "4 bytes more"),
        (PARAM, (0x000D4B38).to_bytes(4, "little") + WEIGHTS[4:], "0x000D4B38"),
    ],
)
def test_what_is_not_known_is_refused(tmp_path: Path, param: str, weights: bytes, message: str) -> None:
    with pytest.raises(NcnnError, match=message):
        read(*write(tmp_path, param, weights))


@pytest.mark.parametrize(
    "option", [("0=1 -23301", "0=0 -23301"), ("both   2 1 e c f", "both   2 1 e c f 0=1"), ("9=2", "9=3")]
)
def test_an_option_that_would_compute_something_else_is_refused(tmp_path: Path, option: tuple[str, str]) -> None:
    with pytest.raises(NcnnError, match="not known"):
        NcnnNetwork(read(*write(tmp_path, PARAM.replace(*option))))
