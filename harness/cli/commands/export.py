"""`harness export`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from harness.cli import options
from harness.cli.options import Finite
from harness.errors import HarnessError, NotTheSame, UserError
from harness.export import export, gguf
from harness.export.export import Limits, Source
from harness.export.gguf import Kind
from harness.models.stored_quantization import description, stored_quantization
from harness.results import store
from harness.types import Event, Precision, Sample

if TYPE_CHECKING:
    from harness.export.gguf_worker import Task as GgufTask
    from harness.export.merge_worker import Task

Report = Mapping[str, Any]
"""The content of export.json."""


@dataclass(frozen=True)
class ExportOptions:
    """The options of the command line; None where one is not given."""

    cell: str
    to: Path
    merge: bool
    into: Literal["dequantised", "original"] | None
    dtype: Precision | None
    max_shard_size: str | None
    max_difference: float | None
    max_changed: float | None
    force: bool
    prompts: Path | None
    limit: int | None
    base: str | None
    gguf: Sequence[Kind]
    converter: Path | None
    as_json: bool
    results_folders: Sequence[Path]
    mirror: Path | None

    def check(self) -> None:
        """Raise UserError for an option of a merge without --merge."""
        merge_options = {
            "--into": self.into,
            "--dtype": self.dtype,
            "--max-shard-size": self.max_shard_size,
            "--max-difference": self.max_difference,
            "--max-changed": self.max_changed,
            "--force": self.force or None,
            "--prompts": self.prompts,
            "--limit": self.limit,
        }
        for option, value in merge_options.items():
            if value is not None and not self.merge:
                raise UserError(f"{option} is for --merge")
        if self.converter is not None and not self.gguf:
            raise UserError("--converter is for --gguf")

    @property
    def script(self) -> Path | None:
        """llama.cpp's converter for --gguf. Raises EnvironmentLack where something is missing."""
        if not self.gguf:
            return None
        gguf.check_installed()
        return gguf.converter(self.converter)


@click.command("export")
@click.argument("cell")
@click.option(
    "--to",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The export folder.",
)
@click.option("--merge", is_flag=True, help="Merge the adapter into its base, and verify it.")
@click.option(
    "--into",
    type=click.Choice(["dequantised", "original"]),
    help="Of a quantised base: what was trained on, or what was quantised. Default: dequantised.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bf16", "fp16"]),
    help="Of the merged weights. Default: the precision of the training.",
)
@click.option("--max-shard-size", metavar="SIZE", help="Default: 5GB.")
@click.option(
    "--max-difference",
    type=Finite(min=0),
    metavar="NATS",
    help="Of a token's log-probability. Default: 0.01 in float32, 1 in 16 bits.",
)
@click.option(
    "--max-changed",
    type=Finite(0, 1),
    metavar="SHARE",
    help="Of the answers. Default: 0.05 in float32, 0.35 in 16 bits.",
)
@click.option(
    "--gguf",
    multiple=True,
    type=click.Choice(gguf.KINDS),
    help="Merge, and write a GGUF file too, verified with llama.cpp, with a Modelfile for Ollama. "
    "Several times: several files.",
)
@click.option(
    "--converter",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="llama.cpp's convert_hf_to_gguf.py. Default: the installed one.",
)
@click.option("--force", is_flag=True, help="Keep a merge that fails, and exit 0.")
@click.option(
    "--prompts",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Prompts for both models. Default: samples of the cell's suites.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Prompts at most. Default: 20.")
@click.option("--base", metavar="MODEL", help="The base, if the record does not lead to it.")
@options.as_json
@options.results_folders
@options.mirror
@options.collected(ExportOptions)
def command(given: ExportOptions) -> None:
    """Write a trained CELL to a folder that transformers, peft and vLLM load.

    With --merge the saved model is loaded and compared with what was evaluated: exit 1, and no
    folder, where its answers differ. CELL is a record file, FOLDER/LABEL, or a label,
    method, cell id or prefix of one.
    """
    given = replace(given, merge=given.merge or bool(given.gguf))
    source = checked_source(given)
    replaced = export.check_target(given.to, source)
    with export.whole_or_not_at_all(given.to) as folder:
        report, failures = fill(given, source, folder)
        if failures and not given.force:
            _print_report(report, given)
            raise not_the_same(failures, "exported", "; --force keeps it")
    _print_report(report, given)
    if failures:
        click.echo(f"Kept by --force: {'; '.join(failures)}", err=True)
    if replaced:
        click.echo(f"Replaced the earlier export of {source.id} in {given.to}.", err=True)


def checked_source(given: ExportOptions) -> Source:
    """The cell, once the options are known to go together with it."""
    given.check()
    _ = given.script
    folders = options.existing_results(given.results_folders)
    source = export.source(given.cell, folders, given.base, given.mirror)
    _check_into(given, source)
    if given.merge:
        export.check_mergeable(source)
    return source


def fill(given: ExportOptions, source: Source, folder: Path) -> tuple[Report, list[str]]:
    """Export into an empty folder, with its export.json; the report and why a merge fails."""
    samples, origin = export.samples(source, given.prompts, given.limit or export.SAMPLES)
    result = _run_worker(_task(given, source, folder, samples), given.as_json)
    if (script := given.script) is not None:
        result = {
            **result,
            **_run_worker(_gguf_task(given, source, folder, samples, script), given.as_json),
        }
    report = export.report(source, result, folder, **_description(given, source, origin))
    failures = _add_verdict(report, _limits(given, source), given)
    store.write_json(folder / export.REPORT, report)
    return report, failures


def not_the_same(failures: Sequence[str], done: str, fix: str = "") -> NotTheSame:
    """The error of a merge that gives another model, so that nothing was `done`."""
    return NotTheSame(
        f"not {done}: the merged model is not the one that was evaluated: "
        f"{'; '.join(failures)}{fix}"
    )


def _check_into(given: ExportOptions, source: Source) -> None:
    """Refuse --into where the base has no such weights."""
    if given.into and source.scheme is None:
        raise UserError(f"--into is for an adapter on a quantised base; {source.id} has none")
    if given.into == "original" and (stored := stored_quantization(source.artifact.base)):
        raise UserError(
            f"--into original: {source.artifact.base.name} is stored in {description(stored)}, so "
            "there are no other weights: leave --into out"
        )


def _precision(given: ExportOptions, source: Source) -> Precision:
    return given.dtype or source.artifact.precision


def _limits(given: ExportOptions, source: Source) -> Limits:
    usual = export.USUAL[_precision(given, source)]
    return Limits(
        usual.difference if given.max_difference is None else given.max_difference,
        usual.changed if given.max_changed is None else given.max_changed,
    )


def _task(given: ExportOptions, source: Source, folder: Path, samples: Sequence[Sample]) -> Task:
    from harness.export.merge_worker import Task

    return Task(
        artifact=source.artifact,
        folder=folder,
        merge=given.merge,
        samples=samples if given.merge else (),
        into=given.into or "dequantised",
        precision=_precision(given, source),
        shard=given.max_shard_size or "5GB",
    )


def _gguf_task(
    given: ExportOptions, source: Source, folder: Path, samples: Sequence[Sample], script: Path
) -> GgufTask:
    from harness.export.gguf_worker import Task

    base = replace(source.artifact, kind="base", path=None)
    if given.into == "original":
        base = replace(base, quantization=None)
    return Task(
        folder=folder,
        name=f"{Path(base.base.name).name}-{source.id}",
        precision=_precision(given, source),
        base=base,
        kinds=tuple(dict.fromkeys(given.gguf)),
        script=script,
        samples=samples,
    )


def _run_worker(task: Task | GgufTask, quiet: bool) -> Mapping[str, object]:
    """The result of the child process; its phases are reported on standard error."""
    from pydantic import TypeAdapter

    from harness.system import child_process

    event: Event = {}
    module, request = type(task).__module__, TypeAdapter(type(task)).dump_json(task)
    for event in child_process.events(module, request):
        if "phase" in event and not quiet:
            click.echo(f"{event['phase']} ...", err=True)
    if "error" in event:
        kind = UserError if event["exit_code"] == UserError.exit_code else HarnessError
        raise kind(event["error"])
    if "result" not in event:
        raise UserError(
            f"the export was killed in phase '{event.get('phase')}': most often for want of memory"
        )
    return event["result"]


def _description(given: ExportOptions, source: Source, origin: str) -> dict[str, str | None]:
    """What was made of the artifact, for the report."""
    artifact = source.artifact
    if not given.merge:
        return {"made": artifact.kind, "merged_into": None, "precision": artifact.precision}
    return {
        "made": "merged" if artifact.kind == "adapter" else artifact.kind,
        "merged_into": _merge_base(given, source),
        "trained_precision": artifact.precision,
        "merge_precision": "float32",
        "precision": _precision(given, source),
        "prompts": origin,
    }


def _merge_base(given: ExportOptions, source: Source) -> str | None:
    """Which weights the adapter was merged into, in words."""
    if source.artifact.kind != "adapter":
        return None
    name = source.artifact.base.name
    if source.scheme is None:
        return f"{name} in {source.artifact.precision}, as it was trained on"
    if given.into == "original":
        return f"{name} as it was before {source.scheme}, which it was not trained on"
    return f"{name} dequantised from {source.scheme}, as it was trained on"


def _add_verdict(report: dict[str, Any], limits: Limits, given: ExportOptions) -> list[str]:
    """Add limits and verdict to the report; why it fails."""
    if not given.merge:
        return []
    failures = _judge(report["verification"], limits, given)
    for made in report.get("gguf", ()):
        found = _judge(made["verification"], gguf.LIMITS[made["kind"]], given)
        failures += [f"{made['file']}: {reason}" for reason in found]
    return failures


def _judge(verification: dict[str, Any], limits: Limits, given: ExportOptions) -> list[str]:
    """Add limits and verdict to one verification; why it fails."""
    failures = export.failures(verification, limits)
    verification |= {
        "max_difference": limits.difference,
        "max_changed": limits.changed,
        "passed": not failures,
        "failures": failures,
        "forced": bool(failures and given.force),
    }
    return list(failures)


def _print_report(report: Report, given: ExportOptions) -> None:
    if given.as_json:
        click.echo(json.dumps(store.plain(report), indent=2, ensure_ascii=False))
        return
    for line in _report_lines(report):
        click.echo(line)
    if not given.merge or given.force or not _failed(report):
        click.echo(f"Written to {given.to}: {', '.join(report['files'])}.")


def _failed(report: Report) -> bool:
    checked = [report, *report.get("gguf", ())]
    return not all(made["verification"]["passed"] for made in checked)


def _report_lines(report: Report) -> list[str]:
    cell, kind = report["cell"], report["artifact"]["kind"]
    title = f"{cell['id']}: {kind} of {cell['method']} on {report['base']['name']}"
    if "verification" not in report:
        return [title, *_opening_lines(report)]
    verification, latency = report["verification"], report["latency"]
    into = f"merged into {report['merged_into']}" if report["merged_into"] else "nothing to merge"
    largest, mean = verification["largest_difference"], verification["mean_difference"]
    figures = (
        verification["reason"]
        if largest is None
        else f"largest difference {largest:.2g} nats (at most "
        f"{verification['max_difference']:g}), mean {mean:.2g}"
    )
    unmerged, merged = (1000 * latency[name]["median"] for name in ("unmerged", "merged"))
    return [
        title,
        f"  {into}; saved in {report['precision']}",
        f"  log-probabilities of {verification['tokens']} tokens: {figures}",
        f"  answers to {verification['prompts']} prompts of {report['prompts']}: "
        f"{verification['changed_answers']} changed (at most {verification['max_changed']:.0%})",
        f"  latency: {unmerged:.3g} ms a token unmerged, {merged:.3g} merged "
        f"({latency['ratio']:.2f} times)",
        f"  {'verified' if verification['passed'] else 'NOT the same model'}",
        *(_gguf_line(made) for made in report.get("gguf", ())),
    ]


def _gguf_line(made: Mapping[str, Any]) -> str:
    """How far llama.cpp's answers from one file are from the merged model's."""
    found = made["verification"]
    largest = found["largest_difference"]
    figures = (
        found["reason"]
        if largest is None
        else (
            f"largest difference {largest:.2g} nats (at most {found['max_difference']:g}), "
            f"mean {found['mean_difference']:.2g}"
        )
    )
    return (
        f"  {made['file']} in llama.cpp: {figures}; {found['changed_answers']} of "
        f"{found['prompts']} answers changed; "
        f"{'verified' if found['passed'] else 'NOT the same model'}"
    )


def _opening_lines(report: Report) -> list[str]:
    """How its base is opened, which peft does not do by itself."""
    quantization = report["base"]["quantization"]
    if not quantization or report["made"] != "adapter":
        return []
    config = f"BitsAndBytesConfig(**{json.dumps(quantization)})"
    return [f"  open its base as it was trained on: {config}"]
