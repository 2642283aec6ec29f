"""An item's tries: asked, checked, asked again with the reasons, drawn anew, until it is accepted or given up.

Which try is asked for how, and with which seed, follows from the item alone, whatever else is in its shard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec
import orjson

from models.spec import ItemError, Message, TextRequest, TextResult, Usage
from models.text_classifiers import TextClassifiers
from workers.acceptance.checks import Candidate, Checks, Problem, Verdict
from workers.acceptance.figures import ItemChecks
from workers.acceptance.judging import Jury
from workers.acceptance.rules import Accept
from workers.acceptance.subjects import Output
from workers.contracts import Row
from workers.prompts import PromptError

REJECTED = "rejected"
"""Code of the error of an item of which no answer was accepted."""
SCHEMA = "schema"
"""What an answer that is no object of the job's schema is rejected by."""
Parse: TypeAlias = Callable[[TextResult], Output | ItemError]


_NO_USAGE = Usage()


class Accepted(msgspec.Struct, frozen=True):
    """An item's end: the answer that is kept, with the usage of all tries."""

    result: TextResult
    checks: ItemChecks


class Rejected(msgspec.Struct, frozen=True):
    """An item's end: no answer was accepted, or none could be had."""

    index: int
    error: ItemError
    usage: Usage
    checks: ItemChecks


@dataclass(slots=True)
class _Trial:
    """One item that has not ended."""

    asked: TextRequest
    """What was asked last, of the item itself."""
    first: TextRequest
    row: Row
    seed: Callable[[int], int]
    tries: int = 1
    repairing: bool = False
    usage: Usage = _NO_USAGE
    rejected: Counter[str] = field(default_factory=Counter)
    answer: str = ""
    problems: tuple[Problem, ...] = ()
    """Why `answer` was rejected."""
    pending: tuple[TextResult, Verdict] | None = None
    """An answer that is before a judge."""
    judge: int = 0
    scores: dict[str, int] = field(default_factory=dict)


class Trials:
    """The items of a shard that are on trial.

    Args:
        accept: The rules.
        classifiers: Asked by the rules that need one.
        parse: Makes an output of an answer, or says why it is none.
        allowed: Whether the service lets a prompt hold a text.

    Raises:
        PromptError: a template of a rule cannot be compiled.
    """

    def __init__(
        self, accept: Accept, classifiers: TextClassifiers, *, parse: Parse, allowed: Callable[[str], bool]
    ) -> None:
        self._accept = accept
        self._checks = Checks(accept, classifiers)
        judges = [(name, rule.judge) for name, rule in zip(accept.names, accept.rules, strict=True) if rule.judge]
        self._judges = [Jury(name, judge, place) for place, (name, judge) in enumerate(judges)]
        self._private = any(rule.pii is not None for rule in accept.rules)
        """What does not fit a schema is told with what stands in it, and that may be what is not to be told."""
        self._parse = parse
        self._allowed = allowed
        self._trials: dict[int, _Trial] = {}

    def begin(self, request: TextRequest, row: Row, seed: Callable[[int], int]) -> None:
        """Put an item on trial; `seed` gives the seed of a try, from 1."""
        self._trials[request.index] = _Trial(request, request, row, seed)

    def look(self, results: Sequence[TextResult]) -> list[Verdict | None]:
        """What the rules say of answers; None of what is no answer to check. Changes nothing: runs beside `take`.

        Raises:
            ModelError: a classifier that a rule needs cannot be loaded.
        """
        verdicts: list[Verdict | None] = [None] * len(results)
        places, candidates = [], []
        for place, result in enumerate(results):
            trial = self._trials[result.index]
            if result.error is not None or trial.pending is not None:
                continue
            output = self._parse(result)
            if isinstance(output, ItemError):
                message = "it does not fit the job's schema" if self._private else output.message
                verdicts[place] = Verdict("", (Problem(SCHEMA, message),))
                continue
            places.append(place)
            candidates.append(Candidate(trial.row, output))
        for place, verdict in zip(places, self._checks(candidates), strict=True):
            verdicts[place] = verdict
        return verdicts

    def take(self, result: TextResult, verdict: Verdict | None) -> TextRequest | Accepted | Rejected:
        """Take what came of an answer: the item's end, or what is asked next."""
        trial = self._trials[result.index]
        trial.usage += result.usage
        if trial.pending is not None:
            return self._judged(trial, result)
        if verdict is None:
            error = result.error or ItemError("no_answer", "the engine gave no answer")
            if trial.tries == 1:
                return self._end(trial, error)
            return self._next(trial)
        if verdict.problems:
            return self._refuse(trial, result, verdict.problems)
        trial.pending, trial.judge, trial.scores = (result, verdict), 0, {}
        return self._ask_judge(trial)

    def _judged(self, trial: _Trial, result: TextResult) -> TextRequest | Accepted | Rejected:
        jury = self._judges[trial.judge]
        score = jury.score(result)
        if isinstance(score, Problem):
            assert trial.pending is not None  # noqa: S101 - the caller looked
            return self._refuse(trial, trial.pending[0], (score,))
        trial.scores[jury.name] = score
        trial.judge += 1
        return self._ask_judge(trial)

    def _ask_judge(self, trial: _Trial) -> TextRequest | Accepted | Rejected:
        assert trial.pending is not None  # noqa: S101 - the callers set it
        result, verdict = trial.pending
        if trial.judge == len(self._judges):
            return self._accepted(trial, result, verdict)
        jury = self._judges[trial.judge]
        try:
            request = jury.request(trial.asked, trial.row, verdict.output)
        except PromptError as error:
            return self._refuse(trial, result, (Problem(jury.name, f"it cannot be asked: {error.message}"),))
        if not all(self._allowed(message.content) for message in request.messages):
            why = "it cannot be asked: the prompt would hold what this service does not allow"
            return self._refuse(trial, result, (Problem(jury.name, why),))
        return request

    def _refuse(
        self, trial: _Trial, result: TextResult, problems: tuple[Problem, ...]
    ) -> TextRequest | Accepted | Rejected:
        trial.pending = None
        trial.answer = result.outputs[0].text
        trial.problems = problems
        trial.rejected.update(problem.rule for problem in problems)
        return self._next(trial)

    def _next(self, trial: _Trial) -> TextRequest | Accepted | Rejected:
        """The next try of an item; its end where there is none."""
        repairs, draws = self._accept.repairs, self._accept.draws
        while trial.tries < 1 + repairs + draws:
            trial.tries += 1
            trial.repairing = trial.tries <= 1 + repairs
            messages = trial.first.messages
            if trial.repairing:
                if not self._allowed(trial.answer):
                    continue
                messages = (*messages, Message("assistant", trial.answer), Message("user", reasons(trial.problems)))
            trial.asked = msgspec.structs.replace(trial.first, messages=messages, seed=trial.seed(trial.tries))
            return trial.asked
        what = "; ".join(map(str, trial.problems))
        return self._end(trial, ItemError(REJECTED, what if trial.tries == 1 else f"after {trial.tries} tries: {what}"))

    def _accepted(self, trial: _Trial, result: TextResult, verdict: Verdict) -> Accepted:
        del self._trials[result.index]
        first = result.outputs[0]
        if verdict.found:  # it may not be what the model wrote
            output = verdict.output
            text = output if isinstance(output, str) else orjson.dumps(output).decode()
            first = msgspec.structs.replace(first, text=text)
        checks = _item_checks(trial, repaired=trial.repairing, found=verdict.found, scores=trial.scores)
        return Accepted(msgspec.structs.replace(result, outputs=(first,), usage=trial.usage), checks)

    def _end(self, trial: _Trial, error: ItemError) -> Rejected:
        del self._trials[trial.first.index]
        return Rejected(trial.first.index, error, trial.usage, _item_checks(trial))


def reasons(problems: Sequence[Problem]) -> str:
    """What the model is told of an answer that was rejected."""
    listed = "\n".join(f"- {problem.message}" for problem in problems)
    return f"This is not accepted:\n{listed}\nWrite the whole answer again so that it is right, and nothing else."


def _item_checks(
    trial: _Trial,
    *,
    repaired: bool = False,
    found: dict[str, dict[str, int]] | None = None,
    scores: dict[str, int] | None = None,
) -> ItemChecks:
    return ItemChecks(
        tries=trial.tries,
        repaired=repaired,
        rules=dict(sorted(trial.rejected.items())),
        found=found or {},
        scores=scores or {},
    )
