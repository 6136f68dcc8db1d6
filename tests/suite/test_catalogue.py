"""Methods and their options, told without importing them."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from peprof.errors import UsageError
from peprof.suite import catalogue, library
from peprof.suite.catalogue import MethodEntry, known_methods, option_meanings


def offer(monkeypatch: pytest.MonkeyPatch, *points: EntryPoint) -> None:
    monkeypatch.setattr(catalogue, "entry_points", lambda *, group: list(points))


def point(name: str, value: str, distribution: str | None = None) -> EntryPoint:
    made = EntryPoint(name, value, catalogue.GROUP)
    if distribution is not None:
        vars(made).update(dist=SimpleNamespace(name=distribution))
    return made


def read_method(
    folder: Path, monkeypatch: pytest.MonkeyPatch, source: str, class_name: str = "Method"
) -> MethodEntry:
    (folder / "written.py").write_text(source)
    offer(monkeypatch, point("written", f"fakepeft.written:{class_name}"))
    return known_methods()["written"]


@pytest.mark.usefixtures("fake_methods")
def test_a_method_is_read_without_being_imported() -> None:
    # The fake package's modules raise when they are imported, even its __init__.
    lora = known_methods()["lora"]

    assert "fakepeft" not in sys.modules
    assert lora.problem is None
    assert lora.complete
    assert lora.summary == "A low-rank update."
    assert [(o.name, o.annotation, o.default, o.meaning) for o in lora.options] == [
        ("train_head", "bool", True, "whether the head is trained too."),
        ("rank", "int", 8, "of the update."),
        ("alpha", "float", 16.0, "the update is scaled by alpha / rank."),
        ("dropout", "float | None", None, "rates."),
        ("noise", "float", 0.0, "rates."),
        (
            "targets",
            "tuple[Role, ...]",
            ("attention.query", "attention.value"),
            "roles of the layers that are adapted.",
        ),
        ("bias", "bool", False, ""),
        ("init", "torch.Tensor | None", None, ""),
    ]
    assert isinstance(next(o for o in lora.options if o.name == "alpha").default, float)


@pytest.mark.usefixtures("fake_methods")
def test_defaults_are_filled_in_and_kinds_made_equal() -> None:
    lora = known_methods()["lora"]
    by_default, faults = lora.check({}, prefix="m")
    assert faults == []
    assert by_default == {
        "train_head": True,
        "rank": 8,
        "alpha": 16.0,
        "dropout": None,
        "noise": 0.0,
        "targets": ("attention.query", "attention.value"),
        "bias": False,
        "init": None,
    }
    given, faults = lora.check(
        {"alpha": 32, "targets": ["feedforward.up"], "dropout": "none", "init": {"any": [1]}}, prefix="m"
    )
    assert faults == []
    assert given["alpha"] == 32.0
    assert isinstance(given["alpha"], float)
    assert given["targets"] == ("feedforward.up",)
    assert given["dropout"] is None
    assert given["init"] == {"any": (1,)}  # an unreadable annotation takes anything


@pytest.mark.usefixtures("fake_methods")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rnak": 4}, "m.rnak: unknown key (found 4); expected one of train_head, rank"),
        ({"rank": True}, "m.rank: found true; expected an integer"),
        ({"rank": 2.0}, "m.rank: found 2.0; expected an integer"),
        ({"noise": float("nan")}, "m.noise: found nan; expected a number"),
        (
            {"targets": ["attention.quary"]},
            "m.targets[0]: found \"attention.quary\", a string; expected one of \"attention.query\", "
            "\"attention.value\", \"feedforward.up\". Did you mean 'attention.query'?",
        ),
    ],
)  # fmt: skip
def test_wrong_options_are_told(options: dict[str, Any], message: str) -> None:
    _, faults = known_methods()["lora"].check(options, prefix="m")
    assert len(faults) == 1
    assert message in str(faults[0])


@pytest.mark.usefixtures("fake_methods")
def test_a_required_option_is_required() -> None:
    _, faults = known_methods()["last_layers"].check({}, prefix="methods[0] (last_layers)")
    assert [str(fault) for fault in faults] == [
        "methods[0] (last_layers).count: is missing; expected an integer"
    ]


@pytest.mark.parametrize(
    ("annotation", "right", "wrong"),
    [
        ("int", 3, "3"),
        ("float", 3, "3"),
        ("bool", True, 1),
        ("str", "a", 1),
        ("tuple[int, ...]", [1, 2], [1, "a"]),
        ("tuple[int, str]", [1, "a"], [1, 2]),
        ("list[float]", [1], [None]),
        ("dict[str, int]", {"a": 1}, {"a": "b"}),
        ("Literal['a', 'b']", "b", "c"),
        ("typing.Literal['a'] | None", "none", "c"),
        ("Optional[int]", "none", "a"),
        ("t.Union[int, str]", "a", 1.5),
        ("Alias", [0], ["zero"]),
        ("'int | None'", 1, "a"),
        ("Annotated[int, 'a note']", 1, "a"),
        ("Any", {"x": 1}, None),
        ("pathlib.Path", "anything goes", None),
    ],
)
def test_annotations(
    fake_package: Path, monkeypatch: pytest.MonkeyPatch, annotation: str, right: Any, wrong: Any
) -> None:
    source = (
        "import dataclasses, typing\nAlias = tuple[int, ...]\n"
        f"@dataclasses.dataclass\nclass Method:\n    x: {annotation}\n"
    )
    method = read_method(fake_package, monkeypatch, source)
    assert method.check({"x": right}, prefix="m")[1] == []
    if wrong is not None:
        faults = method.check({"x": wrong}, prefix="m")[1]
        assert len(faults) == 1
        assert faults[0].key.startswith("m.x")


@pytest.mark.parametrize(
    ("default", "expected"),
    [
        ("-1", -1),
        ("('a', NAME)", ("a", "named")),
        ("field(default=3)", 3),
        ("field(default_factory=tuple)", ()),
        ("field(default_factory=lambda: [1, 2])", (1, 2)),
        ("dataclasses.field(default=NAME)", "named"),
    ],
)
def test_defaults(
    fake_package: Path, monkeypatch: pytest.MonkeyPatch, default: str, expected: object
) -> None:
    source = f"NAME = 'named'\n@dataclass\nclass Method:\n    x: Any = {default}\n"
    checked, faults = read_method(fake_package, monkeypatch, source).check({}, prefix="m")
    assert faults == []
    assert checked == {"x": expected}


def test_a_default_that_takes_running_code_is_left_to_the_method(
    fake_package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = read_method(
        fake_package, monkeypatch, "@dataclass\nclass Method:\n    x: int = compute()\n    y: int = 2\n"
    )
    assert not method.options[0].default_known
    assert method.check({}, prefix="m") == ({"y": 2}, [])
    assert method.check({"x": 1}, prefix="m") == ({"x": 1, "y": 2}, [])


def test_names_that_pydantic_keeps_for_itself_are_fine(
    fake_package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "@dataclass\nclass Method:\n    copy: int = 1\n    model_config: int = 2\n    _hidden: int = 3\n"
    method = read_method(fake_package, monkeypatch, source)
    assert method.check({"copy": 5}, prefix="m") == ({"copy": 5, "model_config": 2, "_hidden": 3}, [])


def test_a_base_that_cannot_be_followed_leaves_the_options_open(
    fake_package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "from elsewhere import Base\n@dataclass\nclass Method(Base):\n    x: int = 1\n"
    method = read_method(fake_package, monkeypatch, source)
    assert not method.complete
    assert method.check({"inherited": [1]}, prefix="m") == ({"x": 1, "inherited": (1,)}, [])
    assert method.check({"x": "a"}, prefix="m")[1][0].key == "m.x"


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("nowhere_at_all.x:M", "package nowhere_at_all is not installed"),
        ("fakepeft.missing:M", "module fakepeft.missing has no source"),
        ("fakepeft.full:Fool", "module fakepeft.full defines no class Fool"),
        ("fakepeft.broken:M", "can't be read"),
    ],
)
def test_a_broken_method_spoils_only_the_suites_that_use_it(
    fake_package: Path, monkeypatch: pytest.MonkeyPatch, value: str, problem: str
) -> None:
    (fake_package / "broken.py").write_text("class M(:\n")
    offer(monkeypatch, point("bad", value, "third-party"), point("full", "fakepeft.full:Full"))
    methods = known_methods()
    assert methods["full"].check({}, prefix="m") == ({}, [])
    faults = methods["bad"].check({}, prefix="methods[0] (bad)")[1]
    assert len(faults) == 1
    assert problem in faults[0].problem
    assert "third-party" in faults[0].problem


def test_an_option_may_not_be_called_as_a_key_of_the_table(
    fake_package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = read_method(fake_package, monkeypatch, "@dataclass\nclass Method:\n    label: str = 'a'\n")
    assert "may not be called label" in (method.problem or "")


def test_bases_in_a_circle_end(fake_package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (fake_package / "other.py").write_text("from fakepeft.written import Method\nclass Other(Method): ...\n")
    source = "from fakepeft.other import Other\n@dataclass\nclass Method(Other):\n    x: int = 1\n"
    assert [option.name for option in read_method(fake_package, monkeypatch, source).options] == ["x"]


def test_two_methods_with_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, point("lora", "one.lora:LoRA", "one"), point("lora", "two.lora:LoRA", "two"))
    with pytest.raises(UsageError) as caught:
        known_methods()
    assert caught.value.message == (
        "two methods are called 'lora': one.lora:LoRA (from one) and two.lora:LoRA (from two)"
    )


def test_the_same_entry_seen_twice_is_one(fake_package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    twice = [point("full", "fakepeft.full:Full", "fake") for _ in range(2)]
    offer(monkeypatch, *twice)
    assert list(known_methods()) == ["full"]
    assert known_methods()["full"].distribution == "fake"


def test_nothing_installed_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch)
    with pytest.raises(UsageError, match="no methods are installed") as caught:
        known_methods()
    assert "pip install -e ." in (caught.value.hint or "")


def test_construct_imports_and_builds(fake_package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (fake_package / "__init__.py").write_text("")
    source = (
        "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Method:\n"
        "    x: tuple[str, ...] = ()\n    y: float = 1.0\n"
    )
    method = read_method(fake_package, monkeypatch, source)
    built = method.construct({"x": ["a"], "y": 2})  # lists, as they come out of JSON
    assert (built.x, built.y) == (("a",), 2.0)
    with pytest.raises(UsageError, match=r"written\.z: unknown key"):
        method.construct({"z": 1})


def test_meanings_from_a_docstring() -> None:
    docstring = (
        "Summary: not an argument.\n\nArgs:\n    first: one line.\n    second (int): two\n"
        "        lines: with a colon.\n\n    third, fourth: both.\n\nReturns:\n    nothing: at all.\n"
    )
    assert option_meanings(docstring) == {
        "first": "one line.",
        "second": "two lines: with a colon.",
        "third": "both.",
        "fourth": "both.",
    }


def test_a_tuner_of_the_peft_library_is_known_by_its_name_without_importing_it() -> None:
    known = known_methods()
    entry = known["peft:LOHA"]
    assert "peft:LOHA" not in list(known)
    code = "import sys\nfrom peprof.suite.catalogue import known_methods\n"
    code += "known_methods()['peft:LOHA']\nprint({'peft', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    options = {option.name: option for option in entry.options}
    assert (options["r"].default, options["alpha"].default) == (8, 8)
    assert options["r"].meaning == "LoHa rank"
    assert not {"peft_type", "task_type", "modules_to_save"} & set(options)
    values, faults = entry.check({"targets": ["attention.query"], "r": 4}, prefix="m")
    assert not faults and (values["targets"], values["r"]) == (("attention.query",), 4)
    _, (fault,) = entry.check({"rr": 4}, prefix="m")
    assert fault.key == "m.rr"
    assert "peft:LOHO" not in known
    assert "peft:LOHA" in known.names_beside("peft:LOHO")


def test_without_the_library_its_tuners_say_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (catalogue, library):
        monkeypatch.setattr(module, "library_tuners", dict)
    entry = known_methods()["peft:LOHA"]
    assert entry.problem == "the peft library isn't installed: pip install 'peprof[peft]'"
    _, (fault,) = entry.check({"r": 4}, prefix="methods[0]")
    assert fault.problem == f"method 'peft:LOHA' can't be used: {entry.problem}"


def test_a_tuner_that_needs_more_than_a_suite_has_is_told_while_it_is_read() -> None:
    _, (fault,) = known_methods()["peft:POLY"].check({}, prefix="methods[0]")
    assert fault.problem == "method 'peft:POLY' can't be used: it needs a task's number with each example"


def test_an_array_is_accepted_where_none_is_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "from dataclasses import dataclass\n@dataclass\nclass Method:\n    '''M.'''\n"
    source += "    layers: tuple[int, ...] | None = None\n"
    (tmp_path / "fakepeft").mkdir()
    (tmp_path / "fakepeft" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = read_method(tmp_path / "fakepeft", monkeypatch, source)
    assert entry.check({"layers": [1, 2]}, prefix="m") == ({"layers": (1, 2)}, [])
    assert entry.check({"layers": "none"}, prefix="m") == ({"layers": None}, [])
    _, (fault,) = entry.check({"layers": ["x"]}, prefix="m")
    assert fault.key == "m.layers[0]"
