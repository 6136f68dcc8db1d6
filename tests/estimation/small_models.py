"""Small models of each architecture as directories of a configuration alone, and runs over them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from transformers import BertConfig, DistilBertConfig, LlamaConfig, PretrainedConfig, RobertaConfig, T5Config

from peprof.suite.catalogue import known_methods
from peprof.suite.planning import RunSpec, plan
from peprof.suite.schema import Suite

_BERT: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "max_position_embeddings": 40,
}
CONFIGS: dict[str, PretrainedConfig] = {
    "distilbert": DistilBertConfig(
        vocab_size=300, dim=32, hidden_dim=64, n_heads=4, n_layers=2, max_position_embeddings=40
    ),
    "bert": BertConfig(**_BERT),
    "roberta": RobertaConfig(**_BERT, pad_token_id=1, bos_token_id=0, eos_token_id=2),
    "t5": T5Config(
        vocab_size=300, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
        pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
    ),
    "llama": LlamaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0, bos_token_id=2, eos_token_id=1,
    ),
}  # fmt: skip
CONFIGS["llama-lm"] = CONFIGS["llama"]
TASKS: dict[str, dict[str, Any]] = {
    "t5": {"task": "text-to-text", "prefix": "mood: ", "verbalizers": ("bad", "good")},
    "llama-lm": {"task": "language-modelling"},
}
ARCHITECTURES = tuple(CONFIGS)
OPTIONS: dict[str, dict[str, Any]] = {
    "lst": {"reduction": 4, "side_heads": 2},
    "prompt_tuning": {"tokens": 4},
}
"""Where the defaults are meant for larger models."""
known_once = functools.cache(known_methods)
METHODS = [name for name, entry in known_once().items() if entry.distribution == "peprof"]


def write_configs(directory: Path) -> Path:
    """A directory a model, with its ``config.json`` and nothing else."""
    for name, config in CONFIGS.items():
        config.save_pretrained(directory / name)
    return directory


def spec_of(models: Path, architecture: str, method: str, **changes: Any) -> RunSpec:
    """A run of the short phase alone.

    Args:
        models: as ``write_configs`` made it.
        architecture: of ``ARCHITECTURES``.
        method: by name.
        changes: ``section__key=value``.
    """
    options, faults = known_once()[method].check(OPTIONS.get(method, {}), prefix="")
    assert not faults
    tables: dict[str, dict[str, Any]] = {
        "model": {"name": str(models / architecture), "weights": "random"},
        "data": {
            "name": "peprof/reviews", "max_length": 24, "train_rows": 32, "validation_rows": 8,
            **TASKS.get(architecture, {}),
        },
        "train": {"batch_size": 4, "epochs": 1},
        "short": {"warmup_steps": 1, "steps": 3, "energy_seconds": None},
        "method": {"name": method, "label": method.replace(":", "-"), "options": options},
    }  # fmt: skip
    for key, value in changes.items():
        section, _, name = key.partition("__")
        tables[section][name] = value
    suite = Suite.model_validate(
        {"name": "t", "phases": ("short",), "methods": (tables.pop("method"),), **tables}
    )
    return plan(suite, device="cpu")[0]
