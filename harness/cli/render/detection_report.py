"""What it would cost to know, for eyes: a table of comparisons, then a sentence on the widest."""

from __future__ import annotations

from collections.abc import Sequence

from harness.cli.render import numbers
from harness.results.detection.plan import MOST_SEEDS, Choice, DetectionPlan, Outlook


def show(plan: DetectionPlan) -> None:
    """Print a row for each method against the base, and for the widest pair of methods."""
    import click
    from rich.table import Table

    from harness.system.console import console

    d = numbers.number(plan.difference)
    columns = [
        "metric",
        "difference",
        f"detectable with {_count(plan.seeds, 'seed')}",
        "samples + training + both",
        f"cheapest for {d}",
        "time",
        "dollars",
    ]
    if plan.price_per_hour is None:
        columns.pop()
    grid = Table(*columns, title=f"What it would cost to know a difference of {d}")
    last = ""
    for outlook in shown(plan.outlooks):
        name = "" if outlook.name == last else outlook.name
        grid.add_row(*[name, *_row(outlook)][: len(columns)])
        last = outlook.name
    console().print(grid)
    for line in lines(plan):
        click.echo(line)
    for note in plan.notes:
        click.echo(f"Note: {note}", err=True)


def shown(outlooks: Sequence[Outlook]) -> list[Outlook]:
    """Each method against the base, and of each metric's pairs of methods the widest."""
    rows: list[Outlook] = []
    for name in dict.fromkeys(outlook.name for outlook in outlooks):
        own = [outlook for outlook in outlooks if outlook.name == name]
        rows += [outlook for outlook in own if not outlook.between_methods]
        pairs = [outlook for outlook in own if outlook.between_methods]
        rows += [max(pairs, key=_width)] if pairs else []
    return rows


def lines(plan: DetectionPlan) -> list[str]:
    """A sentence on each metric's widest difference to the base, and between methods."""
    widest: dict[tuple[str, bool], Outlook] = {}
    for outlook in plan.outlooks:
        key = (outlook.name, outlook.between_methods)
        if key not in widest or _width(outlook) > _width(widest[key]):
            widest[key] = outlook
    pairs = any(outlook.between_methods for outlook in plan.outlooks)
    return [
        *(_sentence(outlook, plan) for outlook in widest.values() if outlook.earlier_seeds > 1),
        *_of_one_seed(plan.outlooks),
        *(["Between methods the widest of each metric's pairs; --json has all."] if pairs else []),
        "Detectable: outside of the 95 % interval 4 times in 5, samples and seeds drawn at random. "
        "Beside it the parts of the variance: of samples, of training, and of single samples "
        "under single seeds. Time is of training and evaluation from the start.",
    ]


def _of_one_seed(outlooks: Sequence[Outlook]) -> list[str]:
    """A sentence on the methods whose variance could not be split."""
    single = [outlook for outlook in outlooks if outlook.earlier_seeds == 1]
    if not single:
        return []
    labels = dict.fromkeys(outlook.candidate for outlook in single)
    return [
        f"{', '.join(labels)}: earlier records of one seed cannot be split, so the part of "
        "training is unknown, not zero; a second seed shows it: --set 'seeds=[0, 1]'"
    ]


def _width(outlook: Outlook) -> float:
    return outlook.one_run if outlook.now.detectable is None else outlook.now.detectable


def _row(outlook: Outlook) -> list[str]:
    """All columns but the metric's name."""
    cheapest, shares = outlook.cheapest, outlook.shares
    parts = "unknown: one seed" if outlook.earlier_seeds == 1 else "scores all alike"
    if shares is not None:
        values = (shares.samples, shares.training, shares.sample_by_seed)
        parts = " + ".join(f"{share:.0%}" for share in values)
    told = _size(outlook, _width(outlook)) + f" on {outlook.now.samples:,}"
    if outlook.now.detectable is None:
        told += " (one run)"
    return [
        f"{outlook.candidate} - {outlook.baseline}",
        told,
        parts,
        f"{cheapest.seeds} seeds x {cheapest.samples:,}" if cheapest else "-",
        _hours(cheapest.hours if cheapest else None),
        numbers.dollars(cheapest.dollars if cheapest else None),
    ]


def _sentence(outlook: Outlook, plan: DetectionPlan) -> str:
    start = f"{outlook.name}, {outlook.candidate} - {outlook.baseline}: "
    if outlook.another_seed is None:
        return f"{start}no score of the records differs, so there is nothing to plan by"
    return start + "; ".join(filter(None, (_buys_more(outlook), _limits(outlook, plan))))


def _buys_more(outlook: Outlook) -> str:
    """Which of another seed and more samples buys more for each hour."""
    now, seed, more = outlook.now, outlook.another_seed, outlook.more_samples
    assert seed is not None
    start, by_seed = _size(outlook, now.detectable), _size(outlook, seed.detectable)
    if now.detectable is None:
        return (
            "another seed comes first: the interval of one, which detects "
            f"{_size(outlook, outlook.one_run)}, holds nothing of training; {seed.seeds} seeds "
            f"detect {by_seed}"
        )
    if now.hours is None or seed.hours is None:
        return f"{start} now, another seed to {by_seed}; the records have no seconds"
    seeds = f"another seed {{}}to {by_seed} for {_cost(now, seed)}"
    if more is None:
        return f"{start} now, {seeds.format('')}; the suite has no more samples"
    samples = (
        f"{_more(outlook, more.samples - now.samples)} {{}}to "
        f"{_size(outlook, more.detectable)} for {_cost(now, more)}"
    )
    first, second = (seeds, samples) if outlook.buys_more == "seed" else (samples, seeds)
    verb = "buys more per hour, " if outlook.buys_more == "seed" else "buy more per hour, "
    return f"{start} now, {first.format(verb)}; {second.format('')}"


def _cost(now: Choice, later: Choice) -> str:
    """The hours and dollars between two designs."""
    hours = "-" if now.hours is None or later.hours is None else _hours(later.hours - now.hours)
    if now.dollars is None or later.dollars is None:
        return hours
    return f"{hours} ({numbers.dollars(later.dollars - now.dollars)})"


def _more(outlook: Outlook, samples: int) -> str:
    every = outlook.available == outlook.now.samples + samples
    return _count(samples, "more sample") + (", all that the suite has," if every else "")


def _limits(outlook: Outlook, plan: DetectionPlan) -> str:
    """What samples or seeds alone cannot detect, and what both can."""
    now, cheapest = outlook.now, outlook.cheapest
    d, seeds = numbers.number(plan.difference), _count(now.seeds, "seed")
    if now.detectable is not None and now.detectable <= plan.difference:
        return f"{d} is detected as planned"
    parts = []
    if outlook.samples_suffice is False:
        parts.append(f"no number of samples detects {d} with {seeds}: trainings vary too much")
    if outlook.seeds_suffice is False:
        parts.append(f"no number of seeds detects {d} on {_count(now.samples, 'sample')}")
    if cheapest is not None:
        parts.append(f"{cheapest.seeds} seeds x {cheapest.samples:,} samples do")
    elif outlook.available is not None:
        needed = outlook.samples_needed
        more = f": with {seeds} it takes {needed:,}" if needed else f", up to {MOST_SEEDS} seeds"
        parts.append(f"the suite's {outlook.available:,} samples are too few{more}")
    return "; ".join(parts)


def _size(outlook: Outlook, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.3g} %" if outlook.relative else numbers.number(value)


def _hours(hours: float | None) -> str:
    return "-" if hours is None else numbers.duration(hours * 3600)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
