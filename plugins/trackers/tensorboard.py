"""TensorBoard: event files, written without torch or TensorFlow."""

from collections.abc import Callable, Mapping
from pathlib import Path

from harness import Tracker, hookimpl


class TensorBoard(Tracker):
    """A folder of event files for each cell, with its settings for the HParams tab."""

    name, needs, install = "tensorboard", "tensorboard", "finetune-harness[tensorboard]"
    _writer = None

    def open(self, experiment: str, folder: Path) -> None:
        """All cells of an experiment lie side by side."""
        self.folder = folder / self.name

    def start(self, cell: str, settings: Mapping[str, str | int | float | bool]) -> None:
        """Open the cell's event file and write its settings."""
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._end()
        self._writer = EventFileWriter(str(self.folder / cell))
        self._add(hparams_pb(dict(settings), trial_id=cell), 0)

    def log(self, cell: str, step: int, values: Mapping[str, float]) -> None:
        """One scalar for each value."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._add(Summary(value=scalars), step)

    def finish(self, cell: str, status: str, values: Mapping[str, float]) -> None:
        """The final figures at step 0, and the status as text."""
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.util.tensor_util import make_tensor_proto

        self.log(cell, 0, values)
        text = Summary.Value(tag="status", tensor=make_tensor_proto([status]))
        text.metadata.CopyFrom(SummaryMetadata(plugin_data={"plugin_name": "text"}))
        self._add(Summary(value=[text]), 0)
        self._end()

    def close(self) -> str:
        """The command that shows it."""
        self._end()
        return f"TensorBoard: tensorboard --logdir {self.folder}"

    def _add(self, summary: object, step: int) -> None:
        import time

        from tensorboard.compat.proto.event_pb2 import Event

        assert self._writer is not None
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))
        self._writer.flush()

    def _end(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer = None


@hookimpl
def register_trackers(register: Callable[[Tracker], None]) -> None:
    """The tracker `tensorboard`."""
    register(TensorBoard())
