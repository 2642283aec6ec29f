"""Judges: the job's own model, asked for a score of an answer by a rubric.

A model as judge of its own answers is lenient, and likes long ones (Zheng et al., "Judging LLM-as-a-Judge", 2023,
https://arxiv.org/abs/2306.05685): what it says is worth a filter, no more.
"""

from __future__ import annotations

import msgspec

from models.spec import JsonSchema, Message, Sampling, TextRequest, TextResult, output_seed
from workers.acceptance.checks import Problem
from workers.acceptance.rules import Judge
from workers.acceptance.subjects import Output
from workers.acceptance.templates import OUTPUT
from workers.contracts import Row
from workers.prompts import PromptTemplate

SYSTEM = (
    "You judge texts by what you are asked for, strictly. Give a score from 1 (not at all) to 5 (entirely) and nothing "
    'else, as JSON: {"score": 3}'
)
SCORE_SCHEMA: JsonSchema = {
    "type": "object",
    "properties": {"score": {"type": "integer", "enum": [1, 2, 3, 4, 5]}},
    "required": ["score"],
    "additionalProperties": False,
}
_SAMPLING = Sampling(temperature=0, max_tokens=64)


class _Score(msgspec.Struct):
    score: int


class Jury:
    """One judge, ready to be asked.

    Args:
        name: The rule's.
        judge: The rubric.
        place: Which of the job's judges it is, from 0.

    Raises:
        PromptError: its template cannot be compiled.
    """

    def __init__(self, name: str, judge: Judge, place: int) -> None:
        self.name = name
        self._judge, self._place = judge, place
        self._template = PromptTemplate((Message("user", judge.prompt),))

    def request(self, asked: TextRequest, row: Row, output: Output) -> TextRequest:
        """What to ask of the answer to a request.

        Raises:
            PromptError: the template cannot be rendered.
        """
        messages = (Message("system", SYSTEM), *self._template.render({**row, OUTPUT: output}))
        return TextRequest(
            index=asked.index,
            messages=messages,
            sampling=_SAMPLING,
            seed=output_seed(asked.seed, self._place + 1),
            schema=SCORE_SCHEMA,
            options=asked.options,
        )

    def score(self, result: TextResult) -> int | Problem:
        """The score that was given, or why it is not enough."""
        if result.error is not None:
            return Problem(self.name, f"the judge gave no score: {result.error.message}")
        try:
            score = msgspec.json.decode(result.outputs[0].text, type=_Score).score
        except msgspec.MsgspecError:
            return Problem(self.name, "the judge gave no score")
        if score < self._judge.min:
            return Problem(self.name, f"the judge gave it {score}; {self._judge.min} is the least")
        return score
