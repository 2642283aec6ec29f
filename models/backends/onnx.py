"""Networks in ONNX files, through onnxruntime."""

from __future__ import annotations

from pathlib import Path

import onnxruntime  # type: ignore[import-untyped]  # the package has no annotations

from models.backends.vllm_environment import usable_cores

ERRORS_ONLY = 3


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """A network, loaded: on a GPU where this onnxruntime has one, else on the cores that this process may use."""
    options = onnxruntime.SessionOptions()
    # onnxruntime's own default counts the machine's cores, not those that the process is bound to.
    options.intra_op_num_threads = usable_cores()
    options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    available = onnxruntime.get_available_providers()
    return onnxruntime.InferenceSession(
        str(path), options, providers=[provider for provider in wanted if provider in available]
    )
