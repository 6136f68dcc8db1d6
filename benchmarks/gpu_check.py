"""All that needs a GPU, in one go: tests marked ``gpu``, measurements, peaks against the pool's own counters,
a step's time against other libraries' clocks, and its joules against power over time.

    python benchmarks/gpu_check.py --output DIRECTORY

Writes one JSON file, a memory snapshot for PyTorch's viewer, and what the sampler of energy saw
(``nvml-session.jsonl``, which in tests/meters/sessions is replayed by tests). Needs no network: weights are
random, data is generated. Ends with exit code 1 if anything failed; what was measured until then is written
all the same.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]

# Name, model, batch, length, dtype: the geometries whose figures are worth keeping.
CASES = (
    ("distilbert-32x64", "distilbert/distilbert-base-uncased", 32, 64, "float32"),
    ("roberta-large-16x128", "FacebookAI/roberta-large", 16, 128, "float32"),
    ("roberta-large-16x128-bf16", "FacebookAI/roberta-large", 16, 128, "bfloat16"),
)


def run_tests() -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", "tests"],
        capture_output=True, text=True, cwd=ROOT, timeout=500, check=False,
    )  # fmt: skip
    return {"exit_code": done.returncode, "output": (done.stdout + done.stderr)[-4000:]}


def measure(case: tuple[str, str, int, int, str], results: Path) -> dict[str, Any]:
    name, model, batch_size, max_length, dtype = case
    settings = {
        "model.name": model,
        "model.weights": "random",
        "model.dtype": dtype,
        "data.name": "peprof/reviews",
        "data.max_length": max_length,
        "train.batch_size": batch_size,
        "train.seeds": "[0]",
    }
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    done = subprocess.run(
        [sys.executable, "-m", "peprof", "run", "suites/sst2.toml", *sets, "--phase", "short",
         "--device", "cuda", "--results", str(results / name), "--json"],
        capture_output=True, text=True, cwd=ROOT, timeout=500, check=False,
    )  # fmt: skip
    found: dict[str, Any] = {"exit_code": done.returncode, "settings": settings}
    if done.returncode == 0:
        found["leaderboards"] = json.loads(done.stdout)["leaderboards"]
    else:
        found["error"] = done.stderr[-4000:]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    output: Path = parser.parse_args().output
    if not torch.cuda.is_available():
        print("there is no CUDA device here: nothing was measured", file=sys.stderr)
        return 1
    sys.path.insert(0, str(ROOT))
    # Imports that take seconds, after the answer to whoever has no GPU.
    import transformers

    from benchmarks.gpu_clocks import compare_clocks, compare_energy, roberta_step
    from benchmarks.gpu_pools import SETTINGS, check_methods, profile_method
    from peprof.devices import open_device

    output.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(0),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "tests": run_tests(),
        "clocks": {},
        "energy": {},
        "pools": {},
        "measurements": {},
    }
    device = open_device("cuda:0")
    step, batch = roberta_step(device.torch_device)
    try:
        report["clocks"] = compare_clocks(step, batch, device)
    except (ImportError, RuntimeError) as error:  # triton's, maybe: the rest is worth having
        report["clocks"] = {"error": f"{type(error).__name__}: {error}", "equal": False}
    report["energy"] = compare_energy(step, batch, device, session=output / "nvml-session.jsonl")
    del step, batch
    report["pools"] = check_methods(torch.device("cuda", 0))
    profile_method(
        "lora", torch.device("cuda", 0), SETTINGS[0], snapshot_file=output / "lora-snapshot.pickle"
    )
    (output / "gpu_check.json").write_text(json.dumps(report, indent=1))
    for case in CASES:
        report["measurements"][case[0]] = measure(case, output / "records")
        (output / "gpu_check.json").write_text(json.dumps(report, indent=1))
    unequal = [
        f"{name} ({setting})"
        for name, settings in report["pools"].items()
        for setting, found in settings.items()
        if not found.get("equal", True)
    ]
    print(f"peaks that aren't explained to the byte: {', '.join(unequal) or 'none'}")
    clocks, energy = report["clocks"], report["energy"]
    beside = clocks.get("peprof_differs_by") or clocks["error"]
    print(f"peprof's seconds of a step beside those of others: {beside}")
    told = energy.get("integrated_to_counted") or energy["why_unavailable"]
    print(f"joules by power over time by those of the counter: {told}")
    codes = [report["tests"]["exit_code"], *(m["exit_code"] for m in report["measurements"].values())]
    print(f"exit codes: {codes}; written to {output / 'gpu_check.json'}")
    return int(any(codes) or bool(unequal) or not clocks["equal"])


if __name__ == "__main__":
    sys.exit(main())
