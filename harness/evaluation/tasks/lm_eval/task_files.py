"""Task files of a suite's own folder: whether they can be read, what they may run, their data."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from harness.api.task import Suite
from harness.config import strict_yaml
from harness.errors import ConfigError, UserError
from harness.evaluation.tasks.lm_eval import confined
from harness.evaluation.tasks.lm_eval.settings import settings_of
from harness.system.security import sandbox

if TYPE_CHECKING:
    import yaml

    Constructor = Callable[[yaml.Loader, yaml.ScalarNode], object]


def check(suite: Suite) -> None:
    """Raises UserError for a task file that lm-eval would skip: no YAML, or no mapping.

    Also for one that names a file outside the suite's folder or a script, unless the suite may run
    code.
    """
    waiting, seen = _files(suite), set[Path]()
    while waiting:
        file = waiting.pop(0)
        task = _read(file)
        if not isinstance(task, dict):
            raise UserError(f"{file}:1: broken task file: expected keys such as `task:`")
        if suite.trusted or suite.folder is None:
            continue
        confined.check_names(file, task, Path(suite.folder))
        seen.add(file.resolve())
        others = confined.included(file, task)
        waiting += [f for f in others if f.is_file() and f.resolve() not in seen]


def caps(suite: Suite) -> list[tuple[Path, int]]:
    """The `max_gen_toks` that files of the suite's own tasks state."""
    names, stated_caps = settings_of(suite).tasks, []
    for file in _files(suite):
        task = _read(file)
        stated = task.get("generation_kwargs") if isinstance(task, dict) else None
        cap = stated.get("max_gen_toks") if isinstance(stated, dict) else None
        if isinstance(cap, int) and isinstance(task, dict) and task.get("task") in names:
            stated_caps.append((file, cap))
    return stated_caps


def need_nothing_else(suite: Suite) -> bool:
    """Whether every task and its data lie in the suite's own folder, so that no Hub is needed.

    False too where a task file wants to run Python and may not, or runs what a model writes, which
    only loading it shows.
    """
    text = "\n".join(file.read_text(encoding="utf-8") for file in _files(suite))
    if re.search(r"^dataset_path:", text, re.M):
        return False
    if not suite.trusted and re.search(r"!function|^include:", text, re.M):
        return False
    if re.search(r"\bunsafe_code:", text):
        return False
    names = settings_of(suite).tasks
    return all(re.search(rf"^task:\s*{re.escape(name)}\s*$", text, re.M) for name in names)


def use(suite: Suite) -> None:
    """Let lm-eval read task files, from now on, as this suite may have them read.

    `!function` outside lm-eval's own folder and metrics that are scripts of the library `evaluate`
    raise UserError unless the suite may run code; templates run in Jinja's sandbox, within a time
    limit; `data_files` of a file format are looked for beside the task file first.
    """
    from lm_eval.api import registry
    from lm_eval.api import task as api
    from lm_eval.tasks import _factory, _yaml_loader

    _sandbox_templates()
    get_metric = getattr(api.get_metric, "original", api.get_metric)
    api.get_metric = (
        get_metric
        if suite.trusted
        else confined.guarded_metric(get_metric, lambda: _metrics(registry), suite.file)
    )
    original = getattr(_yaml_loader._mk_function_ctor, "original", _yaml_loader._mk_function_ctor)

    def constructor(base_dir: Path, resolve: bool) -> Constructor:
        if not resolve or suite.trusted or confined.is_lm_evals(base_dir):
            made: Constructor = original(base_dir, resolve)
            return made
        return _refuse

    def _refuse(loader: yaml.Loader, node: yaml.ScalarNode) -> NoReturn:
        mark = node.start_mark
        raise UserError(
            f"{mark.name}:{mark.line + 1}: `!function {node.value}` runs Python code: read it, and "
            "allow it with `trust_task_code: true` in the suite"
        )

    constructor.original = original  # type: ignore[attr-defined]
    _yaml_loader._mk_function_ctor = constructor

    load_yaml = getattr(_factory.load_yaml, "original", _factory.load_yaml)

    def load(path: str | Path, **settings: object) -> dict[str, object]:
        config: dict[str, object] = load_yaml(path, **settings)
        if confined.is_lm_evals(Path(path)):
            return config
        return _with_data_beside(config, Path(path), trusted=suite.trusted)

    load.original = load_yaml  # type: ignore[attr-defined]
    _factory.load_yaml = load


def _metrics(registry: Any) -> Mapping[str, object]:
    """lm-eval's own metrics by name."""
    import lm_eval.api.metrics  # noqa: F401 - which registers them

    metrics: Mapping[str, object] = registry.metric_registry
    return metrics


def _sandbox_templates() -> None:
    """Keep a task's templates, which strangers wrote, from reaching Python's internals."""
    from jinja2.sandbox import SandboxedEnvironment
    from lm_eval import utils

    if isinstance(utils.env, SandboxedEnvironment):
        return
    env = sandbox.limited(SandboxedEnvironment, "a task's template")(
        loader=utils.env.loader, undefined=utils.env.undefined, keep_trailing_newline=True
    )
    env.filters.update({**utils.env.filters, **env.filters})
    utils.env = env


def _with_data_beside(config: dict[str, object], file: Path, *, trusted: bool) -> dict[str, object]:
    """The task's configuration with the places of its `data_files` written out.

    `datasets` looks from the folder that the command runs in, which is looked through, after the
    task file's, only where the suite may run code. Raises UserError where a file is not there.
    """
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

    options = config.get("dataset_kwargs")
    if config.get("dataset_path") not in _PACKAGED_DATASETS_MODULES:
        return config
    if not isinstance(options, Mapping) or "data_files" not in options:
        return config
    folders = [file.resolve().parent, *([Path.cwd()] if trusted else [])]
    data_files = _placed(options["data_files"], file, folders)
    return {**config, "dataset_kwargs": {**options, "data_files": data_files}}


def _placed(data_files: object, file: Path, folders: Sequence[Path]) -> object:
    """`data_files`, a path, a list of them or a mapping of splits, from the first folder."""
    if isinstance(data_files, Mapping):
        return {split: _placed(names, file, folders) for split, names in data_files.items()}
    if isinstance(data_files, (list, tuple)):
        return [_placed(name, file, folders) for name in data_files]
    name = str(data_files)
    if "://" in name or Path(name).is_absolute():
        return name
    for folder in folders:
        if (folder / name).exists() or any(folder.glob(name)):
            return str(folder / name)
    raise UserError(
        f"{file}: data_files: no '{name}' in {' or in '.join(map(str, folders))}; write its path "
        "from the task file's folder"
    )


def _files(suite: Suite) -> list[Path]:
    return sorted(Path(suite.folder).rglob("*.yaml")) if suite.folder else []


def _read(file: Path) -> object:
    """A task file's content, its `!function` as text. Raises UserError where it is no YAML.

    Also for one that is too large, too deep, or stands for too much by its aliases.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """Knows lm-eval's `!function`."""

    Loader.add_constructor("!function", lambda loader, node: node.value)
    try:
        strict_yaml.check_size(file)
        return yaml.load(file.read_text(encoding="utf-8"), Loader)
    except ConfigError as error:
        raise UserError(str(error)) from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{file}:{line}: broken task file: {error.problem}") from None
    except yaml.reader.ReaderError as error:
        reason = f"{error.reason} (character {error.position})"
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{file}:{line}: broken task file: no UTF-8 text") from None
    except OSError as error:
        reason = error.strerror or str(error)
    except (ValueError, RecursionError) as error:
        reason = str(error)
    raise UserError(f"{file}: broken task file: {reason}")
