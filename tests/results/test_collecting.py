import gc

import pytest

from peprof.results.collecting import without_collecting
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
