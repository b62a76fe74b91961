"""The model as it is: what every method is compared with."""

from collections.abc import Callable

from harness import Artifact, Job, Method, hookimpl


class Base(Method):
    """Trains nothing: the untouched base."""

    name = "base"
    trains = False
    untouched = True

    def train(self, job: Job) -> Artifact:
        """The untouched model."""
        return Artifact(
            "base",
            job.model,
            precision=job.budget.precision,
            chat_template=job.chat_template,
        )


@hookimpl
def register_methods(register: Callable[[Method], None]) -> None:
    """The method `base`."""
    register(Base())
