import errno
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from peprof.errors import StoreError, UsageError
from peprof.results.record import Failure, Predictions
from peprof.results.store import ResultStore, find_stores, load_records
from tests.results.factory import HISTORY, make_full, make_record, make_short


@pytest.fixture
def store(tmp_path):
    return ResultStore(tmp_path / "sst2")


def files(store: ResultStore) -> list[str]:
    return sorted(
        str(path.relative_to(store.directory)) for path in store.directory.rglob("*") if path.is_file()
    )


def test_a_run_is_read_as_it_was_written(store):
    record = make_record(
        "lora", options={"rank": 8}, short=make_short(), full=make_full(), warnings=("noisy",)
    )
    assert not store.finished(record.run_id)
    assert store.read(record.run_id) is None
    assert store.read_history(record.run_id) is None

    store.write(record, history=HISTORY, suite_toml='name = "sst2"\n')

    assert store.finished(record.run_id)
    assert store.read(record.run_id) == record
    assert store.read_history(record.run_id) == HISTORY
    folder = f"runs/{record.run_id}"
    assert files(store) == [f"{folder}/history.json", f"{folder}/record.json", f"{folder}/suite.toml"]
    assert (store.directory / folder / "suite.toml").read_text() == 'name = "sst2"\n'


def test_a_diverged_loss_survives(store):
    full = make_full().model_copy(update={"final_loss": float("nan")})
    record = make_record(
        status="diverged", failure=Failure(phase="full: training", kind="NaN", message="x"), full=full
    )
    store.write(record)
    assert str(store.read(record.run_id).full.final_loss) == "nan"


def test_a_later_attempt_replaces_all_of_an_earlier_one(store):
    first = make_record("lora", full=make_full())
    second = first.model_copy(update={"status": "failed", "full": None, "attempt": 2})
    store.write(first, history=HISTORY)
    store.write(second)
    assert store.read(first.run_id) == second
    assert store.read_history(first.run_id) is None


def test_answers_lie_beside_their_record_and_go_with_it(store):
    record = make_record("lora", full=make_full())
    answers = Predictions(labels=(0.0, 4.5), predictions=(1.25, float("inf")), tokens=(), written=(-1, 1))
    assert store.read_predictions(record.run_id) is None
    store.write(record, predictions=answers)
    assert store.read_predictions(record.run_id) == answers
    folder = f"runs/{record.run_id}"
    assert files(store) == [f"{folder}/predictions.json", f"{folder}/record.json"]
    (store.run_directory(record.run_id) / "predictions.json").write_text('{"labels": [1,')
    with pytest.raises(StoreError, match=r"predictions\.json: is not complete JSON"):
        store.read_predictions(record.run_id)
    store.write(record)
    assert store.read_predictions(record.run_id) is None, "an earlier attempt's answers aren't this one's"


def test_records_are_sorted_and_what_is_unfinished_is_left_out(store):
    assert store.records() == []
    for label in ("lora", "bitfit", "full"):
        store.write(make_record(label))
    store.run_directory("ia3-s0-0123456789").mkdir()
    (store.directory / "runs" / "notes.txt").write_text("mine")
    (store.run_directory(make_record("lora").run_id) / ".record.json.1-ab.tmp").write_text("{")
    assert [record.spec.method.label for record in store.records()] == ["bitfit", "full", "lora"]
    assert store.problems() == []


@pytest.mark.parametrize(
    ("content", "says", "hint"),
    [
        (b"", "record.json: is empty", "Delete this file"),
        (
            b'{"format_version": 1, "run_id": "x',
            "record.json: is not complete JSON (34 bytes)",
            "Delete this file",
        ),
        (b"\xff\xfe", "record.json: is not complete JSON (2 bytes)", "Delete this file"),
        (
            b"[1]",
            "record.json: is not a valid record: the whole file: Input should be an object",
            "Restore the file",
        ),
        (
            b'{"run_id": 7}',
            "record.json: is not a valid record: run_id: Input should be a valid string",
            "Restore",
        ),
        (
            b'{"format_version": 999}',
            "record.json: has format version 999; this peprof reads up to 5",
            "Upgrade peprof",
        ),
    ],
)
def test_a_damaged_record_is_named_and_costs_no_other(store, content, says, hint):
    good, bad = make_record("full"), make_record("lora")
    store.write(good)
    store.write(bad)
    path = store.run_directory(bad.run_id) / "record.json"
    path.write_bytes(content)

    for look in (store.read, store.finished):
        with pytest.raises(StoreError) as caught:
            look(bad.run_id)
        assert str(path) in caught.value.message
        assert says in caught.value.message
        assert caught.value.hint.startswith(hint)
        assert caught.value.exit_code == 5
    assert store.records() == [good]
    assert [str(path) in problem.message for problem in store.problems()] == [True]


def test_every_truncation_of_a_record_is_noticed(store):
    record = make_record("lora")
    store.write(record)
    path = store.run_directory(record.run_id) / "record.json"
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:length])
        with pytest.raises(StoreError, match=r"is empty|is not complete JSON"):
            store.read(record.run_id)


def test_a_valid_record_of_a_newer_format_is_not_read_as_one_of_ours(store):
    record = make_record("lora")
    store.write(record)
    path = store.run_directory(record.run_id) / "record.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 999, "more": 1}))
    with pytest.raises(StoreError, match="has format version 999"):
        store.read(record.run_id)


def test_a_copied_run_is_not_counted_twice(store):
    record = make_record("lora")
    store.write(record)
    store.run_directory(record.run_id).rename(store.directory / "runs" / "backup")
    with pytest.raises(StoreError, match=f"record of another run, '{record.run_id}'"):
        store.read("backup")


def test_a_damaged_history_is_named(store):
    record = make_record("lora")
    store.write(record, history=HISTORY)
    (store.run_directory(record.run_id) / "history.json").write_text('{"loss": [1,')
    with pytest.raises(StoreError, match=r"history\.json: is not complete JSON"):
        store.read_history(record.run_id)
    assert store.read(record.run_id) == record


FAILURES = [
    (errno.ENOSPC, "No space left on device", "The disk is full: free some space"),
    (errno.EACCES, "Permission denied", "Check who may read and write there"),
    (errno.EROFS, "Read-only file system", "This file system is mounted read-only"),
]


@pytest.mark.parametrize(("code", "says", "hint"), FAILURES)
@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_write_that_fails_leaves_what_was_there(store, monkeypatch, call, code, says, hint):
    first = make_record("lora", full=make_full())
    store.write(first, history=HISTORY)
    before = files(store)

    def fail(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    if call == "replace":
        monkeypatch.setattr(Path, "replace", fail)
    monkeypatch.setattr(os, call, fail)
    second = first.model_copy(update={"status": "failed", "attempt": 2})
    with pytest.raises(StoreError) as caught:
        store.write(second, history=HISTORY)
    monkeypatch.undo()

    assert says in caught.value.message
    assert str(store.run_directory(first.run_id)) in caught.value.message
    assert caught.value.hint.startswith(hint)
    assert files(store) == before
    assert store.read(first.run_id) == first
    assert store.read_history(first.run_id) == HISTORY


def test_the_record_is_the_last_file_to_appear(store, monkeypatch):
    record = make_record("lora", full=make_full())
    order = []
    real = Path.replace

    def watched(self, target):
        order.append((target.name, store.finished(record.run_id)))
        return real(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    store.write(record, history=HISTORY, suite_toml="")
    assert order == [("suite.toml", False), ("history.json", False), ("record.json", False)]


def test_a_file_that_can_not_grow_is_reported(store):
    """The write itself fails, not just a patched call: the kernel refuses bytes beyond the limit."""
    first = make_record("lora")
    store.write(first)
    big = make_record("full", warnings=("x" * 50_000,))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(StoreError, match="File too large"):
            store.write(big)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert [path.name for path in store.run_directory(big.run_id).iterdir()] == []
    assert store.records() == [first]


@pytest.fixture
def tiny_disk(tmp_path):
    directory = tmp_path / "disk"
    directory.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", directory], capture_output=True, check=False
    )
    if made.returncode != 0:
        pytest.skip("may not mount a file system here")
    yield directory
    subprocess.run(["umount", directory], check=True)


def test_a_full_disk_costs_no_finished_run(tiny_disk):
    store = ResultStore(tiny_disk)
    written = []
    with pytest.raises(StoreError) as caught:
        for seed in range(100):
            record = make_record("lora", seed=seed, short=make_short())
            store.write(record, history=HISTORY)
            written.append(record)
    assert 1 <= len(written) < 20
    assert "No space left on device" in caught.value.message
    assert caught.value.hint.startswith("The disk is full")
    assert store.records() == written
    assert store.problems() == []
    assert list(tiny_disk.rglob("*.tmp")) == []
    replaced = written[0].model_copy(update={"warnings": ("x" * 60_000,)})
    with pytest.raises(StoreError, match="No space left"):
        store.write(replaced)
    assert store.read(written[0].run_id) == written[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_forbidden_directory_is_reported(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="Permission denied"):
        ResultStore(tmp_path / "sst2").write(make_record())
    tmp_path.chmod(0o700)


def test_a_file_in_the_way_is_reported(tmp_path):
    (tmp_path / "sst2").write_text("")
    with pytest.raises(StoreError, match="Not a directory"):
        ResultStore(tmp_path / "sst2").write(make_record())


def test_a_claim_is_exclusive_and_ends_with_its_block(store):
    with store.claim("a-s0-1") as first, store.claim("a-s0-1") as second, store.claim("b-s0-1") as other:
        assert (first, second, other) == (True, False, True)
    with store.claim("a-s0-1") as again:
        assert again
    with pytest.raises(KeyError), store.claim("a-s0-1"):
        raise KeyError
    with store.claim("a-s0-1") as after_error:
        assert after_error
    assert store.records() == []


CLAIMER = textwrap.dedent("""
    import sys, time
    from pathlib import Path
    from peprof.results.store import ResultStore
    with ResultStore(Path(sys.argv[1])).claim("a-s0-1") as taken:
        print(taken, flush=True)
        time.sleep(60)
""")


def test_a_claim_dies_with_its_process(store):
    with subprocess.Popen(
        [sys.executable, "-c", CLAIMER, store.directory], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout.readline() == "True\n"
        with store.claim("a-s0-1") as taken:
            assert not taken
        child.kill()
        child.wait()
    stray = store.run_directory("a-s0-1") / ".record.json.9-ab.tmp"
    stray.write_text('{"torn')
    with store.claim("a-s0-1") as taken:
        assert taken
        assert not stray.exists()


def test_a_claim_that_can_not_be_made_is_reported(tmp_path):
    (tmp_path / "sst2").write_text("")
    with (
        pytest.raises(StoreError, match="can't claim a run in"),
        ResultStore(tmp_path / "sst2").claim("a-s0-1"),
    ):
        pass


def test_stores_are_found_two_levels_down_and_once_each(tmp_path):
    places = ["sst2", "old/mrpc", "a/b/too-deep", ".hidden"]
    for place in places:
        ResultStore(tmp_path / place).write(make_record())
    expected = [tmp_path / "old" / "mrpc", tmp_path / "sst2"]
    assert [store.directory for store in find_stores(tmp_path)] == expected
    assert [store.directory for store in find_stores(tmp_path / "sst2", tmp_path)] == expected[::-1]
    assert len(load_records(tmp_path).records) == 2
    (tmp_path / "empty").mkdir()
    assert find_stores(tmp_path / "empty") == []


def test_a_missing_directory_is_a_mistake_of_the_user(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        find_stores(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is not a directory"):
        find_stores(tmp_path / "file")
