"""Who may import whom, who may measure and write, and what the parent process never loads."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import harness as package
from harness.manager import BUILT_IN

ROOT = Path(__file__).parent.parent
CORE = sorted((ROOT / "harness").rglob("*.py"))
TASKS = sorted((ROOT / "harness/evaluation/tasks").rglob("*.py"))
PLUGINS = sorted((ROOT / "plugins").rglob("*.py"))
SUITES = sorted((ROOT / "suites").rglob("*.py"))
SAMPLES = sorted((ROOT / "tests/sample_plugins").rglob("*.py"))
HEAVY = (
    "torch",
    "transformers",
    "datasets",
    "lm_eval",
    "peft",
    "trl",
    "sentence_transformers",
    "optuna",
)
TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")
"""Of the parent process, but only where one of them was chosen."""


def tree(file):
    return ast.parse(file.read_text(encoding="utf-8"))


def imports(file):
    """Every module that a file imports, anywhere in it; `from a import b` gives `a.b` too."""
    found = set()
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file.name} imports relatively"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def roots(file):
    return {name.split(".")[0] for name in imports(file)}


def named(file):
    return str(file.relative_to(ROOT))


# ---- imports -------------------------------------------------------------------------------------


def test_types_and_the_layout_of_records_import_next_to_nothing():
    """Everything imports them, the command line too."""
    standard = set(sys.stdlib_module_names)
    assert roots(ROOT / "harness/record.py") - standard == {"typing_extensions"}
    assert roots(ROOT / "harness/types.py") - standard == {"harness"}
    ours = {n for n in imports(ROOT / "harness/types.py") if n.startswith("harness")}
    assert {name.split(".")[1] for name in ours} == {"record"}


def test_hookspecs_imports_types_only():
    found = imports(ROOT / "harness/hookspecs.py")
    ours = {name for name in found if name.startswith("harness")}
    assert ours == {"harness.types", "harness.types.Artifact"}
    others = {name.split(".")[0] for name in found} - set(sys.stdlib_module_names)
    assert others == {"harness", "pluggy"}


@pytest.mark.parametrize("file", CORE, ids=named)
def test_the_core_imports_no_plugin_and_no_suite(file):
    strange = {n for n in imports(file) if n.startswith(("harness.plugins", "harness.suites"))}
    assert not strange
    assert not {"plugins", "suites"} & roots(file)


@pytest.mark.parametrize("file", CORE, ids=named)
def test_the_core_names_its_plugins_in_one_tuple_only(file):
    text = file.read_text(encoding="utf-8")
    built_in = [module for module in BUILT_IN if module.startswith("harness.plugins.")]
    count = len(built_in) if file.name == "manager.py" else 0
    assert text.count("harness.plugins.") == count
    module_names = {module.rpartition(".")[2] for module in built_in}
    assert module_names == {f.stem for f in PLUGINS if f.stem != "__init__"}


def test_every_task_of_the_harness_is_registered_as_a_plugin():
    home = "harness.evaluation.tasks."
    registering = {
        file.parent.name if file.stem == "__init__" else file.stem
        for file in TASKS
        if "def register_tasks(" in file.read_text(encoding="utf-8")
    }
    assert {m.removeprefix(home) for m in BUILT_IN if m.startswith(home)} == registering


@pytest.mark.parametrize("file", [file for file in CORE if file not in TASKS], ids=named)
def test_the_core_knows_no_task_by_name(file):
    from harness.manager import Plugins

    names = set(Plugins(discover=False).tasks.things)
    # a phase of the clock and the option's default, a form of rows, lm-eval's names of figures
    names -= {
        "evaluate.py": {"generate"},
        "suites.py": {"generate"},
        "rows.py": {"choice"},
        "aggregation.py": {"perplexity"},
        "lm_eval_tasks.py": {"perplexity"},
    }.get(file.name, set())
    if file.parent.name == "importing":  # another program's results, not its tasks
        names -= {"lm-eval"}
    literals = {n.value for n in ast.walk(tree(file)) if isinstance(n, ast.Constant)}
    assert not names & {value for value in literals if isinstance(value, str)}
    modules = {module for module in BUILT_IN if module.startswith("harness.evaluation.")}
    assert not {name for name in imports(file) if name.startswith(tuple(modules))}


@pytest.mark.parametrize("file", CORE, ids=named)
def test_the_core_knows_no_method_scorer_or_judge_by_name(file):
    from harness.manager import Plugins

    known = Plugins(discover=False)
    names = {*known.methods.things, *known.scorers.things, *known.judges.things}
    # `base` is also a kind of artifact, `prompt` a column, `exact_match` a metric of lm-eval's,
    # `peft` a library, `pairwise` a function of harness.stats
    names -= {"base", "prompt", "exact_match", "peft", "pairwise"}
    # `cosine` is a schedule, the others are values of a field of peft's LoraConfig
    names -= {
        "sft_options.py": {"cosine"},
        "initial_adapter.py": {"pissa"},
    }.get(file.name, set())
    literals = {n.value for n in ast.walk(tree(file)) if isinstance(n, ast.Constant)}
    assert not names & {value for value in literals if isinstance(value, str)}


def internal_names(file):
    """What a file takes of the harness beside `from harness import <a public name>`."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] in OURS)
        elif isinstance(node, ast.ImportFrom) and node.module == "harness":
            yield from (a.name for a in node.names if a.name not in package.__all__)
        elif isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in OURS:
            yield node.module


OURS = {"harness", "plugins", "suites"}


@pytest.mark.parametrize("file", [*PLUGINS, *SUITES, *SAMPLES], ids=named)
def test_plugins_live_on_the_public_names(file):
    assert list(internal_names(file)) == []


def test_public_names_are_documented_and_none_is_private():
    assert not [name for name in package.__all__ if name.startswith("_")]
    values = {name: getattr(package, name) for name in package.__all__}
    made_here = {
        name: value
        for name, value in values.items()
        if str(getattr(value, "__module__", "")).startswith("harness")
    }
    assert values.keys() - made_here.keys() == {"Message", "hookimpl"}
    assert [name for name, value in made_here.items() if not inspect.getdoc(value)] == []
    methods = {
        f"{name}.{key}": member
        for name, value in made_here.items()
        if inspect.isclass(value)
        for key, member in vars(value).items()
        if not key.startswith("_") and (inspect.isfunction(member) or isinstance(member, property))
        if getattr(member, "__name__", "") != "<lambda>"  # a field's default
    }
    assert [name for name, member in methods.items() if not inspect.getdoc(member)] == []


@pytest.mark.parametrize("file", [*CORE, *PLUGINS], ids=named)
def test_heavy_libraries_are_imported_inside_functions(file):
    at_load = set()
    for node in tree(file).body:
        if isinstance(node, ast.Import):
            at_load |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            at_load.add(str(node.module).split(".")[0])
    assert not at_load & {*HEAVY, *TRACKERS}


def test_what_is_exported_resolves():
    assert list(package.__all__) == sorted(package._HOME, key=lambda name: (name.islower(), name))
    for name, home in package._HOME.items():
        assert getattr(package, name) is getattr(importlib.import_module(f"harness.{home}"), name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = package.nothing


# ---- the map -----------------------------------------------------------------------------------


def test_no_folder_is_larger_than_a_screen():
    folders = {file.parent for file in [*CORE, *PLUGINS, *(ROOT / "tests").rglob("*.py")]}
    sizes = {named(folder): len(list(folder.glob("*.py"))) for folder in folders}
    assert {name: size for name, size in sizes.items() if size > 16} == {}


def test_the_table_of_places_is_the_docstrings():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"(?m)^\| `([\w/.]+)` \| (.*) \|$", text))
    places = {
        named(file.parent) + "/": file
        for file in [*CORE, *PLUGINS, *SUITES]
        if file.stem == "__init__"
    }
    places |= {named(f): f for f in CORE if f.parent == ROOT / "harness" and f.stem != "__init__"}
    told = {
        place: ast.get_docstring(tree(file)).partition("\n\n")[0] for place, file in places.items()
    }
    told = {place: " ".join(words.split()) for place, words in told.items()}
    assert {place: rows[place] for place in rows if place != "tests/"} == told
    assert len(re.findall(r"(?m)^\| `", text)) == len(rows), "a place stands twice"


def test_every_folder_is_part_of_the_distribution():
    """setuptools takes those alone that are named; a checkout runs without."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (listed,) = re.findall(r"(?ms)^packages = \[\n(.*?)^\]", text)
    places = {
        file.parent.relative_to(ROOT)
        for home in ("harness", "plugins", "suites")
        for file in (ROOT / home).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    names = {".".join(place.parts) for place in places}
    names = {name if name.startswith("harness") else f"harness.{name}" for name in names}
    assert set(re.findall(r'"([^"]+)"', listed)) == names


# ---- measuring, writing --------------------------------------------------------------------------


def calls(file):
    """Names of everything that is called: `time.perf_counter`, `json.dump`, `.write_text`."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


@pytest.mark.parametrize("file", [*CORE, *PLUGINS], ids=named)
def test_only_measure_measures(file):
    ways = ("perf_counter", "process_time", "max_memory_", "memory_info", "getrusage")
    used = {name for _, name in calls(file) if any(way in name for way in ways)}
    assert not used or file.name == "measure.py"


# What else writes, and where: never under the results.
WRITERS = {
    "locks.py": "who holds a lock",
    "hub.py": "the cache",
    "model_files.py": "the cache, or an export in the making",
    "modelfile.py": "an export in the making",
    "packaged.py": "the cache",
    "kept_verdicts.py": "the cache",
    "stand_in.py": "the cache",
    "byte_tokenizer.py": "the cache",
    "measure.py": "/proc/self/clear_refs",
    "gate.py": "reports, where the user or GitHub wants them",
    "parcel.py": "a pipe",
    "ray.py": "a folder that all nodes of a cluster see, where the user names one",
    "cell_runner.py": "the job file",
    "publish.py": "a model folder, where the user wants it",
    "report.py": "the page, where the user wants it",
    "scaffold.py": "a new suite, where the user wants it",
}


def writes(file):
    for node, name in calls(file):
        last = name.rpartition(".")[2]
        if last in {"write_text", "write_bytes", "mkstemp"} or name == "json.dump":
            yield name
        modes = [a.value for a in node.args if isinstance(a, ast.Constant)]
        modes += [k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)]
        if last in {"open", "fdopen"} and any(m in ("w", "wb", "x", "xb", "a") for m in modes):
            yield name


@pytest.mark.parametrize("file", [*CORE, *PLUGINS], ids=named)
def test_only_record_writes_results(file):
    found = set(writes(file))
    if file.name == "child_process.py":
        found -= {"os.fdopen"}  # its events, on standard output
    assert not found or file.name == "store.py" or file.name in WRITERS


# ---- what the parent process loads ---------------------------------------------------------------

_PROBE = """
import sys
from harness.cli import main
sys.argv = ["harness", *sys.argv[1:]]
try:
    main.main()
except SystemExit as end:
    code = end.code
heavy = [name for name in {heavy!r} if name in sys.modules]
print("HEAVY", heavy, "CODE", code, file=sys.stderr)
"""


def loaded_by(*arguments, cwd=ROOT):
    done = subprocess.run(
        [sys.executable, "-c", _PROBE.format(heavy=HEAVY + TRACKERS), *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stderr.strip().splitlines()[-1]


def test_importing_the_command_line_imports_nothing_heavy():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import harness.cli.main"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "harness.cli.main" in found
    assert not found & {*HEAVY, "numpy", "pydantic", "yaml", "pyarrow", "jsonschema"}


@pytest.mark.parametrize("command", [["--help"], ["run", "--help"], ["plugins"], ["suites"]])
def test_looking_around_loads_nothing_heavy(command):
    assert loaded_by(*command) == "HEAVY [] CODE 0"


def test_planning_loads_nothing_heavy(experiment):
    small = experiment(methods=["base", "full", "lora", "qlora"])
    assert loaded_by("plan", small.file, "--out", small.out) == "HEAVY [] CODE 0"


def test_reading_results_loads_nothing_heavy(finished):
    assert loaded_by("leaderboard", finished.out) == "HEAVY [] CODE 0"


def test_a_run_with_nothing_to_do_loads_nothing_heavy(finished):
    assert loaded_by("run", finished.file, "--out", finished.out) == "HEAVY [] CODE 0"
