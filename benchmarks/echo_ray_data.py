"""The ray.data side of `benchmarks.echo`: one actor renders the template over each row."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

import ray
import ray.data
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Render:
    """Renders a batch of rows."""

    def __init__(self, template: str) -> None:
        self._template = ImmutableSandboxedEnvironment().from_string(template)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        names = list(batch)
        rows = zip(*(batch[name] for name in names), strict=True)
        outputs = [self._template.render(dict(zip(names, row, strict=True))) for row in rows]
        return {"sku": batch["sku"], "output": outputs}


def main() -> None:
    address, source, output, template = sys.argv[1:]
    ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    started = time.perf_counter()
    rendered = ray.data.read_json(source, lines=True).map_batches(
        Render, fn_constructor_args=(template,), batch_size=4096, compute=ray.data.ActorPoolStrategy(size=1)
    )
    rendered.write_json(output)
    print(json.dumps({"seconds": time.perf_counter() - started}))


if __name__ == "__main__":
    main()
