"""The process that polls: ``python -m peprof.meters.process``, told what to do in one argument of JSON.

It writes each reading to a file as a line, and stops when its standard input ends: when it is asked to, and
also when whoever started it is gone. What it wrote stays readable if it is killed.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from importlib import import_module
from pathlib import Path
from typing import Any

from peprof.meters.polling import poll
from peprof.meters.reading import Reading, Source

READY = "ready"
"""The line that says that a window may begin."""


def open_source(told: dict[str, Any]) -> Source:
    """The source that is described: a ``kind``, with ``uuid``, ``pid``, ``library``, or with ``root``."""
    if told["kind"] == "nvml":
        from peprof.meters.nvml_source import NvmlSource

        return NvmlSource(told["uuid"], told["pid"], library=import_module(told["library"]))
    from peprof.meters.rapl import RaplSource

    return RaplSource(Path(told["root"]))


def main() -> None:
    """Polls until standard input ends."""
    # An interrupt from the keyboard reaches all processes: this one ends when its starter has.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    told = json.loads(sys.argv[1])
    stop = threading.Event()

    def wait_for_end() -> None:
        sys.stdin.read()
        stop.set()

    threading.Thread(target=wait_for_end, daemon=True).start()
    source = open_source(told["source"])
    with Path(told["file"]).open("w", encoding="utf-8", buffering=1) as lines:

        def take(reading: Reading) -> None:
            lines.write(reading.as_line() + "\n")

        try:
            poll(
                source,
                take,
                stop.wait,
                lambda: print(READY, file=lines),
                period_s=told["period_s"],
                everything_s=told["everything_s"],
            )
        finally:
            source.close()


if __name__ == "__main__":
    main()
