"""What a training plugin is made of: a Method and its Options."""

from __future__ import annotations

from typing import Any, ClassVar

from harness.types import Artifact, Job
from harness.yamlfile import StrictModel


class MethodOptions(StrictModel):
    """What a user may set for a method. Fields are annotated; their docstrings are the help.

    Bounds come from `pydantic.Field(ge=..., le=...)`; a key that is no field is an error.
    """

    def check(self, precision: str) -> None:
        """Raise UserError for options that this machine or `precision` cannot serve.

        Called before anything is loaded.
        """


class Method:
    """A way of training. Subclass it, set `name` and `Options`, and write `train`."""

    name: ClassVar[str]
    Options: ClassVar[type[MethodOptions]] = MethodOptions
    trains: ClassVar[bool] = True
    """False for a method that leaves the model as it is; such a cell needs no training data."""

    def train(self, job: Job) -> Artifact:
        """Train `job.model` on `job.train` and save what came out in `job.folder`.

        Heavy libraries are imported here, not at the top of the plugin.
        """
        raise NotImplementedError

    def help(self) -> dict[str, Any]:
        """Option name -> {type, default, help}, for `harness plugins`."""
        return {
            key: {
                "type": str(info.annotation).replace("typing.", ""),
                "default": info.default,
                "help": info.description or "",
            }
            for key, info in self.Options.model_fields.items()
        }
