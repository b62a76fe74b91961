"""Tasks that ask a file of samples: its key `data`, its rows, and what they are checked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from harness.api.task import Name, Resolver, Resources, Suite, SuiteSettings, Task
from harness.config.strict_yaml import Located
from harness.data.rows import load_samples
from harness.evaluation.tasks.sample_rows import cluster, missing
from harness.types import Row, Sample


class DataSettings(SuiteSettings):
    """A suite with rows of its own."""

    data: str | dict[Name, str] | None = None
    """Rows beside the YAML, or a Hub id; for perplexity also `{source name: rows}`."""


Keys = TypeVar("Keys", bound=DataSettings)


def samples_of(suite: Suite) -> list[Sample]:
    """The samples of a suite with one source, the first `limit` of them."""
    (file,) = suite.sources.values()
    return suite.pick(load_samples(Path(file))[: suite.limit])


def require_data(settings: DataSettings, located: Located) -> None:
    """Raise ConfigError where the suite names no rows."""
    if settings.data is None:
        raise located.error(f"ask: {settings.ask} needs `data:`, a file of rows", ("ask",))


def plain(row: Row | Sample) -> dict[str, object]:
    """A row as a suite's hash holds it."""
    unset = {"line"} if row.tools else {"line", "tools"}  # came later: hashes stay
    return {key: value for key, value in vars(row).items() if key not in unset}


def identity(suite: Suite, sample: Sample) -> dict[str, str | None]:
    """The part of a sample row that says which sample it is, and what it hangs together with."""
    columns = {"group": sample.group, **sample.extra}
    return {
        "id": sample.id,
        "group": sample.group,
        **cluster(suite.cluster, columns, sample.id),
    }


class SampleTask(Task[Keys]):
    """Asks every sample of one file. Subclass it and write `requests`, `score` and `metrics`."""

    Settings: type[Keys] = DataSettings  # type: ignore[assignment]

    def check(self, settings: Keys, located: Located) -> None:
        """One source of rows must be named."""
        require_data(settings, located)
        if isinstance(settings.data, dict):
            raise located.error(
                f"several sources of data: ask: {settings.ask} takes one file of rows", ("data",)
            )

    def resolve(self, settings: Keys, resolver: Resolver) -> Resources:
        """The file of rows."""
        assert settings.data is not None
        return Resources(sources=resolver.rows(settings.data))

    def content(self, suite: Suite) -> list[dict[str, object]]:
        """The samples."""
        return [plain(sample) for sample in self.samples(suite)]

    def samples(self, suite: Suite) -> list[Sample]:
        """The samples that are run."""
        return samples_of(suite)

    def row(
        self,
        suite: Suite,
        sample: Sample,
        *,
        output: str | None,
        logprobs: Sequence[float],
        scores: Mapping[str, float],
    ) -> dict[str, object]:
        """One row of `score`: no output and no scores where a log-probability is not finite."""
        unanswered = missing(logprobs)
        return {
            **identity(suite, sample),
            "prompt": sample.question,
            "reference": sample.reference,
            "output": None if unanswered else output,
            "logprobs": list(logprobs),
            **unanswered,
            "scores": dict.fromkeys(scores) if unanswered else dict(scores),
        }
