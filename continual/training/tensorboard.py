"""TensorBoard's view of a run: scalars, texts and score matrices in one event folder per cell.

Written through tensorboard's own record writer, without torch, a queue or a thread.
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR, Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalars
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
from tensorboard.plugins.hparams import metadata as hparams
from tensorboard.summary.writer.record_writer import RecordWriter

from holdfast.continual.training.dashboard import COLUMNS, METRICS, Column, Layout, Value
from holdfast.scenarios.source.regular_file import made_folder

Scalars = Callable[[Mapping[str, float], int], None]
"""Takes numbers by tag, and their step."""

_PREFIX = "events.out.tfevents."


class TensorBoard:
    """Writes event files into a folder.

    After a crash, pass ``purge_step``: everything logged at that step or later is dropped from the
    view, and the run may log it again. A run that continues from a checkpoint at step s passes s +
    1, and has logged and flushed what belongs to s before it wrote that checkpoint.

    Where the files cannot be written, a warning says so once, and the view ends there: the run goes
    on without.

    Args:
        folder: The event folder of one cell; created where missing.
        purge_step: First step that will be logged again; None for a new run.
        beside: Takes every number, too.

    Raises:
        CheckpointUnusable: If the folder, or the one above it, is a link or no folder.
    """

    def __init__(
        self, folder: Path, purge_step: int | None = None, *, beside: Scalars | None = None
    ) -> None:
        self._folder, self._beside = folder, beside
        self._writer: RecordWriter | None = None
        with self._told():
            made_folder(folder, folders=2)
            self._writer = RecordWriter((folder / _next_name(folder)).open("xb"))
        self._write(Event(file_version="brain.Event:2"))
        if purge_step is not None:
            start = SessionLog(status=SessionLog.START)
            self._write(Event(step=purge_step, session_log=start))
        self.flush()

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers by tag; NaN (n/a) is left out, as it is no number to draw."""
        if self._beside is not None:
            self._beside(values, step)
        known = {tag: float(value) for tag, value in values.items() if not math.isnan(value)}
        found = [Summary.Value(tag=tag, simple_value=value) for tag, value in known.items()]
        if found:
            self._write(Event(step=step, summary=Summary(value=found)))

    def text(self, tag: str, markdown: str, step: int = 0) -> None:
        """Log a text, shown as markdown."""
        metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        tensor = TensorProto(dtype=DT_STRING, string_val=[markdown.encode()])
        self._tensor(tag, metadata, tensor, step)

    def session(self, name: str, values: Mapping[str, Value]) -> None:
        """Make the run a row of the hparams table.

        Every run names the same columns, ``COLUMNS`` and ``METRICS``: TensorBoard takes them from
        the first that it reads, and shows no others.

        Args:
            name: What tells the row from all others.
            values: Of ``COLUMNS``; one that is left out is blank.
        """
        experiment = api_pb2.Experiment(hparam_infos=[_column(*one) for one in COLUMNS.items()])
        for tag, title in METRICS.items():
            experiment.metric_infos.add(name=api_pb2.MetricName(tag=tag), display_name=title)
        start = plugin_data_pb2.SessionStartInfo(group_name=name, start_time_secs=time.time())
        for column, value in values.items():
            if isinstance(value, str):
                start.hparams[column].string_value = value
            else:
                start.hparams[column].number_value = value
        self._hparams(hparams.EXPERIMENT_TAG, experiment=experiment)
        self._hparams(hparams.SESSION_START_INFO_TAG, session_start_info=start)

    def session_finished(self, step: int) -> None:
        """Mark the row of the hparams table as a success; once, as the first mark stays."""
        end = plugin_data_pb2.SessionEndInfo(
            status=api_pb2.STATUS_SUCCESS, end_time_secs=time.time()
        )
        self._hparams(hparams.SESSION_END_INFO_TAG, step, session_end_info=end)

    def _hparams(self, tag: str, step: int = 0, **data: Any) -> None:
        content = plugin_data_pb2.HParamsPluginData(**data)
        self._tensor(tag, hparams.create_summary_metadata(content), hparams.NULL_TENSOR, step)

    def layout(self, sections: Layout) -> None:
        """Set the charts of the custom scalars; those of all runs are shown, alike ones once."""
        made = layout_pb2.Layout()
        for section, charts in sections.items():
            category = made.category.add(title=section)
            for title, tags in charts.items():
                lines = layout_pb2.MultilineChartContent(tag=tags)
                category.chart.add(title=title, multiline=lines)
        tensor = TensorProto(dtype=DT_STRING, string_val=[made.SerializeToString()])
        metadata = custom_scalars.create_summary_metadata()
        self._tensor(custom_scalars.CONFIG_SUMMARY_TAG, metadata, tensor)

    def _tensor(
        self, tag: str, metadata: SummaryMetadata, tensor: TensorProto, step: int = 0
    ) -> None:
        metadata.data_class = DATA_CLASS_TENSOR  # the fast reader skips plugins it does not know
        value = Summary.Value(tag=tag, metadata=metadata, tensor=tensor)
        self._write(Event(step=step, summary=Summary(value=[value])))

    def image(self, tag: str, encoded: bytes, width: int, height: int, step: int) -> None:
        """Log a PNG, or a GIF, which TensorBoard plays."""
        image = Summary.Image(
            encoded_image_string=encoded, width=width, height=height, colorspace=4
        )
        self._write(Event(step=step, summary=Summary(value=[Summary.Value(tag=tag, image=image)])))

    def flush(self) -> None:
        """Hand over everything logged so far, so that a killed process loses none of it."""
        if self._writer is not None:
            with self._told():
                self._writer.flush()

    def close(self) -> None:
        """Flush, and close the event file."""
        if self._writer is not None:
            with self._told():
                self._writer.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        if self._writer is not None:
            with self._told():
                self._writer.write(event.SerializeToString())

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Give the view up where it cannot be written."""
        try:
            yield
        except OSError as error:
            writer, self._writer = self._writer, None
            with suppress(OSError):  # what it holds cannot be written either
                if writer is not None:
                    writer.close()
            text = f"TensorBoard's view of this run ends here, as {self._folder} cannot be written"
            warnings.warn(f"{text}: {error}; the run goes on", RuntimeWarning, stacklevel=2)


def _column(name: str, column: Column) -> api_pb2.HParamInfo:
    kind = api_pb2.DATA_TYPE_FLOAT64 if column.known is None else api_pb2.DATA_TYPE_STRING
    info = api_pb2.HParamInfo(
        name=name, description=column.text, type=kind, differs=column.is_first
    )
    if column.known is not None:
        info.domain_discrete.extend(column.known)
    return info


def _next_name(folder: Path) -> str:
    """Return a file name that sorts after those that are there.

    TensorBoard reads event files in the order of their names, which begin with seconds: two runs
    within one second, or a clock set back, would purge the new points instead of the old.
    """
    numbers = [path.name.removeprefix(_PREFIX).split(".")[0] for path in folder.glob(f"{_PREFIX}*")]
    known = [int(n) for n in numbers if n.isdecimal() and len(n) < 12]  # others are not ours
    after = max(known, default=-1) + 1
    return f"{_PREFIX}{max(int(time.time()), after):010d}.holdfast.{os.getpid()}"
