"""Writes a run's curves, figures and hyper-parameters for TensorBoard.

With TensorBoard's own records and without a writer of TensorBoard's or torch's: those write from a thread of
their own, which would go on into the next steps, and these are timed. Here all is written when a call
returns. They also name files by the second, and a log of two attempts is read in the order of names.

No run describes the experiment: TensorBoard would take one run's description, and with it the options of one
method, for all. Without any it gathers the options of all runs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.summary.writer.record_writer import RecordWriter

from peprof.results.store import TENSORBOARD_DIRECTORY
from peprof.tracking.base import Hyperparameter, TrackedRun


class TensorBoard:
    """A log in ``tensorboard/`` beside the record; numbers in it have the precision of float32.

    A run that begins finds no log of an earlier attempt. One that goes on from a checkpoint writes another
    file beside the first, and says in it that what was written of later steps doesn't count.

    Args:
        run: to be followed.
    """

    def __init__(self, run: TrackedRun) -> None:
        directory = run.directory / TENSORBOARD_DIRECTORY
        directory.mkdir(parents=True, exist_ok=True)
        number = sum(1 for _ in directory.iterdir())
        self._file = (directory / f"events.out.tfevents.{number:06}").open("xb")
        self._writer = RecordWriter(self._file)
        self._last_step = run.resumed_step
        self._add(Event(file_version="brain.Event:2"))
        # A start takes back all steps from its own on, save for the first start in a log.
        restart = run.resumed_step + 1 if run.resumed_step else 0
        self._add(Event(step=restart, session_log=SessionLog(status=SessionLog.START)))
        start = SessionStartInfo(start_time_secs=time.time())
        for name, value in run.hyperparameters.items():
            _set(start, name, value)
        self._add_session(metadata.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=start))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes figures of one step."""
        self._last_step = step
        summary = Summary()
        for name, value in values.items():
            summary.value.add(tag=name, simple_value=value)
        self._add(Event(step=step, summary=summary))

    def finish(self, status: str, metrics: Mapping[str, float]) -> None:
        """Writes the metrics of the hyper-parameters tab.

        A run that failed is left without an end: it may go on, and TensorBoard takes the first end it sees.
        """
        self.scalars(self._last_step, metrics)
        if status != "failed":
            outcome = api_pb2.STATUS_SUCCESS if status == "ok" else api_pb2.STATUS_FAILURE
            end = SessionEndInfo(status=outcome, end_time_secs=time.time())
            self._add_session(metadata.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=end))
        self._file.close()

    def _add_session(self, tag: str, content: HParamsPluginData) -> None:
        summary = Summary()
        summary.value.add(
            tag=tag, metadata=metadata.create_summary_metadata(content), tensor=metadata.NULL_TENSOR
        )
        self._add(Event(summary=summary))

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        self._writer.write(event.SerializeToString())
        self._writer.flush()


def _set(start: SessionStartInfo, name: str, value: Hyperparameter) -> None:
    if isinstance(value, bool):  # before numbers, since it is one in Python
        start.hparams[name].bool_value = value
    elif isinstance(value, str):
        start.hparams[name].string_value = value
    else:
        start.hparams[name].number_value = value
