"""Runs cells on a Ray cluster, a GPU or a node's cores for each; Ray decides where.

A cell is an actor, which runs the worker as a child process. What the worker reports and makes
comes back as the items of a generator: text is an event, bytes are a piece of an archive.
"""

import importlib.metadata
import itertools
import json
import os
import platform
import shutil
import signal
import socket
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import psutil
from pydantic import Field

from harness import (
    CellFailed,
    EnvironmentLack,
    Executor,
    ExecutorOptions,
    Parcel,
    UnpackedParcel,
    UserError,
    hookimpl,
    stop_wanted,
    worker_events,
)

CHUNK = 4 * 2**20
IN_FLIGHT = 4
"""Items that a node is ahead of the driver at most: what a small object store can hold."""
LOOK = 0.5
"""Seconds between two looks at whether a worker is to stop."""
SECONDS_TO_REACH = 5
SECONDS_TO_ANSWER = 120

Facts = dict[str, str | None]


class RayOptions(ExecutorOptions):
    """Where the cluster is, and what a cell gets of it."""

    address: str | None = None
    """The cluster's `HOST:PORT`, `auto` for the one that this machine is part of, or `local`.
    Default: RAY_ADDRESS, else a Ray of this run's own on this machine."""
    gpus: float | None = Field(None, ge=0)
    """GPUs of a cell. Default: 1 where the cluster has any or the plan is for CUDA, else 0."""
    cpus: int | None = Field(None, ge=1)
    """Cores of a cell. Default: beside a GPU its share of its node's; else all of a node's, so
    that one cell runs on each."""
    store: str = "auto"
    """How files travel: `auto`, the results folder where the node sees it, else Ray's object store;
    `ray`, always that; or a URL that all nodes see, such as s3://bucket/folder (fsspec)."""
    env: str = ""
    """Environment variables of this process that workers get, between commas. Default: none."""
    retries: int = Field(3, ge=0)
    """How often a cell runs again where its node was lost."""
    carry_gb: float = Field(4.0, ge=0)
    """GB of models and data that are sent with a cell to a node that does not see them, at most."""


# ---- on a node -----------------------------------------------------------------------------------


class Cell:
    """One cell, on the node that Ray chose."""

    def __init__(self) -> None:
        self._wanted: Literal["soon"] | None = None

    def look(self, log_file: str, token: str, inputs: list[str]) -> tuple[str, bool, list[str]]:
        """This node, whether it sees the log's last line, and what of `inputs` it lacks."""
        sees = False
        with suppress(OSError):
            sees = token in Path(log_file).read_text(encoding="utf-8", errors="replace")[-9999:]
        return _node(), sees, [text for text in inputs if not Path(text).exists()]

    def run(self, parcel: list[Any] | str, url: str, env: dict[str, str]) -> Iterator[str | bytes]:
        """Run the worker; its events, then what it made, and how it ended.

        `parcel` are references to chunks of the job, or a URL of it; `url` is where to put what the
        worker made, empty to yield it.
        """
        import ray

        _remove_abandoned()
        with tempfile.TemporaryDirectory(prefix=f"{_scratch()}{os.getpid()}-") as folder:
            job = UnpackedParcel(
                Path(folder),
                _fetched(parcel) if isinstance(parcel, str) else map(ray.get, parcel),
            )
            ended: dict[str, Any] = {}
            events = worker_events(job.job_file, job.log_file, env, lambda: self._wanted)
            for event in events:
                if event["event"] == "exit":
                    ended = dict(event)
                else:
                    yield json.dumps(event)
            if url:
                _put(url, job.chunks())
            else:
                yield from job.chunks()
            ended["record"] = job.record_digest
            yield json.dumps(ended)

    def stop(self) -> None:
        """Tell the worker to end at its next safe point."""
        self._wanted = "soon"


def _scratch() -> str:
    """Begin of the name of a cell's temporary folder here; the number of its process comes next.

    Containers may share a folder for temporary files, and number their processes alike.
    """
    return f"harness-ray-{socket.gethostname()}-"


def _remove_abandoned() -> None:
    """Remove the folders of cells whose process was killed here: they may hold whole models."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_scratch()}*"):
        owner = folder.name.removeprefix(_scratch()).partition("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


def _node() -> str:
    import ray

    return f"{ray.util.get_node_ip_address()} ({socket.gethostname()})"


def _put(url: str, chunks: Iterator[bytes]) -> None:
    import fsspec

    with fsspec.open(url, mode="wb") as file:
        for chunk in chunks:
            file.write(chunk)


def _fetched(url: str) -> Iterator[bytes]:
    import fsspec

    with fsspec.open(url, mode="rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


def _remove(url: str) -> None:
    import fsspec

    files, path = fsspec.core.url_to_fs(url)
    with suppress(OSError):
        files.rm(path)


# ---- here ----------------------------------------------------------------------------------------


class _Lost(Exception):
    """The node or the process of a cell is gone."""


class Ray(Executor):
    """Cells on a Ray cluster by its address, or on a local Ray: a GPU or a node's cores each."""

    name = "ray"
    Options = RayOptions
    options: RayOptions

    def __init__(self) -> None:
        self._env: dict[str, str] = {}

    @contextmanager
    def session(self, device: str, note: Callable[[str], None]) -> Iterator[None]:
        """A connection to the cluster, whose nodes were asked whether they can run cells."""
        ray = _library()
        self._env = _named_variables(self.options.env)
        mine = not ray.is_initialized()
        if mine:
            _connect(ray, self.options.address)
        try:
            self._fit(ray, device)
            yield
        finally:
            if mine:
                ray.shutdown()

    def _fit(self, ray: Any, device: str) -> None:
        """Say what each cell gets, and how many run at once. Raises UserError where none can."""
        options, nodes = self.options, [node for node in ray.nodes() if node["Alive"]]
        holds = [node["Resources"] for node in nodes]
        any_gpu = any(have.get("GPU", 0) for have in holds)
        self._gpus = (
            options.gpus if options.gpus is not None else float(any_gpu or device == "cuda")
        )
        if not self._gpus:  # Ray leaves a task without GPUs those of its node
            self._env |= {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}
        if self._gpus and not any_gpu:
            raise UserError(
                "--executor ray: the cluster has no GPU, and the cells are for one: add a node "
                "with GPUs, or plan for its CPUs (CUDA_VISIBLE_DEVICES= and "
                "--executor-option gpus=0)"
            )
        fit = [have for have in holds if have.get("CPU", 0) >= 1 and _gpus(have) >= self._gpus]
        shares = [int(have["CPU"] // max(1, _gpus(have) if self._gpus else 1)) for have in fit]
        self._cpus = options.cpus or max(1, min(shares, default=1))
        fit = [have for have in fit if have["CPU"] >= self._cpus]
        if not fit:
            most = max((have.get("CPU", 0) for have in holds), default=0)
            raise UserError(
                f"--executor ray: no node has {self._cpus} CPUs and {self._gpus:g} GPUs for a cell "
                f"(the largest has {most:g} CPUs): lower cpus or gpus, or add a node"
            )
        self.concurrency = sum(self._at_once(have) for have in fit)
        _check_nodes(ray, [n for n in nodes if n["Resources"] in fit], self.options.store)

    def _at_once(self, have: Mapping[str, float]) -> int:
        by_gpus = _gpus(have) // self._gpus if self._gpus else float("inf")
        return int(min(have["CPU"] // self._cpus, by_gpus))

    def run(self, job_file: Path, log_file: Path) -> Iterator[Mapping[str, object]]:
        """One cell; again elsewhere where its node is lost, which the record then says."""
        parcel = Parcel(job_file, log_file)
        for attempt in itertools.count(1):
            try:
                yield from self._attempt(parcel, log_file)
                return
            except _Lost as lost:
                if attempt > self.options.retries:
                    raise CellFailed(f"{lost}; it was tried {attempt} times") from None
                message = f"{lost}: the cell ran again ({attempt} of {self.options.retries} times)"
                parcel.warn(message)
                yield {"event": "warning", "message": message}

    def _attempt(self, parcel: Parcel, log_file: Path) -> Iterator[Mapping[str, object]]:
        ray = _library()
        token = uuid.uuid4().hex
        with log_file.open("ab") as log:
            log.write(f"ray: {parcel.cell} as {token}\n".encode())
        resources = {"num_cpus": self._cpus, "num_gpus": self._gpus}
        cell = ray.remote(Cell).options(**resources, max_concurrency=2, max_restarts=0).remote()
        node, url = "its node", ""
        try:
            yield {"event": "phase", "name": "waiting for a node"}
            inputs = parcel.inputs
            looked = cell.look.remote(str(log_file), token, list(inputs))
            while not ray.wait([looked], timeout=LOOK)[0]:
                if stop_wanted():
                    return
            node, sees, lacks = ray.get(looked)
            yield {"event": "node", "node": node}
            self._check_carried({text: inputs[text] for text in lacks}, node)
            shared = sees and self.options.store == "auto"
            chunks = parcel.chunks(results=not shared, inputs=lacks)
            if "://" in self.options.store:
                url = f"{self.options.store.rstrip('/')}/{parcel.cell}-{token}"
                _put(f"{url}-job.tar", chunks)
            sent = f"{url}-job.tar" if url else [ray.put(chunk) for chunk in chunks]
            made = f"{url}-made.tar" if url else ""
            call = cell.run.options(
                num_returns="streaming", _generator_backpressure_num_objects=IN_FLIGHT
            )
            items = _Items(ray, call.remote(sent, made, self._env), cell)
            yield from items.events(parcel, made)
            if items.exit is None:  # killed
                return
            if shared:
                parcel.wait_for_record(items.record)
            yield items.exit
        except Exception as error:
            failure = _failure(ray, error, node)
            if failure is None:
                yield {"event": "memory", "spent": 1.0}
                yield {"event": "exit", "code": -int(signal.SIGKILL)}
                return
            raise failure from error
        finally:
            ray.kill(cell)
            for end in ("job", "made") if url else ():
                _remove(f"{url}-{end}.tar")

    def _check_carried(self, lacking: Mapping[str, int], node: str) -> None:
        size = sum(lacking.values()) / 1e9
        if size > self.options.carry_gb:
            largest = max(lacking, key=lambda text: lacking[text])
            raise CellFailed(
                f"node {node} does not see {largest}, and {size:.1f} GB are more than are "
                f"sent with a cell (carry_gb={self.options.carry_gb:g}): put it there at the same "
                "path, or raise that"
            )


class _Items:
    """What a cell yields: events, and pieces of what its worker made, which are received."""

    def __init__(self, ray: Any, items: Any, cell: Any) -> None:
        self._ray, self._generator, self._cell = ray, items, cell
        self._told = False
        self.exit: Mapping[str, object] | None = None
        """How the worker ended; None where it was not waited for."""
        self.record: str | None = None
        """sha256 of the record that it wrote."""

    def _items(self) -> Iterator[str | bytes]:
        """Each item; none more where the worker is to end now. It is told where it is to end."""
        while True:
            while not self._ray.wait([self._generator], timeout=LOOK)[0]:
                wanted = stop_wanted()
                if wanted == "now":
                    return
                if wanted and not self._told:
                    self._told = True
                    self._cell.stop.remote()
            reference = next(self._generator, None)
            if reference is None:
                return
            yield self._ray.get(reference)

    def events(self, parcel: Parcel, url: str) -> Iterator[Mapping[str, object]]:
        """All events but the last, which is `exit`; what was made is at `url`, if at any."""
        items = self._items()
        for item in items:
            text = _received(parcel, item, items) if isinstance(item, bytes) else item
            event = json.loads(text) if text else {"event": "idle"}
            if event["event"] == "exit":
                if url:
                    parcel.receive(_fetched(url))
                self.record = event.pop("record")
                self.exit = event
                return
            yield event


def _received(parcel: Parcel, first: bytes, items: Iterator[str | bytes]) -> str:
    """Receive the pieces of an archive; the text that follows them, empty where none does."""
    after = ""

    def pieces() -> Iterator[bytes]:
        nonlocal after
        yield first
        for item in items:
            if isinstance(item, str):
                after = item
                return
            yield item

    archive = pieces()
    parcel.receive(archive)
    for _ in archive:  # what stands after the archive's end
        pass
    return after


def _gpus(have: Mapping[str, float]) -> float:
    return float(have.get("GPU", 0))


def _library() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise EnvironmentLack(
            "--executor ray needs Ray: pip install 'finetune-harness[ray]'"
        ) from None
    return ray


def _named_variables(names: str) -> dict[str, str]:
    """Values of the variables that a user names. Raises UserError for one that is not set."""
    found = {}
    for name in filter(None, map(str.strip, names.split(","))):
        if name not in os.environ:
            raise UserError(f"--executor-option env={names}: {name} is not set here: export it")
        found[name] = os.environ[name]
    return found


def _connect(ray: Any, address: str | None) -> None:
    """Connect to a cluster, or start Ray on this machine. Raises UserError in one line."""
    place = address or os.environ.get("RAY_ADDRESS") or "local"
    if place.startswith("ray://"):
        raise UserError(
            f"--executor ray: {place}: a Ray Client carries no streams: run this on a machine of "
            "the cluster with address=auto (ray start --address=HOST:PORT makes this one a part)"
        )
    _reach(place)
    own = {"include_dashboard": False} if place == "local" else {}
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=place, log_to_driver=False, logging_level="ERROR", **own)
    except (Exception, SystemExit) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"--executor ray: cannot connect to {place}: {reason}") from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray puts its own there


def _reach(place: str) -> None:
    """Raise UserError where nothing answers at `HOST:PORT`: Ray itself would try for minutes."""
    host, colon, port = place.rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_REACH).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"--executor ray: no Ray at {place} ({error}): is it up (ray status), and is its port "
            "open from here?"
        ) from None


def _check_nodes(ray: Any, nodes: list[Mapping[str, Any]], store: str) -> None:
    """Raise UserError for a node that has another Python or harness, or does not see the store."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    url = f"{store.rstrip('/')}/seen-{uuid.uuid4().hex}" if "://" in store else ""
    if url:
        try:
            _put(url, iter([b"seen"]))
        except Exception as error:
            raise UserError(f"--executor-option store={store}: {_line(error)}") from None
    try:
        asked = {}
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            probe = ray.remote(_probe()).options(num_cpus=0, scheduling_strategy=there)
            asked[f"{node['NodeManagerAddress']} ({node['NodeManagerHostname']})"] = probe.remote(
                url
            )
        mine = _probe()("")
        for name, answer in asked.items():
            try:
                theirs = ray.get(answer, timeout=SECONDS_TO_ANSWER)
            except Exception as error:
                raise UserError(
                    f"--executor ray: node {name} cannot run a task: {_line(error)}"
                ) from None
            _check_node(name, mine, theirs, store)
    finally:
        if url:
            _remove(url)


def _check_node(name: str, mine: Facts, theirs: Facts, store: str) -> None:
    if theirs["python"] != mine["python"]:
        raise UserError(
            f"--executor ray: node {name} has Python {theirs['python']}, this is {mine['python']}: "
            "start Ray there with this version"
        )
    if theirs["harness"] != mine["harness"]:
        has = (
            f"finetune-harness {theirs['harness']}" if theirs["harness"] else "no finetune-harness"
        )
        raise UserError(
            f"--executor ray: node {name} has {has}: install finetune-harness=={mine['harness']} "
            "in the environment that Ray was started from"
        )
    if theirs["store"]:
        raise UserError(f"--executor-option store={store}: node {name}: {theirs['store']}")


def _probe() -> Callable[[str], Facts]:
    """What a node is asked: a function of its own, which needs no harness there."""

    def probe(url: str) -> Facts:
        problem = None
        if url:
            try:
                import fsspec

                with fsspec.open(url, mode="rb") as file:
                    file.read()
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"[:300]
        try:
            version = importlib.metadata.version("finetune-harness")
        except importlib.metadata.PackageNotFoundError:
            version = None
        python = ".".join(platform.python_version_tuple()[:2])
        return {"python": python, "harness": version, "store": problem}

    return probe


def _failure(ray: Any, error: Exception, node: str) -> Exception | None:
    """A failure of Ray as this executor's own; None where a node ran out of memory.

    A node or process that is gone is `_Lost`; what else it says becomes the cell's record.
    """
    kinds = ray.exceptions
    memory = isinstance(error, kinds.OutOfMemoryError) or "memory monitor" in str(error).lower()
    if memory:
        return None
    lost = (
        kinds.RayActorError,
        kinds.WorkerCrashedError,
        kinds.NodeDiedError,
        kinds.ObjectLostError,
    )
    if isinstance(error, lost):
        return _Lost(f"node {node} was lost ({type(error).__name__})")
    full = (kinds.ObjectStoreFullError, kinds.OutOfDiskError)
    if isinstance(error, full) or isinstance(getattr(error, "cause", None), full):
        return CellFailed(
            f"Ray's object store of node {node} is full ({_line(error)}): start Ray there with a "
            "larger --object-store-memory or a spilling folder with room, or name a folder that "
            "all nodes see (--executor-option store=URL)"
        )
    if isinstance(error, kinds.RayTaskError):
        cause = getattr(error, "cause", None) or error
        return CellFailed(f"node {node}: {_line(cause)}")
    return error


def _line(error: BaseException) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:400]}" if text else type(error).__name__


@hookimpl
def register_executors(register: Callable[[Executor], None]) -> None:
    """The executor `ray`."""
    register(Ray())
