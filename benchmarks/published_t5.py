"""Peaks of the methods of ``suites/lst-table1.toml`` as shares of full fine-tuning, beside the published.

    python benchmarks/published_t5.py --output FILE.json

T5-base, batch 100, 128 tokens, float32 (Sung, Cho, Bansal 2022, arXiv:2206.06522, table 1): full 17.6 GB,
adapters 13.0, LoRA 12.6, BitFit 10.7, prompt tuning 22.2, LST 5.5. Nothing is trained here: steps run on
``meta`` tensors under the conditions of ``published_shares.py``; the target is a word and ``</s>``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForSeq2SeqLM

from benchmarks.published_shares import CONDITIONS, Condition, profile_under
from peprof.breakdown.values import StepProfile
from peprof.running.methods import make_method
from peprof.suite.loading import load_suite
from peprof.suite.schema import MethodConfig
from peprof.training.geometries import known_config

SUITE = Path(__file__).parents[1] / "suites" / "lst-table1.toml"
BATCH, LENGTH, TARGETS = 100, 128, 2
PUBLISHED_GB = {
    "full": 17.6,
    "adapters": 13.0,
    "lora": 12.6,
    "bitfit": 10.7,
    "prompt_tuning": 22.2,
    "lst": 5.5,
}


def methods() -> dict[str, MethodConfig]:
    """Those of the suite, by label."""
    return {method.label: method for method in load_suite(SUITE).suite.methods}


def profile(config: MethodConfig, condition: Condition) -> StepProfile:
    """The memory of one training step of T5-base."""
    with torch.device("meta"):
        geometry = known_config("t5-base", attn_implementation=condition.attention, use_cache=False)
        model = make_method(config).apply(AutoModelForSeq2SeqLM.from_config(geometry)).train()
        ids = torch.ones(BATCH, LENGTH, dtype=torch.long)
        labels = torch.ones(BATCH, TARGETS, dtype=torch.long)
        batch = {"input_ids": ids, "attention_mask": ids.clone(), "labels": labels}
    return profile_under(condition, model, batch)


def published_share(label: str) -> float:
    """In percent of full fine-tuning."""
    return 100 * PUBLISHED_GB[label] / PUBLISHED_GB["full"]


def main() -> None:
    """Measures all methods under all conditions."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="JSON file to be written")
    output: Path = parser.parse_args().output
    found: list[dict[str, Any]] = []
    names = [condition.name for condition in CONDITIONS]
    print("| method | published | " + " | ".join(names) + " |")
    print("| --- |" + " ---: |" * (len(names) + 1))
    full_bytes: dict[str, int] = {}
    for label, config in methods().items():
        cells = []
        for condition in CONDITIONS:
            profiled = profile(config, condition)
            full = full_bytes.setdefault(condition.name, profiled.peak_bytes)
            share = 100 * profiled.peak_bytes / full
            cells.append(f"{share:.1f} ({profiled.peak_bytes / 2**30:.2f} GiB)")
            found.append(
                {
                    "method": label,
                    "condition": condition.name,
                    "peak_bytes": profiled.peak_bytes,
                    "peak_phase": profiled.peak.phase,
                    "saved_bytes": profiled.activations.total_bytes,
                    "share_percent": share,
                    "published_share_percent": published_share(label),
                    "categories": dict(profiled.peak.categories),
                }
            )
        print(f"| {label} | {published_share(label):.0f} | " + " | ".join(cells) + " |", flush=True)
    written = {
        "model": "t5-base on meta, float32",
        "batch_size": BATCH,
        "length": LENGTH,
        "target_length": TARGETS,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "published_gb": PUBLISHED_GB,
        "results": found,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
