import gc
import subprocess
import sys
import weakref

import pytest

from peprof.results.collecting import keep_to_the_end, without_collecting
from peprof.results.store import ResultStore
from tests.results.factory import make_record


@pytest.fixture(autouse=True)
def _as_it_was():
    was_on = gc.isenabled()
    yield
    (gc.enable if was_on else gc.disable)()


@pytest.mark.parametrize("was_on", [True, False])
def test_the_collector_is_left_as_it_was_found(was_on, tmp_path):
    (gc.enable if was_on else gc.disable)()
    with without_collecting():
        assert not gc.isenabled()
        with without_collecting():
            pass
        assert not gc.isenabled()
    assert gc.isenabled() is was_on
    with pytest.raises(RuntimeError), without_collecting():
        raise RuntimeError
    assert gc.isenabled() is was_on
    ResultStore(tmp_path).write(make_record("lora"))
    assert len(ResultStore(tmp_path).scan().records) == 1 and gc.isenabled() is was_on


def test_what_changed_since_is_read_anew(tmp_path):
    """Nothing is kept beside the records that could be out of date."""
    store = ResultStore(tmp_path)
    store.write(make_record("lora", warnings=("first",)))
    assert [record.warnings for record in store.scan().records] == [("first",)]
    store.write(make_record("lora", warnings=("second",)))
    store.write(make_record("full"))
    assert sorted(record.warnings for record in store.scan().records) == [(), ("second",)]


ENDS = """
import gc, weakref
from peprof.results.collecting import keep_to_the_end, last_of_the_process

class Large:
    def __del__(self):
        print("freed one by one")

with last_of_the_process():
    large = Large()
    {keep}
    del large
    print("left the function")
gc.collect()
print("done")
"""


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        ("pass", ["freed one by one", "left the function", "done"]),
        ("keep_to_the_end(large)", ["left the function", "done"]),
    ],
)
def test_what_is_kept_is_freed_by_the_end_of_the_process_alone(keep, said):
    told = subprocess.run(
        [sys.executable, "-c", ENDS.format(keep=keep)], capture_output=True, text=True, check=True
    )
    assert told.stdout.splitlines() == said and told.stderr == ""


def test_nothing_is_kept_in_a_process_that_goes_on():
    class Large:
        pass

    large = Large()
    gone = weakref.ref(large)
    keep_to_the_end(large)
    del large
    assert gone() is None
