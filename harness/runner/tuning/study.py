"""The Optuna study of one search: which values are tried in which order.

The results are in the trials' records; a lost study is rebuilt from those, since the values of a
trial depend only on the seed, its number and the trials before it.
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
"""Trials before the sampler's model of past trials is used; the first has the method's own values
and the others are spread evenly on both sides of them.
Over 25 seeds and 8 trials of one dimension, 3, 4, 6 and 10 were indistinguishable."""
NAME = "search"


def check() -> None:
    """Raises EnvironmentLack, with the command that installs it, if Optuna is not installed."""
    if importlib.util.find_spec("optuna") is None:
        raise EnvironmentLack(
            "tune needs Optuna, which is not installed: pip install 'finetune-harness[tune]'"
        )


def digest(search: Search) -> str:
    """A hash of everything that the values of a trial depend on, without the number of trials."""
    spread = ["spread", STARTUP]
    identity = [search.seed, list(search.objectives), search.as_record()["space"], *spread]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def url(file: Path) -> str:
    """The URL of a study's file, with special characters in its path escaped."""
    import sqlalchemy

    return str(sqlalchemy.URL.create("sqlite", database=str(file)).render_as_string())


class Study:
    """Optuna's TPE sampler (Bergstra et al. 2011) with its storage in an SQLite file."""

    def __init__(self, file: Path, search: Search, defaults: Mapping[str, object]) -> None:
        """`defaults` are the values of the first trial, as far as they lie in the space."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna = optuna
        self._search = search
        self._file = file
        self._defaults = {
            key: defaults.get(key) for key in search.space if _inside(search, key, defaults)
        }
        self._space = {key: _distribution(optuna, domain) for key, domain in search.space.items()}
        self._study = self._open()
        if self._has_unfinished_draw():  # interrupted; the records have the rest
            file.unlink()
            self._study = self._open()

    def values(self, number: int) -> dict[str, object]:
        """The values of a trial, stored or chosen now. Call it in the order of the trials."""
        import optuna

        trials = self._trials()
        waiting = optuna.trial.TrialState.WAITING
        if number < len(trials) and trials[number].state != waiting:
            params = trials[number].params
        else:
            if number >= len(trials) and number < STARTUP:
                self._study.enqueue_trial(self._first(number))
            # A sampler's state is not stored: one seed per trial makes resuming change nothing.
            self._study.sampler = optuna.samplers.TPESampler(
                seed=_seed(self._search.seed, number), n_startup_trials=STARTUP
            )
            params = self._study.ask(self._space).params
        return {key: params[key] for key in self._space}

    def tell(self, number: int, values: Sequence[float] | None) -> None:
        """Report a trial's result, one number per objective; None if it failed.

        The search avoids values near those of failed trials.
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
        except Exception as error:
            raise UserError(
                f"{self._file}: cannot be used ({type(error).__name__}); delete it and run again: "
                "finished trials are kept beside it"
            ) from error
        return study

    def _first(self, number: int) -> dict[str, object]:
        """The values of a trial before the sampler's model is used: no draw, the same each time.

        The Halton sequence (Halton 1960), mirrored so that it begins above the method's values.
        """
        from scipy.stats import qmc

        own = self._defaults if number == 0 else {}
        places = 1 - qmc.Halton(d=len(self._space), scramble=False).random(number + 2)[number + 1]
        spread = {
            option: _placed(domain, self._defaults.get(option), float(place))
            for place, (option, domain) in zip(places, self._search.space.items(), strict=True)
        }
        return {**spread, **own}

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _has_unfinished_draw(self) -> bool:
        """Whether a trial started and lacks values: the process ended while they were drawn."""
        waiting = self._optuna.trial.TrialState.WAITING
        return any(t.state != waiting and set(t.params) != set(self._space) for t in self._trials())


def _distribution(optuna: ModuleType, domain: Mapping[str, Any]) -> BaseDistribution:
    kinds = optuna.distributions
    if "choices" in domain:
        return kinds.CategoricalDistribution(domain["choices"])
    whole = isinstance(domain["low"], int)
    kind = kinds.IntDistribution if whole else kinds.FloatDistribution
    return kind(domain["low"], domain["high"], log=domain["log"])


def _placed(domain: Mapping[str, Any], own: Any, place: float) -> object:
    """The value at `place` in (0, 1) of a domain; its lower half lies below `own`, if there is one.

    To three digits, so that machines agree on it.
    """
    if "choices" in domain:
        choices = list(domain["choices"])
        start = choices.index(own) if own in choices else 0  # the second trial takes another
        return choices[(start + int(place * len(choices))) % len(choices)]
    low, high = domain["low"], domain["high"]
    if own is not None and low < own < high:
        low, high, place = (low, own, 2 * place) if place < 0.5 else (own, high, 2 * place - 1)
    value = low * (high / low) ** place if domain["log"] else low + (high - low) * place
    value = round(value) if isinstance(domain["low"], int) else float(f"{value:.3g}")
    return min(max(value, domain["low"]), domain["high"])


def _inside(search: Search, option: str, values: Mapping[str, object]) -> bool:
    value, domain = values.get(option), search.space[option]
    if "choices" in domain:
        return any(value == choice and type(value) is type(choice) for choice in domain["choices"])
    known = isinstance(value, (int, float)) and not isinstance(value, bool)
    return known and bool(domain["low"] <= value <= domain["high"])


def _seed(seed: int, number: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:4], "big")
