"""Make `requests.jsonl`: 256 prompts about the example catalogue, each with its output length in tokens.

Output lengths are fixed by the file (the model's own end is ignored), from 16 to 128: every participant of the
benchmark then generates exactly the same number of tokens.
"""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

HERE = Path(__file__).parent
COUNT = 256
ANGLES = [
    "Describe {name} in plain words.",
    "Write a short advertisement for {name}. It has {features}.",
    "Who should buy {name}, made of {material}, and why?",
    "List three questions that a buyer of {name} may ask. Features: {features}.",
]


def main() -> None:
    chance = random.Random(20)
    with (HERE.parent / "examples" / "products.csv").open(newline="", encoding="utf-8") as file:
        products = list(csv.DictReader(file))
    with (HERE / "requests.jsonl").open("w", encoding="utf-8") as file:
        for number in range(COUNT):
            product = products[number % len(products)]
            prompt = ANGLES[number % len(ANGLES)].format(**product)
            row = {"custom_id": f"request-{number:03d}", "prompt": prompt, "max_tokens": chance.randint(16, 128)}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
