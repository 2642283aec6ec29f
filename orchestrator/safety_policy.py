"""What the operator forbids, by tenant: a file that no job can switch off.

A job is held to the stricter of its own rules and its tenant's. They come together in the work that a shard carries
when it is dispatched, and not in the job as it is stored: rules that were tightened hold for all that has not run yet,
a retry and a replay of an old job included.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.image_spec import Safety
from orchestrator.spec_error import SpecError
from orchestrator.validation import explain, json_type
from orchestrator.yaml_file import read_yaml
from workers.contracts import Work


class PolicyError(Exception):
    """The file of the policy cannot be used; the message says where and why, and what would be right."""


class SafetyPolicy(BaseModel):
    """The rules of every tenant."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    default: Safety = Safety()
    tenants: dict[Annotated[str, Field(min_length=1)], Safety] = Field(default_factory=dict)
    """Rules of single tenants. What one of them leaves out is the default's; what it says stands in its place."""

    def rules(self, tenant: str) -> Safety:
        """What holds for a tenant."""
        own = self.tenants.get(tenant)
        return self.default if own is None else self.default.model_copy(update=own.model_dump(exclude_unset=True))


NO_POLICY = SafetyPolicy()
"""Forbids nothing: jobs have their own rules alone."""


def load_policy(path: Path | None) -> SafetyPolicy:
    """The policy in a YAML or JSON file; one that forbids nothing where there is no file.

    Raises:
        PolicyError: the file cannot be read, or is no policy.
    """
    if path is None:
        return NO_POLICY
    try:
        found = read_yaml(path, str(path), what="safety policy")
    except SpecError as error:
        raise PolicyError(str(error)) from error
    try:
        return _parse(found.data)
    except SpecError as error:
        raise PolicyError(str(found.locate(error))) from error


def restrict(work: Work, rules: Safety) -> Work:
    """A job's work, held to a tenant's rules beside its own: the lower threshold, and the phrases of both lists."""
    if work.train is not None:
        return work  # it has no prompts, and makes nothing but a model and samples of it
    image = work.image
    if image is not None and rules.threshold is not None:
        own = image.nsfw_threshold
        threshold = rules.threshold if own is None else min(own, rules.threshold)
        image = msgspec.structs.replace(image, nsfw_threshold=threshold)
    # Kept apart from the job's own list, so that the message can say whose phrase it was.
    return msgspec.structs.replace(work, image=image, deny=rules.deny)


def _parse(data: object) -> SafetyPolicy:
    if not isinstance(data, dict):
        raise SpecError(f"a safety policy is an object with default and tenants, not {json_type(data)}")
    try:
        return SafetyPolicy.model_validate(data)
    except ValidationError as error:
        raise explain(error, SafetyPolicy, what="a safety policy") from error
