"""What generates answers in place of the passes of this process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class Engine:
    """A generation engine. Subclass it, set `name`, and open its models with the hook `open_model`.

    A suite that names it in `engine` is answered by the model that `open_model` returns for an
    artifact with that `engine`; log-likelihoods of other suites stay where they are. Its answers
    are those of other kernels, so such a suite has another hash: its figures are never compared
    with those of this process's own passes.
    """

    name: ClassVar[str]
    """What experiments and suites say: `engine: vllm`."""

    def check(self, method: str, options: Mapping[str, object]) -> None:
        """Raise UserError where it cannot answer for what a method makes, before anything runs.

        EnvironmentLack where it is not installed. `options` are the method's, as plain data.
        """
