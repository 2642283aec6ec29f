"""A batch through the plain `openai` client: upload, create, poll, download. Needs `nightmill up`, and that client.

python examples/openai_batch.py [URL] [MODEL]
"""

from __future__ import annotations

import json
import sys
import time

from openai import OpenAI

PRODUCTS = ("a tent for two", "a headlamp", "a rain jacket", "a camping stove")
POLL_SECONDS = 1.0


def main(url: str = "http://127.0.0.1:8080", model: str = "smollm2-135m") -> None:
    """Have a sentence written about each product."""
    client = OpenAI(base_url=f"{url}/v1", api_key="any")  # or NIGHTMILL_API_KEY of the service
    requests = [
        {
            "custom_id": f"product-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": model,
                "messages": [
                    {"role": "system", "content": "You write for an outdoor shop."},
                    {"role": "user", "content": f"Write one sentence about {product}."},
                ],
                "temperature": 0.7,
                "max_completion_tokens": 48,
            },
        }
        for number, product in enumerate(PRODUCTS)
    ]
    lines = "\n".join(json.dumps(request) for request in requests).encode()
    file = client.files.create(file=("products.jsonl", lines), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"team": "shop"}
    )
    while batch.status in {"validating", "in_progress", "finalizing", "cancelling"}:
        time.sleep(POLL_SECONDS)
        batch = client.batches.retrieve(batch.id)
        print(f"{batch.status}: {batch.request_counts}", file=sys.stderr)
    for file_id in (batch.output_file_id, batch.error_file_id):
        if file_id is not None:
            print(client.files.content(file_id).text, end="")
    if batch.errors is not None:
        print(batch.errors.to_json())


if __name__ == "__main__":
    main(*sys.argv[1:3])
