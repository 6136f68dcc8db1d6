"""All that needs a GPU, in parts: peaks against the pool's own counters, a step's time against other
libraries' clocks and its joules against power over time, measurements, tests marked ``gpu``, and what steps
were predicted to need beside what they took.

    python benchmarks/gpu_check.py --output DIRECTORY [--part PART ...] [--seconds 500]

Writes ``gpu_check.json`` anew after each part, a memory snapshot for PyTorch's viewer, what the sampler of
energy saw (``nvml-session.jsonl``, which in tests/meters/sessions is replayed by tests), and the predictions'
table. A part that is given again takes the place of what it had found before; the others stay. Needs no
network: weights are random, data is generated. Ends with exit code 1 if anything failed or didn't come to its
end in time; what was measured until then is written all the same.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
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
LAST_CHARACTERS = 4000


def run_child(arguments: Sequence[str], seconds: float) -> dict[str, Any]:
    """A command of this Python's: how it ended, and the last of what it said, also when it was too slow."""
    try:
        done = subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        said = "".join(
            part.decode(errors="replace") if isinstance(part, bytes) else part or ""
            for part in (late.stdout, late.stderr)
        )
        return {
            "exit_code": None,
            "error": f"not done after {seconds:g} s",
            "output": said[-LAST_CHARACTERS:],
        }
    return {
        "exit_code": done.returncode,
        "output": (done.stdout + done.stderr)[-LAST_CHARACTERS:],
        "stdout": done.stdout,
    }


def check_tests(output: Path, seconds: float) -> dict[str, Any]:
    """The tests marked ``gpu``."""
    found = run_child(["-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", "tests"], seconds)
    return {**without_stdout(found), "passed": found["exit_code"] == 0}


def check_measurements(output: Path, seconds: float) -> dict[str, Any]:
    """The methods of suites/sst2.toml on each of ``CASES``."""
    found = {case[0]: measure(case, output / "records", seconds / len(CASES)) for case in CASES}
    return {**found, "passed": all(one["exit_code"] == 0 for one in found.values())}


def measure(case: tuple[str, str, int, int, str], results: Path, seconds: float) -> dict[str, Any]:
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
    done = run_child(
        ["-m", "peprof", "run", "suites/sst2.toml", *sets, "--phase", "short", "--device", "cuda",
         "--results", str(results / name), "--json"],
        seconds,
    )  # fmt: skip
    if done["exit_code"] != 0:
        return {**without_stdout(done), "settings": settings}
    boards = json.loads(done["stdout"])["leaderboards"]
    return {"exit_code": 0, "settings": settings, "leaderboards": boards}


def check_clocks(output: Path, seconds: float) -> dict[str, Any]:
    """A step's seconds beside those of other libraries' clocks, and its joules beside power over time."""
    from benchmarks.gpu_clocks import compare_clocks, compare_energy, roberta_step
    from peprof.devices import open_device

    device = open_device("cuda:0")
    step, batch = roberta_step(device.torch_device)
    found: dict[str, Any] = {}
    try:
        found["clocks"] = compare_clocks(step, batch, device)
    except (ImportError, RuntimeError) as error:  # triton's, maybe: the rest is worth having
        found["clocks"] = {"error": f"{type(error).__name__}: {error}", "equal": False}
    found["energy"] = compare_energy(step, batch, device, session=output / "nvml-session.jsonl")
    return {**found, "passed": bool(found["clocks"]["equal"])}


def check_pools(output: Path, seconds: float) -> dict[str, Any]:
    """Every method's peaks, explained to the byte by the allocator's history."""
    from benchmarks.gpu_pools import SETTINGS, check_methods, profile_method

    device = torch.device("cuda", 0)
    found = check_methods(device)
    profile_method("lora", device, SETTINGS[0], snapshot_file=output / "lora-snapshot.pickle")
    unequal = [
        f"{name} ({setting})"
        for name, settings in found.items()
        for setting, one in settings.items()
        if not one.get("equal", True)
    ]
    return {"methods": found, "unexplained": unequal, "passed": not unequal}


def check_estimates(output: Path, seconds: float) -> dict[str, Any]:
    """Predicted beside measured, over 80 cases; goes on where it stopped."""
    found = run_child(["-m", "benchmarks.gpu_estimates", "--output", str(output)], seconds)
    return {**without_stdout(found), "passed": found["exit_code"] == 0}


def without_stdout(found: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key != "stdout"}


PARTS: dict[str, Callable[[Path, float], dict[str, Any]]] = {
    "pools": check_pools,
    "clocks": check_clocks,
    "measurements": check_measurements,
    "estimates": check_estimates,
    "tests": check_tests,
}
"""Those first whose figures are worth most for their time. Each gets the directory and its seconds."""


def run_part(name: str, output: Path, seconds: float) -> dict[str, Any]:
    """A part's findings; an error is one."""
    try:
        return PARTS[name](output, seconds)
    except Exception as error:  # noqa: BLE001 -- the other parts are worth having
        return {"error": f"{type(error).__name__}: {error}", "passed": False}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--part", choices=PARTS, action="append", help="only this; may be given again")
    parser.add_argument("--seconds", type=float, default=500, help="that each part may take")
    chosen = parser.parse_args()
    output: Path = chosen.output
    if not torch.cuda.is_available():
        print("there is no CUDA device here: nothing was measured", file=sys.stderr)
        return 1
    sys.path.insert(0, str(ROOT))
    # An import that takes seconds, after the answer to whoever has no GPU.
    import transformers

    output.mkdir(parents=True, exist_ok=True)
    path = output / "gpu_check.json"
    report: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    report |= {
        "device": torch.cuda.get_device_name(0),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
    for name in chosen.part or PARTS:
        report[name] = run_part(name, output, chosen.seconds)
        path.write_text(json.dumps(report, indent=1))
        print(f"{name}: {'passed' if report[name]['passed'] else 'FAILED'}", flush=True)
    print(f"written to {path}")
    return int(not all(report[name]["passed"] for name in chosen.part or PARTS))


if __name__ == "__main__":
    sys.exit(main())
