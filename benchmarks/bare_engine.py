"""The bare engine in this process: vLLM's own offline class with Nightmill's engine settings.

Reads requests.jsonl, generates every request once, and prints one line of JSON with the seconds and tokens of the
generation alone. A single short request is answered first, so that the first kernel calls are not timed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

# Without this, vLLM's offline class starts a second process for its engine.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"

from vllm import LLM, SamplingParams

from models import weights
from models.backends.vllm_engine import engine_arguments


def main() -> None:
    requests = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    engine = LLM(**engine_arguments(weights.locate("smollm2-135m", Path(sys.argv[2]))))
    chats = [[{"role": "user", "content": request["prompt"]}] for request in requests]
    settings = [
        SamplingParams(temperature=0, max_tokens=request["max_tokens"], ignore_eos=True) for request in requests
    ]
    engine.chat(chats[:1], SamplingParams(temperature=0, max_tokens=8), use_tqdm=False)
    started = time.perf_counter()
    outputs = engine.chat(chats, settings, use_tqdm=False)
    seconds = time.perf_counter() - started
    tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
    print(json.dumps({"seconds": seconds, "tokens": tokens, "texts": [output.outputs[0].text for output in outputs]}))


if __name__ == "__main__":
    main()
