"""`harness doctor`: what is there, what is missing and the command that fixes it, without torch.

Of this machine, or of a results folder.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn

import click

from harness.errors import UserError
from harness.models import packaged
from harness.system import gpu_check, hardware, hub
from harness.system.console import console

if TYPE_CHECKING:
    from rich.table import Table

DISTRIBUTION = "finetune-harness"
_PYTHON = ((3, 10), (3, 14))
"""First release that is supported, and the first that is not (`requires-python`)."""
_SPACE_BYTES = 5_000_000_000
_MEMORY_BYTES = 6_000_000_000
"""Below this a larger model than the packaged ones is unlikely to fit: worth a note."""
_GPU_TORCH = (
    "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu128"
)


@dataclass(frozen=True)
class Check:
    """One line of `harness doctor`."""

    name: str
    status: Literal["ok", "missing", "note"]
    """`missing` keeps something from working; `note` is worth knowing."""
    detail: str
    mend: str = ""
    """The command that fixes it; empty where nothing is to be done."""


@click.command("doctor")
@click.argument(
    "folder", metavar="[DIR]", required=False, type=click.Path(path_type=Path, file_okay=False)
)
@click.option("--mend", is_flag=True, help="Mend what is broken or left over in DIR.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON only.")
def command(folder: Path | None, mend: bool, as_json: bool) -> None:
    """What this machine can do, and the command that fixes what is missing.

    With DIR, what is broken or left over in a results folder, what that costs, and with `--mend`
    the mending of it: what is broken is set aside, and its cell runs again. Exit 0: nothing is
    wrong, or all is mended; 2: something is missing, or left to mend.
    """
    if folder is not None:
        _examine(folder, mend=mend, as_json=as_json)
    if mend:
        raise click.UsageError("--mend: name a results folder")
    results = checks()
    if as_json:
        click.echo(json.dumps(to_json(results), indent=2))
    else:
        console().print(render(results))
    sys.exit(UserError.exit_code if any(check.status == "missing" for check in results) else 0)


def _examine(folder: Path, *, mend: bool, as_json: bool) -> NoReturn:
    """Print what is wrong with a results folder, and exit."""
    from harness.verification import mending

    examined = mending.examine(folder, mend=mend)
    if as_json:
        click.echo(json.dumps(examined.to_json(), indent=2))
    else:
        for line in examined.lines():
            click.echo(line)
    sys.exit(examined.exit_code)


def checks(distribution: str = DISTRIBUTION) -> list[Check]:
    """Everything that the harness needs of this machine, in the order of installation."""
    machine = hardware.facts()
    return [
        _python(),
        *_packages(distribution),
        _torch(machine),
        _gpu(machine),
        *_compiler(machine),
        _precision(machine),
        _four_bit(machine),
        _memory(machine),
        _disk(),
        _hub(),
        _mirror(),
        *_models(),
    ]


def to_json(results: Sequence[Check]) -> list[dict[str, str]]:
    """The checks as plain values: name, status, detail, mend."""
    return [asdict(check) for check in results]


def render(results: Sequence[Check]) -> Table:
    """The checks as a table for a rich console; the command that fixes a check stands under it."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    for _ in range(2):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    colours = {"ok": "green", "missing": "red", "note": "yellow"}
    for check in results:
        text = Text(check.detail)
        if check.mend:
            text += Text(f"\n  {check.mend}", style="bold")
        table.add_row(Text(check.status, style=colours[check.status]), Text(check.name), text)
    return table


def _python() -> Check:
    lowest, above = _PYTHON
    text = ".".join(map(str, sys.version_info[:3]))
    if lowest <= sys.version_info[:2] < above:
        return Check("python", "ok", text)
    wanted = f"{lowest[0]}.{lowest[1]} up to, not including, {above[0]}.{above[1]}"
    return Check("python", "missing", f"{text}; needed: {wanted}", "python3.12 -m venv .venv")


def _packages(distribution: str) -> list[Check]:
    """A line per requirement of the installed distribution that is not met, or one that all are."""
    try:
        needed = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        root = Path(__file__).resolve().parents[4]
        checkout = (root / "pyproject.toml").is_file()
        mend = f"pip install -e {root}" if checkout else f"pip install {distribution}"
        return [Check("packages", "missing", f"{distribution} is not installed", mend)]
    unmet, met = [], 0
    for text in needed:
        if "extra ==" in text:
            continue
        check = _requirement(text)
        if check is None:
            met += 1
        else:
            unmet.append(check)
    version = metadata.version(distribution)
    if not unmet:
        return [Check("packages", "ok", f"{distribution} {version}, {met} requirements met")]
    return unmet


def _requirement(text: str) -> Check | None:
    """What is wrong with one requirement; None where it is met or is not for this machine."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return Check("packaging", "missing", "needed to read versions", "pip install packaging")
    wanted = Requirement(text)
    if wanted.marker is not None and not wanted.marker.evaluate():
        return None
    mend = f'pip install "{wanted.name}{wanted.specifier}"'
    try:
        version = metadata.version(wanted.name)
    except metadata.PackageNotFoundError:
        return Check(wanted.name, "missing", "not installed", mend)
    if wanted.specifier.contains(version, prereleases=True):
        return None
    return Check(wanted.name, "missing", f"{version}; needed: {wanted.specifier}", mend)


def _torch(machine: hardware.Machine) -> Check:
    if machine.torch is None:
        return Check("torch", "missing", "not installed", "pip install torch")
    kind = "ROCm" if machine.torch.rocm else "CUDA"
    build = f"{kind} {machine.torch.cuda}" if machine.torch.cuda else "CPU build"
    if machine.gpus and not machine.torch.cuda:
        why = f"{machine.torch.version} ({build}) cannot use the GPU"
        return Check("torch", "missing", why, _GPU_TORCH)
    return Check("torch", "ok", f"{machine.torch.version} ({build})")


def _gpu(machine: hardware.Machine) -> Check:
    if lack := gpu_check.lack_of(machine):
        return Check("gpu", "missing", lack.why, lack.mend)
    if not machine.gpus:
        why = gpu_check.unused() or "none that this process may use: models run on the CPU"
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        if hidden is not None:
            return Check("gpu", "note", f"{why} (CUDA_VISIBLE_DEVICES={hidden!r})")
        return Check("gpu", "note", why)
    cuda = machine.driver.cuda
    driver = f"; driver for CUDA {cuda[0]}.{cuda[1]}" if cuda else ""
    status: Literal["ok", "note"] = "note" if machine.gpus[0].busy else "ok"
    return Check("gpu", status, ", ".join(map(_described, machine.gpus)) + driver)


def _described(gpu: hardware.Gpu) -> str:
    size = f"{gpu.memory_bytes / 2**30:.0f} GiB"
    busy = f", busy: {(gpu.free_bytes or 0) / 2**30:.1f} GiB free" if gpu.busy else ""
    return f"{gpu.name} {size} (sm_{gpu.capability[0]}{gpu.capability[1]}{busy})"


def _compiler(machine: hardware.Machine) -> list[Check]:
    """Triton's compiler, where there is a GPU for Triton."""
    if machine.device != "cuda" or sys.platform == "win32":
        return []
    lack = gpu_check.compiler_lack()
    if lack is None:
        return [Check("compiler", "ok", "compiles what Triton needs")]
    why = f"{lack.why}: training runs without Triton, slower; no budget.compile, no budget.liger"
    return [Check("compiler", "note", why, lack.mend)]


def _precision(machine: hardware.Machine) -> Check:
    if machine.bf16_is_fast:
        return Check("bf16", "ok", "fast here; precision: auto is bf16")
    usual = hardware.default_precision(machine)
    lack = "no bf16 arithmetic" if machine.device == "cuda" else f"slow on this {machine.device}"
    return Check("bf16", "note", f"{lack}; precision: auto is {usual}")


def _four_bit(machine: hardware.Machine) -> Check:
    try:
        version = metadata.version("bitsandbytes")
    except metadata.PackageNotFoundError:
        return Check("4-bit", "missing", "no bitsandbytes: no qlora", "pip install bitsandbytes")
    if machine.device == "cuda":
        return Check("4-bit", "ok", f"bitsandbytes {version}")
    return Check("4-bit", "note", f"bitsandbytes {version} runs on the CPU, but is made for GPUs")


def _memory(machine: hardware.Machine) -> Check:
    text = f"{machine.memory_bytes / 2**30:.1f} GiB, {machine.cores} cores ({machine.cpu})"
    if machine.memory_bytes >= _MEMORY_BYTES:
        return Check("memory", "ok", text)
    return Check("memory", "note", f"{text}: room for small models only")


def _disk() -> Check:
    cache = hub.cache_dir()
    existing = next(folder for folder in (cache, *cache.parents) if folder.is_dir())
    free = shutil.disk_usage(existing).free
    text = f"{free / 1e9:.0f} GB free in {cache}"
    if not os.access(existing, os.W_OK):
        return Check("cache", "missing", f"{cache} cannot be written", "export HARNESS_CACHE=DIR")
    if free < _SPACE_BYTES:
        return Check("cache", "note", text, "export HARNESS_CACHE=DIR   # on a larger disk")
    return Check("cache", "ok", text)


def _hub() -> Check:
    if hub.reachable():
        return Check("hub", "ok", os.environ.get("HF_ENDPOINT") or "huggingface.co answers")
    why = f"{hub.why_unreachable()}: packaged models, folders and a mirror work"
    return Check("hub", "note", why, "unset HF_HUB_OFFLINE" if hub.offline() else "")


def _mirror() -> Check:
    mirror = os.environ.get("HARNESS_MIRROR")
    if not mirror:
        mend = "export HARNESS_MIRROR=DIR   # DIR/org/name holds a model or a data set"
        return Check("mirror", "note", "none set; needed only without the Hub", mend)
    if Path(mirror).is_dir():
        return Check("mirror", "ok", mirror)
    return Check("mirror", "missing", f"HARNESS_MIRROR: no folder {mirror}", "unset HARNESS_MIRROR")


def _models() -> list[Check]:
    results = []
    for entry in packaged.registry().values():
        if entry.folder.is_dir():
            fault = packaged.pulled_fault(entry)
            mend = f"rm -r {shlex.quote(str(entry.folder))}; harness models pull {entry.alias}"
            results.append(
                Check(entry.alias, "missing", f"{entry.folder}: {fault}", mend)
                if fault
                else Check(entry.alias, "ok", str(entry.folder))
            )
            continue
        text = f"not pulled yet: {entry.download / 1e6:.0f} MB, fetched when first needed"
        results.append(Check(entry.alias, "note", text, f"harness models pull {entry.alias}"))
    return results
