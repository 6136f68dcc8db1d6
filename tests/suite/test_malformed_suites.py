"""What a wrong suite answers: where, what was found, what was expected, and the nearest right name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from peprof.errors import SuiteError, UsageError
from peprof.suite.loading import load_suite
from tests.suite.conftest import Write

HEAD = 'name = "a"\n'
MODEL = '[model]\nname = "peprof/tiny"\n'
DATA = '[data]\nname = "peprof/reviews"\n'
WRITTEN = 'task = "text-to-text"\n'
METHODS = '[[methods]]\nname = "full"\n[[methods]]\nname = "lora"\n'
WHOLE = HEAD + MODEL + DATA + METHODS

# (what is wrong, the file's text, each fault's whole line)
CASES = [
    (
        "wrong type",
        WHOLE + '[train]\nbatch_size = "32"\n',
        ['train.batch_size: found "32", a string; expected an integer >= 1'],
    ),
    (
        "a number with a fraction for a count",
        WHOLE + "[train]\nepochs = 2.5\n",
        ["train.epochs: found 2.5; expected an integer >= 1"],
    ),
    (
        "true for a number",
        WHOLE + "[train]\nbatch_size = true\n",
        ["train.batch_size: found true; expected an integer >= 1"],
    ),
    (
        "out of range",
        WHOLE + "[train]\nlearning_rate = 0\nwarmup_fraction = 1.0\n",
        [
            "train.learning_rate: found 0; expected a number > 0",
            "train.warmup_fraction: found 1.0; expected a number >= 0 and < 1",
        ],
    ),
    (
        "a target in percent",
        WHOLE + "[train]\ntarget = 88\n",
        ["train.target: found 88; accuracy is at most 1; expected a share: 0.88"],
    ),
    (
        "a target that none of a matrix's tasks can have",
        HEAD
        + MODEL
        + DATA
        + METHODS
        + "[train]\ntarget = 0.5\n[matrix]\n"
        + 'data = [{task = "language-modelling", text = ["sentence"]}]\n',
        ["train.target: found 0.5; perplexity is at least 1; expected at least 1"],
    ),
    (
        "not a finite number",
        WHOLE + "[train]\nlearning_rate = inf\n",
        ["train.learning_rate: found inf; expected a number > 0"],
    ),
    (
        "neither a number nor none",
        WHOLE + '[short]\nmax_seconds = "nine"\n',
        [
            'short.max_seconds: found "nine", a string; expected a number > 0, or "none". '
            "Did you mean 'none'?"
        ],
    ),
    (
        "text-to-text without words",
        HEAD + MODEL + DATA + WRITTEN + METHODS,
        [
            "data.verbalizers: is missing; expected one word for each class, all different, as in "
            '["negative", "positive"]'
        ],
    ),
    (
        "a word for two classes, no room for an answer",
        HEAD + MODEL + DATA + WRITTEN + 'verbalizers = ["a", "a"]\nmax_target_length = 1\n' + METHODS,
        [
            'data.verbalizers: found ["a", "a"]; expected one word for each class, all different, as in '
            '["negative", "positive"]',
            "data.max_target_length: found 1; expected an integer >= 2 and <= 1000000",
        ],
    ),
    (
        "a task that isn't known",
        HEAD + MODEL + DATA + 'task = "text2text"\n' + METHODS,
        [
            'data.task: found "text2text", a string; expected one of "classification", "regression", '
            '"text-to-text", "language-modelling". '
            "Did you mean 'text-to-text'?"
        ],
    ),
    (
        "words where nothing is written",
        HEAD + MODEL + DATA + 'prefix = "sst2 sentence: "\nverbalizers = ["a", "b"]\n' + METHODS,
        [
            'data.prefix: found "sst2 sentence: ", a string; expected nothing here, or task = "text-to-text"',
            'data.verbalizers: found ["a", "b"]; expected nothing here, or task = "text-to-text"',
        ],
    ),
    (
        "a pair of texts to be written about",
        HEAD + MODEL + DATA + WRITTEN + 'text = ["a", "b"]\nverbalizers = ["a", "b"]\n' + METHODS,
        [
            'data.task: found "text-to-text", a string; expected "classification" for a pair of texts; '
            "text-to-text takes one column"
        ],
    ),
    (
        "a matrix of tasks, and one of prefixes where nothing is written",
        WHOLE + '[matrix]\ndata.task = ["classification", "text-to-text"]\ndata.prefix = ["a: ", "b: "]\n',
        [
            "matrix.data.task: can't be varied here; expected one of data.name, data.path, data.subset, "
            "data.text, data.label, data.max_length, data.train_split, data.validation_split, "
            "data.train_rows, data.validation_rows, data.prefix, data.verbalizers, data.max_target_length",
            'matrix.data.prefix[0]: found "a: ", a string; expected nothing here, or task = "text-to-text"',
            'matrix.data.prefix[1]: found "b: ", a string; expected nothing here, or task = "text-to-text"',
        ],
    ),
    (
        "too few measured steps",
        WHOLE + "[short]\nsteps = 2\n",
        ["short.steps: found 2; expected an integer >= 3"],
    ),
    (
        "rounds, warm-up and times that there can't be",
        WHOLE + '[short]\nrounds = 0\nextra_warmup_steps = -1\nmin_seconds = 0\nround = 3\n',
        [
            "short.rounds: found 0; expected an integer >= 1",
            "short.extra_warmup_steps: found -1; expected an integer >= 0",
            'short.min_seconds: found 0; expected a number > 0, or "none"',
            "short.round: unknown key (found 3); expected one of warmup_steps, extra_warmup_steps, steps, "
            "min_seconds, max_seconds, rounds, energy_seconds, inference, estimate. Did you mean 'rounds'?",
        ],
    ),
    (
        "rounds in words",
        WHOLE + '[short]\nrounds = "three"\nsteps = 30.5\n',
        [
            'short.rounds: found "three", a string; expected an integer >= 1',
            "short.steps: found 30.5; expected an integer >= 3",
        ],
    ),
    (
        "a date",
        WHOLE + "[limits]\nrun_seconds = 2024-01-01\n",
        ['limits.run_seconds: found 2024-01-01; expected a number > 0, or "none"'],
    ),
    (
        "a choice misspelt",
        WHOLE.replace(MODEL, MODEL + 'weights = "pretraned"\n'),
        [
            'model.weights: found "pretraned", a string; expected one of "pretrained", "random". '
            "Did you mean 'pretrained'?"
        ],
    ),
    (
        "a phase misspelt, in a list",
        'phases = ["short", "ful"]\n' + WHOLE,
        ['phases[1]: found "ful", a string; expected one of "short", "full". Did you mean \'full\'?'],
    ),
    (
        "no phases",
        "phases = []\n" + WHOLE,
        ['phases: found []; expected a list of 1 or more values, each one of "short", "full"'],
    ),
    (
        "seeds not a list",
        WHOLE + "[train]\nseeds = 3\n",
        ["train.seeds: found 3; expected a list of 1 or more integers >= 0 and <= 4294967295"],
    ),
    (
        "a negative seed",
        WHOLE + "[train]\nseeds = [0, -1]\n",
        ["train.seeds[1]: found -1; expected an integer >= 0 and <= 4294967295"],
    ),
    (
        "three text columns",
        WHOLE.replace(DATA, DATA + 'text = ["a", "b", "c"]\n'),
        ['data.text: found ["a", "b", "c"]; expected a list of 1 to 2 strings'],
    ),
    (
        "unknown key",
        WHOLE + "[train]\nlerning_rate = 0.1\n",
        [
            "train.lerning_rate: unknown key (found 0.1); expected one of batch_size, epochs, max_steps, "
            "learning_rate, weight_decay, optimizer, optimizer_options, schedule, warmup_fraction, "
            "max_grad_norm, gradient_accumulation_steps, autocast, seeds, evaluate_every_steps, "
            "evaluation_batch_size, group_by_length, max_seconds, keep, early_stopping_patience, "
            "target, checkpoint_every_seconds, save_adapter. Did you mean 'learning_rate'?"
        ],
    ),
    (
        "a key of another table",
        WHOLE + "[limits]\nmax_seconds = 3\n",
        [
            "limits.max_seconds: unknown key (found 3); expected run_seconds. "
            "Did you mean 'short.max_seconds'?"
        ],
    ),
    (
        "a key outside its table",
        "batch_size = 3\n" + WHOLE,
        [
            "batch_size: unknown key; expected one of name, description, phases, model, data, train, short, "
            "limits, methods, matrix, offline. Did you mean 'train.batch_size'?"
        ],
    ),
    (
        "unknown table",
        WHOLE + "[trian]\nepochs = 1\n",
        [
            "trian: unknown table; expected one of name, description, phases, model, data, train, short, "
            "limits, methods, matrix, offline. Did you mean 'train'?"
        ],
    ),
    ("missing name", MODEL + DATA + METHODS, ["name: is missing; expected a string of letters, digits and "]),
    (
        "a name that can't be a folder",
        WHOLE.replace('name = "a"', 'name = "../up"'),
        ['name: found "../up", a string; expected a string of letters, digits and '],
    ),
    (
        "missing table",
        HEAD + DATA + METHODS,
        ["model: is missing; expected a table [model] with the backbone's name"],
    ),
    (
        "missing key",
        WHOLE.replace(MODEL, '[model]\ndtype = "float32"\n'),
        ["model.name: is missing; expected a string that is not empty"],
    ),
    (
        "a string where a table belongs",
        'model = "distilbert"\n' + HEAD + DATA + METHODS,
        ['model: found "distilbert", a string; expected a table [model]'],
    ),
    (
        "what is published, misspelt and impossible",
        WHOLE + "[methods.published]\npeak_gb = 0\nshare = 0.3\n",
        [
            "methods[1] (lora).published.share: unknown key (found 0.3); expected one of source, peak_gb, "
            "share_of_full, trainable_percent, accuracy_percent, samples_per_second",
            "methods[1] (lora).published.source: is missing; expected a string that is not empty",
            "methods[1] (lora).published.peak_gb: found 0; expected a number > 0, or \"none\"",
        ],
    ),
    (
        "what is published, not as a table",
        WHOLE + "published = 0.3\n",
        [
            "methods[1] (lora).published: found 0.3; expected a table like "
            '{source = "arXiv:...", peak_gb = 17.6}'
        ],
    ),
    ("no methods", HEAD + MODEL + DATA, ["methods: is missing; expected at least one [[methods]] table"]),
    (
        "single brackets",
        HEAD + MODEL + DATA + '[methods]\nname = "full"\n',
        ["methods: found a table; expected [[methods]] tables (with double brackets)"],
    ),
    (
        "methods as strings",
        'methods = ["full"]\n' + HEAD + MODEL + DATA,
        ['methods: found ["full"]; expected [[methods]] tables'],
    ),
    (
        "unknown method",
        WHOLE + '[[methods]]\nname = "lroa"\n',
        [
            "methods[2] (lroa).name: there is no method 'lroa'; expected one of full, last_layers, lora. "
            "Did you mean 'lora'?"
        ],
    ),
    (
        "a method without a name",
        WHOLE + '[[methods]]\nlabel = "mine"\n',
        ["methods[2] (mine).name: is missing; expected one of full, last_layers, lora"],
    ),
    (
        "duplicate method",
        WHOLE + '[[methods]]\nname = "lora"\nrank = 4\n',
        [
            "methods[2] (lora): a second method with the label 'lora', after methods[1]; expected labels "
            'that differ: give one a label, like label = "lora-2"'
        ],
    ),
    (
        "a label that can't be a folder",
        WHOLE + '[[methods]]\nname = "lora"\nlabel = "a/b"\n',
        ['methods[2] (a/b).label: found "a/b", a string; expected a string of letters, digits and '],
    ),
    (
        "an option misspelt",
        WHOLE + "rnak = 4\n",
        [
            "methods[1] (lora).rnak: unknown key (found 4); expected one of train_head, rank, alpha, "
            "dropout, noise, targets, bias, init. Did you mean 'rank'?"
        ],
    ),
    (
        "an option of a method that has none",
        HEAD + MODEL + DATA + '[[methods]]\nname = "full"\nrank = 4\n',
        ["methods[0] (full).rank: unknown key (found 4); expected no options"],
    ),
    (
        "an option of the wrong type",
        WHOLE + 'rank = "8"\n',
        ['methods[1] (lora).rank: found "8", a string; expected an integer'],
    ),
    (
        "a role misspelt",
        WHOLE + 'targets = ["attention.query", "attention.vlaue"]\n',
        [
            'methods[1] (lora).targets[1]: found "attention.vlaue", a string; expected one of '
            '"attention.query", "attention.value", "feedforward.up". Did you mean \'attention.value\'?'
        ],
    ),
    (
        "a required option missing",
        WHOLE + '[[methods]]\nname = "last_layers"\n',
        ["methods[2] (last_layers).count: is missing; expected an integer"],
    ),
    (
        "a method's learning rate",
        WHOLE + "learning_rate = -1\n",
        ["methods[1] (lora).learning_rate: found -1; expected a number > 0"],
    ),
    (
        "name and path of the data",
        WHOLE.replace(DATA, DATA + 'path = "."\n'),
        ["data: give exactly one of 'name' and 'path'", "data.path: no file for the split 'train'",
         "data.path: no file for the split 'validation'"],
    ),
    (
        "neither name nor path of the data",
        HEAD + MODEL + "[data]\nmax_length = 8\n" + METHODS,
        ["data: give exactly one of 'name' and 'path'"],
    ),
    (
        "a directory of data that isn't there",
        HEAD + MODEL + '[data]\npath = "no/such/folder"\n' + METHODS,
        ['data.path: there is no such directory: "no/such/folder" (looked in '],
    ),
    (
        "a model directory that isn't there",
        HEAD + '[model]\nname = "./no-model"\n' + DATA + METHODS,
        ['model.name: there is no such directory: "./no-model"; expected a directory with config.json'],
    ),
    (
        "matrix of a key that isn't there",
        WHOLE + '[matrix]\n"train.batchsize" = [1, 2]\n',
        ["matrix.train.batchsize: unknown key; expected one of train.batch_size, "],
    ),
    (
        "matrix of a key without its table",
        WHOLE + "[matrix]\nbatch_size = [1, 2]\n",
        [
            "matrix.batch_size: unknown key; expected one of model.KEY, data.KEY, train.KEY, short.KEY, "
            "methods.LABEL.OPTION. Did you mean 'train.batch_size'?"
        ],
    ),
    (
        "matrix of one value",
        WHOLE + "[matrix]\ntrain.batch_size = 16\n",
        ["matrix.train.batch_size: found 16; expected a list of one or more values"],
    ),
    (
        "matrix of no value",
        WHOLE + "[matrix]\ntrain.batch_size = []\n",
        ["matrix.train.batch_size: found []; expected a list of one or more values"],
    ),
    (
        "a value of a matrix",
        WHOLE + '[matrix]\ntrain.batch_size = [16, "32"]\nmethods.lora.rank = [4, 0.5]\n',
        [
            'matrix.train.batch_size[1]: found "32", a string; expected an integer >= 1',
            "matrix.methods.lora.rank[1]: found 0.5; expected an integer",
        ],
    ),
    (
        "matrix of the seeds",
        WHOLE + "[matrix]\ntrain.seeds = [[0], [1]]\n",
        ["matrix.train.seeds: can't be varied here; expected all seeds in train.seeds itself"],
    ),
    (
        "matrix of what makes no other run",
        WHOLE + "[matrix]\ntrain.save_adapter = [true, false]\n",
        [
            "matrix.train.save_adapter: can't be varied here; expected one of train.batch_size, "
            "train.epochs, train.max_steps, train.learning_rate, train.weight_decay, train.optimizer, "
            "train.optimizer_options, train.schedule, train.warmup_fraction, train.max_grad_norm, "
            "train.gradient_accumulation_steps, train.autocast, train.evaluate_every_steps, "
            "train.evaluation_batch_size, train.group_by_length, train.max_seconds, train.keep, "
            "train.early_stopping_patience"
        ],
    ),
    (
        "matrix of the limits",
        WHOLE + "[matrix]\nlimits.run_seconds = [1, 2]\n",
        ["matrix.limits.run_seconds: can't be varied here; expected one of model.KEY, data.KEY"],
    ),
    (
        "matrix of a method that isn't there",
        WHOLE + "[matrix]\nmethods.lore.rank = [1]\n",
        [
            "matrix.methods.lore.rank: addresses no method; expected methods.LABEL.OPTION with LABEL one of "
            "full, lora. Did you mean 'lora'?"
        ],
    ),
    (
        "matrix of an option that isn't there",
        WHOLE + "[matrix]\nmethods.lora.ranc = [1]\n",
        ["matrix.methods.lora.ranc[0]: unknown key (found 1); expected one of train_head, rank"],
    ),
    (
        "labels that the matrix makes twice",
        WHOLE + '[[methods]]\nname = "lora"\nlabel = "lora@rank=4"\n[matrix]\nmethods.lora.rank = [4]\n',
        ["methods: the matrix makes a second method with the label 'lora@rank=4'"],
    ),
    ("matrix not a table", "matrix = 3\n" + WHOLE, ["matrix: found 3; expected a table [matrix]"]),
    (
        "an unknown key of the overlay",
        WHOLE + "[offline]\ntrian.epochs = 3\n",
        [
            "offline.trian.epochs: unknown key; expected one of phases, model.KEY, data.KEY, train.KEY, "
            "short.KEY, limits.KEY, methods.LABEL.OPTION. Did you mean 'train.epochs'?"
        ],
    ),
    (
        "wrong values in the overlay",
        WHOLE + '[offline]\nmodel.weights = "radnom"\nshort.steps = "3"\nphases = ["shrt"]\n',
        [
            "offline.phases[0]: found \"shrt\", a string; expected one of \"short\", \"full\". "
            "Did you mean 'short'?",
            "offline.model.weights: found \"radnom\", a string; expected one of \"pretrained\", \"random\". "
            "Did you mean 'random'?",
            'offline.short.steps: found "3", a string; expected an integer >= 3',
        ],
    ),
    (
        "the overlay may not rename the suite",
        WHOLE + '[offline]\nname = "b"\n',
        ["offline.name: unknown key; expected one of phases, "],
    ),
    (
        "an option in the overlay",
        WHOLE + "[offline]\nmethods.lora.rnak = 3\n",
        ["offline.methods.lora.rnak: unknown key (found 3); expected one of train_head, rank"],
    ),
    ("overlay not a table", "offline = true\n" + WHOLE, ["offline: found true; expected a table [offline]"]),
    (
        "several at once, in every table",
        'nmae = "a"\n[model]\nname = ""\n[data]\nmax_length = 1\nname = "x"\n[train]\noptimizer = "adm"\n'
        '[[methods]]\nname = "ful"\n[[methods]]\nname = "lora"\ndropout = "x"\n',
        [
            "nmae: unknown key; ",
            "name: is missing; ",
            'model.name: found "", a string; expected a string that is not empty',
            "data.max_length: found 1; expected an integer >= 4 and <= 1000000",
            'train.optimizer: found "adm", a string; expected one of "adamw", "adam", ',
            "methods[0] (ful).name: there is no method 'ful'; ",
            'methods[1] (lora).dropout: found "x", a string; expected a number, or "none"',
        ],
    ),
    (
        "bad TOML",
        'name = "a"\n[model]\nname = peprof/tiny\n',
        ["line 3, column 8: is not TOML: Invalid value, in `name = peprof/tiny`"],
    ),
    (
        "a key twice",
        'name = "a"\nname = "b"\n',
        ['line 2, column 11: is not TOML: Cannot overwrite a value, in `name = "b"`'],
    ),
    (
        "a string that doesn't end",
        HEAD + '[model]\nname = """tiny\n',
        ["line 3, column 15: is not TOML: "],
    ),
    ("a bracket that doesn't close", HEAD + "[model\n", ["line 2, column 7: is not TOML: Expected ']'"]),
    ("only spaces", " \n\n", ["file: is empty; expected a suite in TOML"]),
    ("empty file", "", ["file: is empty; expected a suite in TOML"]),
    ("only a comment", "# a suite\n", ["name: is missing", "model: is missing", "data: is missing",
                                        "methods: is missing"]),
    ("nested lists", "x = " + "[" * 3000 + "]" * 3000, ["file: lists or tables are nested too deeply"]),
    ("nested tables", ".".join("a" * 400) + " = 1", ["file: lists or tables are nested too deeply"]),
    (
        "a number of thousands of digits",
        WHOLE + "[train]\nbatch_size = " + "1" * 5000,
        ["file: is not TOML: Exceeds the limit"],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "lines"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_every_fault_is_told(write_suite: Write, text: str, lines: list[str]) -> None:
    path = write_suite(text)

    with pytest.raises(SuiteError) as caught:
        load_suite(path)

    told = [str(fault) for fault in caught.value.faults]
    missing = [line for line in lines if not any(one.startswith(line) for one in told)]
    assert not missing, f"told instead: {told}"
    assert len(told) == len(lines), told
    assert caught.value.exit_code == 2
    count = "1 fault" if len(told) == 1 else f"{len(told)} faults"
    assert caught.value.message.splitlines()[0] == f"{path}: {count}"


def test_there_are_thirty_of_them() -> None:
    assert len({text for _, text, _ in CASES}) >= 30


def test_the_text_without_a_fault_is_a_suite(write_suite: Write) -> None:
    # Else each case above might fail for another reason than the one it names.
    assert [method.label for method in load_suite(write_suite(WHOLE)).suite.methods] == ["full", "lora"]


def test_a_file_that_is_not_text(write_suite: Write) -> None:
    path = write_suite("")
    path.write_bytes(b'name = "a"\n# \xff\n')
    with pytest.raises(SuiteError) as caught:
        load_suite(path)
    assert str(caught.value.faults[0]) == "line 2: is not UTF-8 text: byte 0xff"


def test_a_mark_at_the_beginning_and_foreign_line_ends_are_fine(write_suite: Write) -> None:
    path = write_suite("")
    path.write_bytes(b"\xef\xbb\xbf" + WHOLE.replace("\n", "\r\n").encode())
    assert load_suite(path).suite.name == "a"


@pytest.mark.parametrize("files", [{"train.tsv": "a", "validation.csv": ""}, {"train.jsonl": "a"}])
def test_data_without_rows_or_without_a_split(
    write_suite: Write, tmp_path: Path, files: dict[str, str]
) -> None:
    (tmp_path / "folder" / "rows").mkdir(parents=True)
    for name, content in files.items():
        (tmp_path / "folder" / "rows" / name).write_text(content)
    path = write_suite(HEAD + MODEL + '[data]\npath = "rows"\n' + METHODS)
    with pytest.raises(SuiteError) as caught:
        load_suite(path)
    (fault,) = caught.value.faults
    assert fault.key == "data.path"
    directory = tmp_path / "folder" / "rows"
    assert fault.problem == (
        f"{directory / 'validation.csv'} is empty (0 bytes)"
        if "validation.csv" in files
        else f"no file for the split 'validation' in {directory}"
    )


def test_splits_under_other_names_are_suggested(write_suite: Write, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("train.csv", "valid.csv"):
        (tmp_path / "folder" / name).write_text("a")
    path = write_suite(HEAD + MODEL + f'[data]\npath = "{tmp_path / "folder"}"\n' + METHODS)
    with pytest.raises(SuiteError, match="Did you mean 'valid'"):
        load_suite(path)


def test_a_file_where_a_directory_of_data_belongs(write_suite: Write) -> None:
    path = write_suite(HEAD + MODEL + '[data]\npath = "suite.toml"\n' + METHODS)
    with pytest.raises(SuiteError, match=r'data\.path: is not a directory: "suite\.toml"'):
        load_suite(path)


@pytest.mark.parametrize("name", ["a\\u0000b", "a" * 5000])
def test_paths_that_no_system_takes(write_suite: Write, name: str) -> None:
    path = write_suite(HEAD + MODEL + f'[data]\npath = "{name}"\n' + METHODS)
    with pytest.raises(SuiteError, match=r"data\.path: there is no such directory"):
        load_suite(path)


def test_a_missing_file_names_the_suites_there_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no suite 'quikstart'") as caught:
        load_suite("quikstart")
    assert "Did you mean 'quickstart'?" in caught.value.message
    assert "quickstart, sst2, sst2-minilm" in (caught.value.hint or "")
    with pytest.raises(UsageError, match=re.escape(str(tmp_path / "gone.toml"))):
        load_suite(tmp_path / "gone.toml")


def test_a_directory_instead_of_a_file(write_suite: Write) -> None:
    folder = write_suite(WHOLE).parent
    with pytest.raises(UsageError, match="is a directory, not a suite's file") as caught:
        load_suite(folder)
    assert str(folder / "suite.toml") in (caught.value.hint or "")


def test_an_unreadable_file(write_suite: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_suite(WHOLE)

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)  # a superuser may read anything
    with pytest.raises(UsageError, match=r"suite\.toml can't be read: Permission denied"):
        load_suite(path)


@pytest.mark.parametrize("source", ["a" * 5000, "nul\0byte"])
def test_a_source_that_no_system_takes(source: str) -> None:
    with pytest.raises(UsageError):
        load_suite(source)
