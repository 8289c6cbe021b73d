"""A run as event files that TensorBoard shows; TensorFlow is not needed."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedcore.console import Json
from fedsim.records import Result, RoundRecord, RunRecord
from fedsim.trackers.tracker import required, scalars_of

__all__ = ["TensorBoardTracker"]


class TensorBoardTracker:
    """Writes an event file into `folder`, which `tensorboard --logdir` is given.

    Of a run that goes on, TensorBoard itself drops what older files tell of the rounds to come.
    Raises: InstallError without the package.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None
        self._files = _module("summary.writer.event_file_writer")
        self._event = _module("compat.proto.event_pb2")
        self._summary = _module("compat.proto.summary_pb2")
        self._tensor = _module("compat.proto.tensor_pb2")
        self._shape = _module("compat.proto.tensor_shape_pb2")
        self._types = _module("compat.proto.types_pb2")

    def start(self, run: RunRecord, *, config: Mapping[str, Json], first_round: int = 0) -> None:
        """Raises: OSError if the folder cannot be written."""
        self._writer = self._files.EventFileWriter(str(self._folder))
        log = self._event.SessionLog(status=self._event.SessionLog.START)
        self._add(first_round, session_log=log)
        settings = json.dumps(dict(config), indent=1)
        # An indented block, so that nothing in it is taken for Markdown.
        text = "\n".join(f"    {line}" for line in [run.mode.words, *settings.splitlines()])
        self._add(first_round, summary=self._summary.Summary(value=[self._text("settings", text)]))

    def round(self, record: RoundRecord) -> None:
        """Raises: OSError if the file cannot be written."""
        values = [
            self._summary.Summary.Value(tag=name, simple_value=value)
            for name, value in scalars_of(record).items()
        ]
        self._add(record.round, summary=self._summary.Summary(value=values))
        self._writer.flush()

    def end(self, result: Result | None) -> None:
        """Raises: OSError if the file cannot be written."""
        self._writer.close()

    def _add(self, step: int, **what: Any) -> None:
        self._writer.add_event(self._event.Event(wall_time=time.time(), step=step, **what))

    def _text(self, name: str, text: str) -> Any:
        dimension = self._shape.TensorShapeProto.Dim(size=1)
        plugin = self._summary.SummaryMetadata.PluginData(plugin_name="text")
        return self._summary.Summary.Value(
            tag=name,
            metadata=self._summary.SummaryMetadata(plugin_data=plugin),
            tensor=self._tensor.TensorProto(
                dtype=self._types.DT_STRING,
                tensor_shape=self._shape.TensorShapeProto(dim=[dimension]),
                string_val=[text.encode()],
            ),
        )


def _module(name: str) -> Any:
    return required(f"tensorboard.{name}", tracker="tensorboard", package="tensorboard")
