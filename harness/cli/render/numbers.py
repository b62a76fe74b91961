"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Sequence


def span(low: float | None, high: float | None, sign: str = "") -> str:
    """` [low, high]`; nothing where there is no interval."""
    return "" if low is None or high is None else f" [{number(low, sign)}, {number(high, sign)}]"


def number(value: float, sign: str = "") -> str:
    """As many digits as a reader needs."""
    digits = 3 if abs(value) < 10 else 2 if abs(value) < 100 else 1
    tiny = 0 < abs(value) < 0.001 or abs(value) >= 1e6
    return f"{value:{sign}.2g}" if tiny else f"{value:{sign}.{digits}f}"


def duration(seconds: float | None) -> str:
    """`12.3s`, `4m05s`, `1h02m`."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"


def dollars(value: float | None) -> str:
    """`$1.20`; with more digits where it is less than a cent."""
    return (
        "-" if value is None else f"${value:.2f}" if value >= 0.01 or not value else f"${value:.2g}"
    )


def size(value: int | None) -> str:
    """Bytes as KiB, MiB ..."""
    return "-" if value is None else _scaled(value, 1024, (" B", " KiB", " MiB", " GiB", " TiB"))


def count(value: int | None) -> str:
    """`4.9M`."""
    return "-" if value is None else _scaled(value, 1000, ("", "k", "M", "B", "T"))


def _scaled(value: float, step: int, units: Sequence[str]) -> str:
    power = 0
    while value >= step and power < len(units) - 1:
        value, power = value / step, power + 1
    return f"{value:.{0 if power == 0 else 1}f}{units[power]}"
