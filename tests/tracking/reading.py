"""What TensorBoard itself reads in a log directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams.backend_context import Context
from tensorboard.plugins.hparams.list_session_groups import Handler


def curves(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """Step and value of all points of each scalar."""
    reader = EventAccumulator(str(directory), size_guidance={"scalars": 0})
    reader.Reload()
    return {
        tag: [(event.step, event.value) for event in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]
    }


def session_groups(logdir: Path) -> tuple[list[str], list[Any]]:
    """The hyper-parameters tab: names of its first metrics' columns, and its rows."""
    multiplexer = EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(logdir))
    multiplexer.Reload()
    context = Context(TBContext(data_provider=MultiplexerDataProvider(multiplexer, str(logdir))))
    request = RequestContext()
    experiment = context.experiment_from_metadata(
        request,
        "",
        True,
        context.hparams_metadata(request, ""),
        context.hparams_from_data_provider(request, "", limit=0),
    )
    metrics = [info.name.tag for info in experiment.metric_infos]
    wanted = api_pb2.ListSessionGroupsRequest(
        start_index=0,
        slice_size=1000,
        col_params=[{"metric": info.name} for info in experiment.metric_infos],
    )
    wanted.allowed_statuses.extend(
        [api_pb2.STATUS_UNKNOWN, api_pb2.STATUS_SUCCESS, api_pb2.STATUS_FAILURE, api_pb2.STATUS_RUNNING]
    )
    return metrics, list(Handler(request, context, "", wanted).run().session_groups)


def plain(group: Any) -> tuple[dict[str, Any], dict[str, float], int]:
    """A row: hyper-parameters, metrics, status."""
    (session,) = group.sessions
    hyperparameters = {
        name: getattr(value, str(value.WhichOneof("kind"))) for name, value in group.hparams.items()
    }
    return hyperparameters, {one.name.tag: one.value for one in session.metric_values}, session.status
