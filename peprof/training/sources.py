"""Is it here, in the cache, or can the hub give it? Answered within seconds, before anything is loaded."""

from __future__ import annotations

import os
import queue
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Literal

import huggingface_hub
from huggingface_hub import constants

from peprof.errors import Fault
from peprof.suite.schema import DataConfig, ModelConfig
from peprof.training.geometries import geometry_name, near_geometry

EMBEDDED_MODEL = "peprof/tiny"
EMBEDDED_DATA = "peprof/reviews"
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",  # large models come in parts, with an index
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
PROBE_SECONDS = 6.0
"""How long the hub may take to answer, name look-up included."""

Answer = Literal["found", "missing", "refused", "unreachable"]


def go_offline() -> None:
    """Makes the hub's libraries use their caches alone, at once instead of after minutes of retries."""
    import datasets

    os.environ["HF_HUB_OFFLINE"] = "1"
    constants.HF_HUB_OFFLINE = True
    datasets.config.HF_HUB_OFFLINE = True


def ask_hub(kind: Literal["models", "datasets"], name: str) -> Answer:
    """Asks the hub whether it has a repository.

    Returns:
        ``found``, ``missing`` (there is no such name), ``refused`` (private or gated: a token is needed), or
        ``unreachable`` (no network, no answer in time, or the environment says offline).
    """
    if constants.HF_HUB_OFFLINE:
        return "unreachable"
    # Only what the hub needs: the library's own headers ask the network about the program that calls it.
    token = huggingface_hub.get_token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"{constants.ENDPOINT}/api/{kind}/{name}", headers=headers)
    answers: queue.Queue[Answer] = queue.Queue()

    def ask() -> None:
        try:
            with urllib.request.urlopen(request, timeout=PROBE_SECONDS):
                answers.put("found")
        except urllib.error.HTTPError as error:
            if error.code == 404:
                answers.put("missing")
            else:
                answers.put("refused" if error.code in (401, 403) else "unreachable")
        except (urllib.error.URLError, OSError, ValueError):
            answers.put("unreachable")

    # Looking up the hub's name is not bound by the timeout above, so the whole question is asked aside, in a
    # thread that nobody waits for.
    threading.Thread(target=ask, name="peprof-hub", daemon=True).start()
    try:
        return answers.get(timeout=PROBE_SECONDS)
    except queue.Empty:
        return "unreachable"


def model_needs_hub(config: ModelConfig) -> bool:
    """Whether a model can only come from the hub, and isn't cached."""
    if config.name == EMBEDDED_MODEL or Path(config.name).is_dir():
        return False
    if config.weights == "random" and geometry_name(config.name) is not None:
        return False
    revision = config.revision or "main"
    if not _cached(config.name, "config.json", revision=revision):
        return True
    return config.weights == "pretrained" and not any(
        _cached(config.name, name, revision=revision) for name in WEIGHT_FILES
    )


def _cached(repository: str, filename: str, *, revision: str) -> bool:
    try:
        found = huggingface_hub.try_to_load_from_cache(repository, filename, revision=revision)
    except huggingface_hub.errors.HFValidationError:
        return False
    return isinstance(found, str)


def data_needs_hub(config: DataConfig) -> bool:
    """Whether data can only come from the hub, and isn't cached."""
    if config.path is not None or config.name == EMBEDDED_DATA:
        return False
    assert config.name is not None  # the schema wants one of the two
    import datasets

    # The library keeps prepared data under the name with its slashes replaced, in a folder a configuration.
    prepared = Path(datasets.config.HF_DATASETS_CACHE) / config.name.replace("/", "___").lower()
    if config.subset is not None:
        prepared /= config.subset
    return not any(prepared.glob("**/*.arrow"))


def check_sources(
    model: ModelConfig, data: DataConfig, answers: dict[tuple[str, str], Answer]
) -> tuple[list[Fault], list[str]]:
    """Checks where a run's model and data come from.

    Args:
        model: the backbone.
        data: the data.
        answers: the hub's answers so far, by (kind, name); filled here, so that it is asked once.

    Returns:
        Faults that the suite's author must mend, and the names that can't be reached.
    """
    faults: list[Fault] = []
    unreachable: list[str] = []
    wanted: list[tuple[Literal["models", "datasets"], str]] = []
    if model_needs_hub(model):
        wanted.append(("models", model.name))
    if data_needs_hub(data) and data.name is not None:
        wanted.append(("datasets", data.name))
    for kind, name in wanted:
        if kind == "models" and _is_path(name):
            faults.append(
                Fault(key="model.name", problem=f"there is no directory '{name}'", expected="a saved model")
            )
            continue
        if (kind, name) not in answers:
            gone = "unreachable" in answers.values()  # one failure is enough: don't wait twice
            answers[kind, name] = "unreachable" if gone else ask_hub(kind, name)
        answer = answers[kind, name]
        key = "model.name" if kind == "models" else "data.name"
        if answer == "unreachable":
            unreachable.append(name)
        elif answer != "found":
            faults.append(_fault(key, name, answer))
    return faults, unreachable


def _is_path(name: str) -> bool:
    """A hub id is ``name`` or ``owner/name``; anything with more to it was meant as a directory."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name


def _fault(key: str, name: str, answer: Answer) -> Fault:
    if answer == "refused":
        return Fault(
            key=key,
            problem=f"the hub refuses access to '{name}'",
            expected="a public name, or a token that may read it (run 'hf auth login')",
        )
    expected = "a hub id, a local directory, or "
    expected += EMBEDDED_MODEL if key == "model.name" else f"{EMBEDDED_DATA} (or data.path)"
    return Fault(
        key=key,
        problem=f"there is no '{name}' on the hub, and no such directory here",
        expected=expected,
        suggestion=near_geometry(name) if key == "model.name" else None,
    )
