"""What tables say of a text-to-text task: the answers that were written, and with what it may be compared."""

from __future__ import annotations

import csv
import io
import json

from rich.console import Console

from peprof.reports.export import to_csv, to_json
from peprof.reports.leaderboard import print_leaderboards
from peprof.results.comparison import Leaderboard, leaderboards
from peprof.results.frame import to_frame
from peprof.results.record import Evaluation, RunRecord
from peprof.suite.planning import RunSpec
from peprof.suite.schema import DataConfig
from tests.results.factory import make_full, make_record, make_short, make_spec

WRITTEN = DataConfig(
    name="stanfordnlp/sst2",
    max_length=64,
    task="text-to-text",
    prefix="sst2 sentence: ",
    verbalizers=("negative", "positive"),
)


def spec(label: str, seed: int = 0, data: DataConfig = WRITTEN) -> RunSpec:
    return make_spec(label, seed=seed).model_copy(update={"data": data})


def records() -> list[RunRecord]:
    return [
        make_record(
            spec=spec(label, seed),
            short=make_short(),
            full=make_full(correct=correct, total=1000, exact_matches=exact, invalid=invalid),
        )
        for label, seed, correct, exact, invalid in [
            ("full", 0, 900, 880, 0),
            ("full", 1, 920, 900, 0),
            ("lora", 0, 910, 700, 50),
            ("lora", 1, 910, 800, 0),
        ]
    ]


def shown(boards: list[Leaderboard]) -> str:
    file = io.StringIO()
    print_leaderboards(Console(file=file, width=200), boards)
    return file.getvalue()


def test_the_notes_say_what_was_written() -> None:
    table = " ".join(shown(leaderboards(records())).split())
    assert (
        "Accuracy is by the first token, among the classes' words only. Written greedily, exactly right (%): "
        "full 89.0, lora 75.0; no class's word (%): lora 2.5." in table
    )
    assert 'text-to-text, "sst2 sentence: …" → negative / positive, 4 target tokens' in table


def test_nothing_strange_is_said_to_be_so() -> None:
    table = " ".join(shown(leaderboards(records()[:2])).split())
    assert "exactly right (%): full 89.0; every answer is a class's word." in table


def test_a_classification_says_nothing_of_written_answers() -> None:
    table = shown(leaderboards([make_record("full", short=make_short(), full=make_full())]))
    assert "greedily" not in table and "classification" not in table


def test_exports_hold_both_shares() -> None:
    boards = leaderboards(records())
    rows = json.loads(to_json(boards))["leaderboards"][0]["rows"]
    found = {row["label"]: (row["exact_match"], row["invalid"]) for row in rows}
    assert found == {"full": (0.89, 0.0), "lora": (0.75, 0.025)}
    (lora,) = [row for row in csv.DictReader(io.StringIO(to_csv(boards))) if row["label"] == "lora"]
    assert (lora["exact_match"], lora["invalid"]) == ("0.75", "0.025")
    frame = to_frame(records())
    assert list(frame["exact_match"]) == [0.88, 0.9, 0.7, 0.8]
    assert list(frame["task"].unique()) == ["text-to-text"]


def test_tasks_prefixes_and_words_are_not_compared() -> None:
    others = [
        WRITTEN.model_copy(update={"prefix": "review: "}),
        WRITTEN.model_copy(update={"verbalizers": ("bad", "good")}),
        DataConfig(name="stanfordnlp/sst2", max_length=64),
    ]
    for other in others:
        boards = leaderboards(
            make_record(spec=spec("full", data=data), short=make_short()) for data in (WRITTEN, other)
        )
        assert len(boards) == 2
        assert [difference.condition for difference in boards[1].differences] == ["task"]


def test_evaluations_from_before_have_none() -> None:
    old = {"step": 1, "train_time_s": 1.0, "correct": 1, "total": 2, "loss": 0.5, "time_s": 1.0}
    assert Evaluation.model_validate(old).exact_matches is None
