"""What the networks of tables have in common: how a row lies in a vector, and how codes are drawn from logits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Final, TypeAlias

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.errors import FailureKind, ModelError
from models.tabular.encoding import TableEncoding
from models.tabular.heads import Head, Modes
from models.training.checkpoints import Checkpoint
from models.training.loop import too_few
from models.training.subject import Subject

Wanted: TypeAlias = Mapping[int, Tensor]
"""By a head's place, the code that each row shall have. A network does what it can; nothing is promised."""
Barred: TypeAlias = Mapping[int, tuple[int, ...]]
"""By a head's place, codes that no row may have."""
_LEAST_NUMBER: Final = 1e-20
_ENCODING, _JSON = "encoding", "json"


class Layout:
    """A row as a vector: for each head as many numbers as it has codes, and behind them a scalar for each that has one.

    Sizes: `width` numbers for codes, `scalars` for scalars.
    """

    def __init__(self, heads: tuple[Head, ...]) -> None:
        self.heads = heads
        self.widths = [head.width for head in heads]
        self.starts = [sum(self.widths[:place]) for place in range(len(heads))]
        self.width = sum(self.widths)
        modes = {place: len(head.means) for place, head in enumerate(heads) if isinstance(head, Modes) and head.means}
        self.scalar_heads, self.modes = list(modes), list(modes.values())
        self.scalars = len(self.scalar_heads)

    @property
    def size(self) -> int:
        """Numbers in a row's vector."""
        return self.width + self.scalars

    def one_hot(self, codes: Tensor) -> Tensor:
        """Codes (rows by heads) as rows of ones and zeros (rows by `width`)."""
        spread = torch.zeros(len(codes), self.width)
        return spread.scatter_(1, codes.long() + torch.tensor(self.starts), 1.0) if self.heads else spread

    def vectors(self, codes: Tensor, scalars: Tensor) -> Tensor:
        """Rows as vectors (rows by `size`)."""
        return torch.cat([self.one_hot(codes), scalars[:, self.scalar_heads]], 1)

    def each(self, logits: Tensor) -> list[Tensor]:
        """Logits (rows by `width`) head by head."""
        return list(torch.split(logits, self.widths, 1)) if self.heads else []

    def all_scalars(self, scalars: Tensor) -> Tensor:
        """Scalars (rows by `scalars`) with a zero for each head that has none (rows by heads)."""
        filled = torch.zeros(len(scalars), len(self.heads))
        filled[:, self.scalar_heads] = scalars
        return filled


class TableNetwork(nn.Module, ABC):
    """The network that makes rows: all that a fitted model needs beside its encoding."""

    @abstractmethod
    def draw(
        self, count: int, wanted: Wanted, barred: Barred, temperature: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Codes and scalars (-1 to 1) of so many rows, each rows by heads. Every draw is the generator's."""


class _KeptEncoding(nn.Module):
    """An encoding among a training's weights, so that a checkpoint holds it."""

    def __init__(self, encoding: TableEncoding) -> None:
        super().__init__()
        content = bytearray(msgspec.json.encode(encoding))
        self.register_buffer(_JSON, torch.frombuffer(content, dtype=torch.uint8).clone())


class TableSubject(Subject):
    """Networks that learn a table. A subclass's `networks` are these and its own."""

    def __init__(self, encoding: TableEncoding) -> None:
        self.encoding = encoding
        self._kept = _KeptEncoding(encoding)

    @property
    def settled(self) -> bool:
        """Whether more steps would gain nothing."""
        return False

    def networks(self) -> Mapping[str, nn.Module]:
        """The encoding."""
        return {_ENCODING: self._kept}

    @abstractmethod
    def finish(self) -> TableNetwork:
        """The network that training leaves; called once, after the last step."""

    def metrics(self) -> dict[str, float]:
        """What was measured, once it is finished."""
        return {}


def kept_encoding(checkpoint: Checkpoint) -> TableEncoding:
    """The encoding that a checkpoint of a `TableSubject` holds.

    Raises:
        ModelError: kind MODEL, code `checkpoint_mismatch`: it is of something else.
    """
    content = checkpoint.tensors.get(f"{_ENCODING}/{_JSON}")
    try:
        return msgspec.json.decode(b"" if content is None else content.numpy().tobytes(), type=TableEncoding)
    except msgspec.DecodeError as error:
        raise ModelError(
            FailureKind.MODEL, "checkpoint_mismatch", f"the checkpoint of step {checkpoint.step} is of no table"
        ) from error


def fitting_batch(rows: int, asked: int, multiple: int = 1) -> int:
    """The batch that is asked for, cut to the rows that there are and to a multiple of some number.

    Raises:
        ModelError: kind MODEL, code `training_data_too_small`.
    """
    size = min(rows, asked) // multiple * multiple
    if size < max(2, multiple):
        raise too_few(rows, "rows to learn from", max(2, multiple))
    return size


def gumbel(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Noise by which the largest of some logits is a draw from their softmax."""
    noise = torch.empty(shape).exponential_(generator=generator)
    return noise.clamp_(min=_LEAST_NUMBER).log_().neg_()


def drawn_codes(
    layout: Layout, logits: Tensor, barred: Barred, temperature: float, generator: torch.Generator
) -> Tensor:
    """Codes (rows by heads) from logits (rows by `width`, which are changed); none that is barred."""
    for place, codes in barred.items():
        for code in codes:
            logits[:, layout.starts[place] + code] = -torch.inf
    logits.div_(temperature).add_(gumbel(tuple(logits.shape), generator))
    drawn = [head.argmax(1) for head in layout.each(logits)]
    return torch.stack(drawn, 1) if drawn else torch.zeros(len(logits), 0, dtype=torch.long)


def cross_entropy(layout: Layout, logits: Tensor, codes: Tensor) -> Tensor:
    """The sum over heads of the mean over rows, in nats."""
    terms = [functional.cross_entropy(head, codes[:, place].long()) for place, head in enumerate(layout.each(logits))]
    return torch.stack(terms).sum() if terms else torch.zeros(())
