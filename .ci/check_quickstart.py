"""Checks the quickstart: every method a complete row, and methods that learn more than a head does."""

from __future__ import annotations

import sys
from pathlib import Path

from peprof.results.record import RunRecord
from peprof.results.store import ResultStore

METHODS = {"full", "lora", "ia3", "bitfit", "lst", "last_layers", "head"}
CLEARLY_ABOVE_HEAD = {"full": 0.05, "lora": 0.05, "lst": 0.05}


def accuracy(record: RunRecord) -> float:
    assert record.full is not None
    last = record.full.evaluations[-1]
    return last.correct / last.total


def main(directory: Path) -> None:
    records = {record.spec.method.label: record for record in ResultStore(directory).records()}
    assert set(records) == METHODS, f"methods: {sorted(records)}"
    for label, record in records.items():
        assert record.status == "ok", f"{label}: {record.failure}"
        assert record.short is not None and record.short.times is not None and record.short.memory is not None
        memory = record.short.memory
        assert memory.peak_allocated_bytes > memory.start_bytes > 0
        assert len(record.short.times.step_s) >= 3 and min(record.short.times.step_s) > 0
        assert record.full is not None and record.full.train_time_s > 0 and record.full.checkpoint_bytes > 0
        assert record.data is not None and record.data.synthetic, "the embedded data must be called synthetic"
    for label, margin in CLEARLY_ABOVE_HEAD.items():
        gain = accuracy(records[label]) - accuracy(records["head"])
        assert gain >= margin, f"{label} is only {gain:+.3f} above head; at least {margin:+.3f} is expected"
    assert peak(records["lst"]) < peak(records["full"]), "LST must save memory"
    assert peak(records["head"]) < peak(records["lora"]) < peak(records["full"])
    print("quickstart: " + ", ".join(f"{label} {accuracy(r):.1%}" for label, r in sorted(records.items())))


def peak(record: RunRecord) -> int:
    assert record.short is not None and record.short.memory is not None
    return record.short.memory.peak_allocated_bytes


if __name__ == "__main__":
    main(Path(sys.argv[1]))
