"""`harness export`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.compare import results
from harness.errors import HarnessError, NotTheSame, UserError
from harness.export import export
from harness.export.export import Limits, Source
from harness.models.stored_quantization import described, stored_quantization
from harness.results import store

if TYPE_CHECKING:
    from harness.export.merge_worker import Task


@dataclass(frozen=True)
class Asked:
    """What the command line says; None where it says nothing."""

    cell: str
    to: Path
    merge: bool
    into: str | None
    dtype: str | None
    shard: str | None
    max_difference: float | None
    max_changed: float | None
    force: bool
    prompts: Path | None
    limit: int | None
    base: str | None
    places: Sequence[Path]
    mirror: Path | None
    as_json: bool


def run(asked: Asked) -> int:
    """Write the folder, tell what it is; the exit code."""
    _reject_without_merge(asked)
    source = export.source(asked.cell, results(asked.places), asked.base, asked.mirror)
    if asked.into and source.scheme is None:
        raise UserError(f"--into is for an adapter on a quantised base; {source.id} has none")
    if asked.into == "original" and (stored := stored_quantization(source.artifact.base)):
        raise UserError(
            f"--into original: {source.artifact.base.name} is stored in {described(stored)}, so "
            "there are no other weights: leave --into out"
        )
    if asked.merge:
        export.check_mergeable(source)
    replaced = export.check_target(asked.to, source)
    samples, origin = export.samples(source, asked.prompts, asked.limit or export.SAMPLES)
    limits = _limits(asked, source)
    with export.whole_or_not_at_all(asked.to) as folder:
        told = _carry_out(_task(asked, source, folder, samples), asked.as_json)
        found = export.report(source, told, folder, **_made(asked, source, origin))
        failed = _judge(found, limits, asked)
        store.write_json(folder / export.REPORT, found)
        if failed and not asked.force:
            _show(found, asked)
            raise NotTheSame(
                f"not exported: the merged model is not the one that was evaluated: "
                f"{'; '.join(failed)}; --force keeps it"
            )
    _show(found, asked)
    if failed:
        click.echo(f"Kept by --force: {'; '.join(failed)}", err=True)
    if replaced:
        click.echo(f"Replaced the earlier export of {source.id} in {asked.to}.", err=True)
    return 0


def _reject_without_merge(asked: Asked) -> None:
    given = {
        "--into": asked.into,
        "--dtype": asked.dtype,
        "--max-shard-size": asked.shard,
        "--max-difference": asked.max_difference,
        "--max-changed": asked.max_changed,
        "--force": asked.force or None,
        "--prompts": asked.prompts,
        "--limit": asked.limit,
    }
    for option, value in given.items():
        if value is not None and not asked.merge:
            raise UserError(f"{option} is for --merge")


def _precision(asked: Asked, source: Source) -> Any:
    return asked.dtype or source.artifact.precision


def _limits(asked: Asked, source: Source) -> Limits:
    usual = export.USUAL[_precision(asked, source)]
    return Limits(
        usual.difference if asked.max_difference is None else asked.max_difference,
        usual.changed if asked.max_changed is None else asked.max_changed,
    )


def _task(asked: Asked, source: Source, folder: Path, samples: Any) -> Task:
    from harness.export.merge_worker import Task

    return Task(
        artifact=source.artifact,
        folder=folder,
        merge=asked.merge,
        samples=samples if asked.merge else (),
        into=asked.into or "dequantised",  # type: ignore[arg-type]
        precision=_precision(asked, source),
        shard=asked.shard or "5GB",
    )


def _carry_out(task: Task, quiet: bool) -> Mapping[str, Any]:
    """What the child process says in the end; its phases are told on standard error."""
    from pydantic import TypeAdapter

    from harness.system import child_process

    told: Mapping[str, Any] = {}
    for told in child_process.events(
        "harness.export.merge_worker", TypeAdapter(type(task)).dump_json(task)
    ):
        if "phase" in told and not quiet:
            click.echo(f"{told['phase']} ...", err=True)
    if "error" in told:
        kind = UserError if told["exit_code"] == UserError.exit_code else HarnessError
        raise kind(told["error"])
    if "result" not in told:
        raise UserError(
            f"the export was killed in phase '{told.get('phase')}': most often for want of memory"
        )
    result: Mapping[str, Any] = told["result"]
    return result


def _made(asked: Asked, source: Source, origin: str) -> dict[str, Any]:
    """What was made of the artifact."""
    artifact = source.artifact
    if not asked.merge:
        return {"made": artifact.kind, "merged_into": None, "precision": artifact.precision}
    return {
        "made": "merged" if artifact.kind == "adapter" else artifact.kind,
        "merged_into": _into(asked, source),
        "trained_precision": artifact.precision,
        "merge_precision": "float32",
        "precision": _precision(asked, source),
        "prompts": origin,
    }


def _into(asked: Asked, source: Source) -> str | None:
    """Which weights the adapter was merged into, in words."""
    if source.artifact.kind != "adapter":
        return None
    name = source.artifact.base.name
    if source.scheme is None:
        return f"{name} in {source.artifact.precision}, as it was trained on"
    if asked.into == "original":
        return f"{name} as it was before {source.scheme}, which it was not trained on"
    return f"{name} dequantised from {source.scheme}, as it was trained on"


def _judge(found: dict[str, Any], limits: Limits, asked: Asked) -> list[str]:
    """Add limits and verdict to the report; why it fails."""
    if not asked.merge:
        return []
    failed = export.failures(found["verification"], limits)
    found["verification"] |= {
        "max_difference": limits.difference,
        "max_changed": limits.changed,
        "passed": not failed,
        "failures": failed,
        "forced": bool(failed and asked.force),
    }
    return failed


def _show(found: Mapping[str, Any], asked: Asked) -> None:
    if asked.as_json:
        click.echo(json.dumps(store.plain(found), indent=2, ensure_ascii=False))
        return
    for line in lines(found):
        click.echo(line)
    if not asked.merge or found["verification"]["passed"] or asked.force:
        click.echo(f"Written to {asked.to}: {', '.join(found['files'])}.")


def lines(found: Mapping[str, Any]) -> list[str]:
    """The report for people."""
    cell, kind = found["cell"], found["artifact"]["kind"]
    told = [f"{cell['id']}: {kind} of {cell['method']} on {found['base']['name']}"]
    if "verification" not in found:
        return [*told, *_opening(found)]
    seen, speed = found["verification"], found["latency"]
    into = f"merged into {found['merged_into']}" if found["merged_into"] else "nothing to merge"
    largest, mean = seen["largest_difference"], seen["mean_difference"]
    figures = (
        seen["reason"]
        if largest is None
        else f"largest difference {largest:.2g} nats (at most {seen['max_difference']:g}), "
        f"mean {mean:.2g}"
    )
    each = {name: 1000 * speed[name]["median"] for name in ("unmerged", "merged")}
    return [
        *told,
        f"  {into}; saved in {found['precision']}",
        f"  log-probabilities of {seen['tokens']} tokens: {figures}",
        f"  answers to {seen['prompts']} prompts of {found['prompts']}: "
        f"{seen['changed_answers']} changed (at most {seen['max_changed']:.0%})",
        f"  latency: {each['unmerged']:.3g} ms a token unmerged, {each['merged']:.3g} merged "
        f"({speed['ratio']:.2f} times)",
        f"  {'verified' if seen['passed'] else 'NOT the same model'}",
    ]


def _opening(found: Mapping[str, Any]) -> list[str]:
    """What peft does not do by itself."""
    told = found["base"]["quantization"]
    if not told or found["made"] != "adapter":
        return []
    return [f"  open its base as it was trained on: BitsAndBytesConfig(**{json.dumps(told)})"]
