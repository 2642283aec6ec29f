"""What each back-end computes in, with a processor's abilities as the test says they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models.backends import vllm_engine
from models.backends.diffusers_device import precision
from models.backends.processor import fastest_dtype

GIBIBYTE = 1 << 30


@pytest.mark.parametrize(
    ("has", "expected"),
    [
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True, "avx512_bf16": False}, torch.bfloat16),
        ({"avx2": True}, torch.float32),
    ],
)
def test_a_processor_computes_in_what_it_multiplies(
    monkeypatch: pytest.MonkeyPatch, has: dict[str, bool], expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    assert fastest_dtype() == expected
    assert precision("cpu") == expected


@pytest.mark.parametrize(("has", "cache"), [({"amx_bf16": True}, GIBIBYTE), ({}, 2 * GIBIBYTE)])
def test_vllms_cache_holds_as_many_tokens_in_either_type(
    monkeypatch: pytest.MonkeyPatch, has: dict[str, bool], cache: int
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    monkeypatch.setattr(vllm_engine, "is_cpu_build", lambda: True)
    arguments = vllm_engine.engine_arguments(Path("model"))
    assert (arguments["dtype"], arguments["kv_cache_memory_bytes"]) == (fastest_dtype(), cache)
