"""Checks that the wheel holds both packages, the shipped suites and the entry points."""

from __future__ import annotations

import sys
import zipfile

WANTED = (
    "peprof/py.typed",
    "peprof/testing/plugin.py",
    "peprof/cli/run.py",
    "peprof_methods/lora.py",
    "peprof_methods/py.typed",
    "peprof/shipped_suites/quickstart.toml",
    "peprof/shipped_suites/sst2.toml",
)


def main(path: str) -> None:
    with zipfile.ZipFile(path) as wheel:
        names = set(wheel.namelist())
        entries = next(name for name in names if name.endswith("entry_points.txt"))
        text = wheel.read(entries).decode()
    missing = [name for name in WANTED if name not in names]
    assert not missing, f"not in the wheel: {missing}"
    strays = [name for name in names if name.split("/")[0] in ("tests", "benchmarks", "methods", "suites")]
    assert not strays, f"should not be in the wheel: {strays}"
    assert "[peprof.methods]" in text and "lora = peprof_methods.lora:LoRA" in text
    assert "[pytest11]" in text and "peprof = peprof.testing.plugin" in text
    print(f"wheel: {len(names)} files")


if __name__ == "__main__":
    main(sys.argv[1])
