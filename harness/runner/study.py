"""The Optuna study of one search: which values are tried in which order.

What came of them stands in the trials' records; a study that is lost is made again from those,
since the values of a trial hang on the seed, its number and the trials before it alone.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import EnvironmentLack, UserError
from harness.planning.search_space import Search

if TYPE_CHECKING:
    from types import ModuleType

    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

STARTUP = 5
"""Trials before the model of past trials is asked; the first of them has the method's own values.
Over 25 seeds and 8 trials of one dimension 3, 4, 6 and 10 could not be told apart."""
NAME = "search"


def check() -> None:
    """Raises EnvironmentLack, with the command, where Optuna is not installed."""
    if importlib.util.find_spec("optuna") is None:
        raise EnvironmentLack(
            "tune needs Optuna, which is not installed: pip install 'finetune-harness[tune]'"
        )


def digest(search: Search) -> str:
    """Of what decides on the values, but for their number."""
    identity = [search.seed, list(search.objectives), search.as_record()["space"], STARTUP]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def url(file: Path) -> str:
    """Where Optuna finds a study's file, whatever signs its path has."""
    import sqlalchemy

    return str(sqlalchemy.URL.create("sqlite", database=str(file)).render_as_string())


class Study:
    """Optuna's TPE sampler (Bergstra et al. 2011) with its storage in an SQLite file."""

    def __init__(self, file: Path, search: Search, own: Mapping[str, object]) -> None:
        """`own` are the values to begin with, as far as they lie in the space."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna = optuna
        self._search = search
        self._file = file
        self._own = {key: own.get(key) for key in search.space if _inside(search, key, own)}
        self._space = {key: _distribution(optuna, where) for key, where in search.space.items()}
        self._study = self._open()
        if self._half_asked():  # ended while its values were drawn; the records have all else
            file.unlink()
            self._study = self._open()

    def values(self, number: int) -> dict[str, object]:
        """The values of a trial: reported already, or chosen now. Trials are asked for in order."""
        import optuna

        trials = self._trials()
        waiting = optuna.trial.TrialState.WAITING
        if number < len(trials) and trials[number].state != waiting:
            found = trials[number].params
        else:
            # A sampler's state is not stored: one seed per trial makes resuming change nothing.
            self._study.sampler = optuna.samplers.TPESampler(
                seed=_seed(self._search.seed, number), n_startup_trials=STARTUP
            )
            found = self._study.ask(self._space).params
        return {key: found[key] for key in self._space}

    def tell(self, number: int, values: Sequence[float] | None) -> None:
        """What a trial came to, one number per objective; None where it failed.

        The search keeps away from where trials failed.
        """
        if self._trials()[number].state.is_finished():
            return
        if values is None:
            self._study.tell(number, state=self._optuna.trial.TrialState.PRUNED)
        else:
            self._study.tell(number, list(values))

    def _open(self) -> optuna.Study:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        try:
            study = self._optuna.create_study(
                study_name=NAME,
                storage=url(self._file),
                directions=["minimize"] * len(self._search.objectives),
                load_if_exists=True,
            )
            if self._own and not study.get_trials(deepcopy=False):
                study.enqueue_trial(self._own)
        except Exception as error:
            raise UserError(
                f"{self._file}: cannot be used ({type(error).__name__}); delete it and run again: "
                "finished trials are kept beside it"
            ) from error
        return study

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _half_asked(self) -> bool:
        waiting = self._optuna.trial.TrialState.WAITING
        return any(t.state != waiting and set(t.params) != set(self._space) for t in self._trials())


def _distribution(optuna: ModuleType, where: Mapping[str, Any]) -> BaseDistribution:
    kinds = optuna.distributions
    if "choices" in where:
        return kinds.CategoricalDistribution(where["choices"])
    whole = isinstance(where["low"], int)
    kind = kinds.IntDistribution if whole else kinds.FloatDistribution
    return kind(where["low"], where["high"], log=where["log"])


def _inside(search: Search, option: str, own: Mapping[str, object]) -> bool:
    value, where = own.get(option), search.space[option]
    if "choices" in where:
        return any(value == one and type(value) is type(one) for one in where["choices"])
    known = isinstance(value, (int, float)) and not isinstance(value, bool)
    return known and bool(where["low"] <= value <= where["high"])


def _seed(seed: int, number: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:4], "big")
