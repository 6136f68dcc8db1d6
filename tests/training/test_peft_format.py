"""Adapters in the peft library's format: that library's own logits are the oracle, in both directions."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peprof_methods.peft_bridge import PeftTuner
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from peprof.errors import StoreError, UsageError
from peprof.suite.catalogue import known_methods
from peprof.training.peft_format import has_peft_format, load_from_peft, save_as_peft
from tests.methods.method_geometries import LAYERS, batch, scatter, tiny

peft = pytest.importorskip("peft")

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*proceed at your own risk.*"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks.*"),
]

OPTIONS: dict[str, dict[str, Any]] = {
    "lora": {"rank": 3, "targets": ("attention.query", "feedforward.down"), "scaling": "rank_stabilized"},
    "lora_fa": {"rank": 3, "alpha": 6.0},
    "dora": {"rank": 3},
    "pissa": {"rank": 3, "alpha": 5.0},
    "siva": {"rank": 3},
    "vera": {"rank": 5, "targets": ("attention.query", "feedforward.up")},
    "adalora": {"initial_rank": 4, "target_rank": 2},
    "ia3": {},
    "layernorm": {},
    "sparse": {"density": 0.1},
    "prompt_tuning": {"tokens": 4},
    "prefix_tuning": {"tokens": 4, "hidden": 8},
    "p_tuning_v2": {"tokens": 4},
}
PROMPTS = {
    "prompt_tuning": ("t5", "llama-lm"),
    "prefix_tuning": ("llama-lm", "llama"),
    "p_tuning_v2": ("llama",),
}
WRITTEN = [
    (name, architecture)
    for name in OPTIONS
    for architecture in PROMPTS.get(name, ("distilbert", "bert", "t5", "llama-lm"))
]


def method(name: str, **options: Any) -> Any:
    return known_methods()[name].construct(options or OPTIONS.get(name, {}))


def logits(model: nn.Module, architecture: str) -> Tensor:
    """Those of real positions; a prompt's own, which the library leaves in, are left out."""
    inputs = batch(architecture)
    labels = inputs.pop("labels")
    if architecture == "t5":
        inputs["decoder_input_ids"] = labels.clamp(min=0)
    with torch.no_grad():
        found: Tensor = model.eval()(**inputs).logits
    if architecture == "llama-lm":
        length = inputs["input_ids"].shape[1]
        return found[:, -length:][inputs["attention_mask"].bool()]
    return found


def assert_equal(found: nn.Module, wanted: nn.Module, architecture: str) -> None:
    torch.testing.assert_close(
        logits(found, architecture), logits(wanted, architecture), atol=1e-5, rtol=1e-5
    )


def assert_moved(model: nn.Module, plain: nn.Module, architecture: str) -> None:
    assert (logits(model, architecture) - logits(plain, architecture)).abs().max() > 0.05


@pytest.mark.parametrize(("name", "architecture"), WRITTEN)
def test_the_library_loads_what_is_written_and_so_does_peprof(
    name: str, architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, chosen = tiny(architecture), method(name)
    trained = scatter(chosen.apply(copy.deepcopy(plain)))
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "peft", None)  # to import it would fail
        save_as_peft(trained, chosen, tmp_path / "new" / "peft")
        again = load_from_peft(copy.deepcopy(plain), tmp_path / "new" / "peft")
    assert_moved(trained, plain, architecture)
    assert_equal(peft.PeftModel.from_pretrained(plain, tmp_path / "new" / "peft"), trained, architecture)
    assert_equal(again, trained, architecture)


def test_biases_that_lora_trains_too_go_with_it(tmp_path: Path) -> None:
    plain, chosen = tiny("bert"), method("lora", rank=2, biases=True)
    trained = scatter(chosen.apply(copy.deepcopy(plain)))
    save_as_peft(trained, chosen, tmp_path / "ours")
    assert_equal(peft.PeftModel.from_pretrained(copy.deepcopy(plain), tmp_path / "ours"), trained, "bert")
    assert_equal(load_from_peft(copy.deepcopy(plain), tmp_path / "ours"), trained, "bert")
    config = peft.LoraConfig(target_modules=["query"], bias="all", task_type="SEQ_CLS")
    theirs = scatter(peft.get_peft_model(copy.deepcopy(plain), config))
    theirs.save_pretrained(tmp_path / "theirs")
    assert_equal(load_from_peft(copy.deepcopy(plain), tmp_path / "theirs"), theirs, "bert")
    with pytest.raises(UsageError, match="adds no biases to T5ForConditionalGeneration"):
        save_as_peft(chosen.apply(tiny("t5")), chosen, tmp_path / "t5")


def test_nothing_that_is_trained_is_left_out(tmp_path: Path) -> None:
    chosen = method("ia3")
    trained = chosen.apply(tiny("bert"))
    trained.bert.embeddings.LayerNorm.weight.requires_grad_(True)
    with pytest.raises(UsageError, match=r"embeddings\.LayerNorm\.weight' is trained too"):
        save_as_peft(trained, chosen, tmp_path)


def test_what_has_a_counterpart() -> None:
    assert has_peft_format(method("dora")) and has_peft_format(PeftTuner(tuner="OFT"))
    assert not has_peft_format(method("lst"))


QUERY = {"distilbert": "q_lin", "bert": "query", "t5": "q", "llama-lm": "q_proj"}
VALUE = {"distilbert": "v_lin", "bert": "value", "t5": "v", "llama-lm": "v_proj"}
KEY = {"distilbert": "k_lin", "bert": "key", "t5": "k", "llama-lm": "k_proj"}
DOWN = {
    "distilbert": ["ffn.lin2"],
    "bert": [f"{i}.output.dense" for i in range(LAYERS)],
    "t5": ["DenseReluDense.wo"],
    "llama-lm": ["down_proj"],
}
TASK = {"distilbert": "SEQ_CLS", "bert": "SEQ_CLS", "t5": "SEQ_2_SEQ_LM", "llama-lm": "CAUSAL_LM"}


def config(kind: str, architecture: str) -> Any:
    """As somebody who knows nothing of roles would write it: names by their ends."""
    task = {"task_type": TASK[architecture]}
    both = {**task, "target_modules": [QUERY[architecture], VALUE[architecture]]}
    down = DOWN[architecture]
    match kind:
        case "lora":
            return peft.LoraConfig(r=3, lora_alpha=5, lora_dropout=0.1, **both)
        case "rslora+dora":
            return peft.LoraConfig(r=3, lora_alpha=5, use_rslora=True, use_dora=True, **both)
        case "pissa":
            return peft.LoraConfig(r=4, lora_alpha=6, use_rslora=True, init_lora_weights="pissa", **both)
        case "vera":
            return peft.VeraConfig(r=6, projection_prng_key=7, save_projection=True, **both)
        case "adalora":
            return peft.AdaLoraConfig(init_r=4, target_r=2, total_step=10, tfinal=2, lora_alpha=9, **both)
        case "ia3":
            targets = [KEY[architecture], VALUE[architecture], *down]
            return peft.IA3Config(target_modules=targets, feedforward_modules=down, **task)
        case "shira":
            return peft.ShiraConfig(r=2, **{**task, "target_modules": [QUERY[architecture]]})
        case "shira of two shapes":  # entries by the sum of a matrix's sides there, by its size here
            wide = {**task, "target_modules": [QUERY[architecture], *down]}
            return peft.ShiraConfig(r=2, **wide)
        case "prompt":
            return peft.PromptTuningConfig(num_virtual_tokens=3, **task)
        case "prefix":
            return peft.PrefixTuningConfig(num_virtual_tokens=3, **task)
    norms = {
        "distilbert": ["sa_layer_norm", "output_layer_norm", "LayerNorm"],
        "bert": ["LayerNorm"],
        "t5": ["layer_norm", "final_layer_norm"],
        "llama-lm": ["input_layernorm", "post_attention_layernorm", "norm"],
    }
    return peft.LNTuningConfig(target_modules=norms[architecture], **task)


FOUR = ("distilbert", "bert", "t5", "llama-lm")
READ = [
    *((kind, name) for kind in ("rslora+dora", "pissa", "vera", "adalora") for name in ("distilbert", "t5")),
    *((kind, name) for kind in ("lora", "ia3", "layernorm", "shira") for name in FOUR),
    ("shira of two shapes", "distilbert"),
    ("prompt", "t5"),
    ("prompt", "llama-lm"),
    ("prefix", "llama-lm"),
]


@pytest.mark.parametrize(("kind", "architecture"), READ)
def test_what_the_library_has_saved_is_loaded(kind: str, architecture: str, tmp_path: Path) -> None:
    plain = tiny(architecture)
    theirs = scatter(peft.get_peft_model(copy.deepcopy(plain), config(kind, architecture)))
    theirs.save_pretrained(tmp_path)
    assert_moved(theirs, plain, architecture)
    assert_equal(load_from_peft(plain, tmp_path), theirs, architecture)


def test_ranks_that_the_library_has_pruned_are_zeros_here(tmp_path: Path) -> None:
    plain = tiny("distilbert")
    theirs = scatter(peft.get_peft_model(copy.deepcopy(plain), config("adalora", "distilbert")))
    kept: dict[str, list[bool]] = {}
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_E" in name:
                parameter[1] = 0.0
                below = name.removeprefix("base_model.model.").removesuffix(".default")
                kept[below] = [True, False, True, True]
    theirs.peft_config["default"].rank_pattern = kept
    wanted = logits(theirs, "distilbert")
    theirs.save_pretrained(tmp_path)
    assert {
        t.shape[0] for n, t in load_file(tmp_path / "adapter_model.safetensors").items() if "lora_A" in n
    } == {3}
    ours = load_from_peft(plain, tmp_path)
    torch.testing.assert_close(logits(ours, "distilbert"), wanted, atol=1e-5, rtol=1e-5)
    assert ours.get_parameter("distilbert.transformer.layer.0.attention.q_lin.lora_E").shape == (4,)


@pytest.mark.parametrize("name", ["pissa", "siva"])
def test_a_start_that_cannot_be_repeated_is_written_as_a_difference(name: str, tmp_path: Path) -> None:
    plain = tiny("distilbert")
    chosen = method(name, rank=3, svd_iterations=2)
    trained = scatter(chosen.apply(copy.deepcopy(plain)))
    with pytest.raises(UsageError, match="can't repeat a start made with svd_iterations"):
        save_as_peft(trained, chosen, tmp_path)
    save_as_peft(trained, chosen, tmp_path, backbone=plain)
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (written["r"], "init_lora_weights" in written) == (6, False)
    assert_equal(load_from_peft(copy.deepcopy(plain), tmp_path), trained, "distilbert")
    assert_equal(peft.PeftModel.from_pretrained(plain, tmp_path), trained, "distilbert")


@pytest.mark.parametrize(
    ("tuner", "options"),
    [
        ("OFT", {"oft_block_size": 8}),
        ("VBLORA", {"num_vectors": 8, "vector_length": 4}),
        ("PROMPT_TUNING", {"num_virtual_tokens": 4}),
    ],
)
def test_a_tuner_of_the_library_is_written_with_its_head(
    tuner: str, options: dict[str, Any], tmp_path: Path
) -> None:
    plain, chosen = tiny("bert"), PeftTuner(tuner=tuner, options=options)
    trained = scatter(chosen.apply(copy.deepcopy(plain)))
    save_as_peft(trained, chosen, tmp_path)
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(plain), tmp_path)
    assert_moved(trained, plain, "bert")
    assert_equal(loaded, trained, "bert")


def test_the_files_are_the_librarys(tmp_path: Path) -> None:
    chosen = method("lora", rank=2, alpha=3.0, targets=("attention.query",))
    save_as_peft(chosen.apply(tiny("bert")), chosen, tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text()) == {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS",
        "base_model_name_or_path": None,
        "inference_mode": True,
        "modules_to_save": ["bert.pooler", "classifier"],
        "r": 2,
        "lora_alpha": 3.0,
        "lora_dropout": 0.0,
        "use_rslora": False,
        "use_dora": False,
        "bias": "none",
        "target_modules": [f"bert.encoder.layer.{i}.attention.self.query" for i in range(LAYERS)],
    }
    shapes = {n: tuple(t.shape) for n, t in load_file(tmp_path / "adapter_model.safetensors").items()}
    layer = "base_model.model.bert.encoder.layer.{}.attention.self.query"
    assert shapes == {
        **{f"{layer.format(i)}.lora_A.weight": (2, 32) for i in range(LAYERS)},
        **{f"{layer.format(i)}.lora_B.weight": (32, 2) for i in range(LAYERS)},
        "base_model.model.bert.pooler.dense.weight": (32, 32),
        "base_model.model.bert.pooler.dense.bias": (32,),
        "base_model.model.classifier.weight": (2, 32),
        "base_model.model.classifier.bias": (2,),
    }


@pytest.mark.parametrize(
    ("name", "architecture", "message"),
    [
        ("bitfit", "bert", "the peft library has no counterpart of 'bitfit'"),
        ("prompt_tuning", "bert", "before the position that the head reads"),
        ("prompt_tuning", "llama", "be it padding"),
        ("p_tuning_v2", "t5", "T5's encoder and cross-attention none"),
    ],
)
def test_what_the_library_cannot_do_is_refused(
    name: str, architecture: str, message: str, tmp_path: Path
) -> None:
    chosen = method(name)
    with pytest.raises(UsageError, match=message):
        save_as_peft(chosen.apply(tiny(architecture)), chosen, tmp_path)
    assert not list(tmp_path.iterdir())


BY_LAYER = [f"distilbert.transformer.layer.{i}.attention.q_lin" for i in range(LAYERS)]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: peft.LoHaConfig(target_modules=["q_lin"]), "the tuner LOHA has no counterpart here"),
        (lambda: peft.LoraConfig(target_modules=["q_lin"], bias="lora_only"), "bias = 'lora_only' has no"),
        (lambda: peft.LoraConfig(target_modules=BY_LAYER[:1]), r"layer\.1\.attention\.q_lin' isn't adapted"),
        (lambda: peft.LoraConfig(target_modules=["word_embeddings"]), "lora_embedding_A' has no counterpart"),
        (
            lambda: peft.LoraConfig(target_modules=["q_lin"], rank_pattern={BY_LAYER[1]: 2}),
            "has rank 2, others 8; expected one rank for all",
        ),
        (
            lambda: peft.LoraConfig(target_modules=["q_lin"], alpha_pattern={BY_LAYER[1]: 2}),
            "alpha_pattern = .* has no counterpart here",
        ),
        (
            lambda: peft.LoraConfig(target_modules=["q_lin"], modules_to_save=["sa_layer_norm"]),
            r"sa_layer_norm\.(weight|bias)' has no counterpart here",
        ),
        (
            lambda: peft.LoraConfig(target_modules=["q_lin", "pre_classifier"]),
            "'pre_classifier' is adapted, which this method doesn't do for head",
        ),
        (
            lambda: peft.IA3Config(target_modules=["k_lin", "lin2"], feedforward_modules=["lin2"]),
            "v_lin' isn't adapted",
        ),
        (
            lambda: peft.IA3Config(target_modules=["k_lin", "v_lin", "lin2"], feedforward_modules=[]),
            r"ffn\.lin2' is scaled at its output; \(IA\)3 here scales its input",
        ),
    ],
)
def test_what_has_no_counterpart_here_is_refused(made: Any, message: str, tmp_path: Path) -> None:
    peft.get_peft_model(tiny("distilbert"), made()).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=message):
        load_from_peft(tiny("distilbert"), tmp_path)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_as_peft(method("lora").apply(tiny("distilbert")), method("lora"), tmp_path)
    return tmp_path


def test_each_damage_has_its_own_message(saved: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no adapter_config\.json"):
        load_from_peft(tiny("distilbert"), saved / "nowhere")
    with pytest.raises(UsageError, match="has no counterpart here"):
        load_from_peft(tiny("bert"), saved)
    described = (saved / "adapter_config.json").read_text()
    for text in ("{", "[]"):
        (saved / "adapter_config.json").write_text(text)
        with pytest.raises(StoreError, match=r"adapter_config\.json"):
            load_from_peft(tiny("distilbert"), saved)
    (saved / "adapter_config.json").write_text(described)
    tensors = load_file(saved / "adapter_model.safetensors")
    tensors.pop(next(name for name in tensors if name.endswith("lora_B.weight")))
    save_file(tensors, saved / "adapter_model.safetensors")
    with pytest.raises(UsageError, match=r"the file holds no '.*\.lora_B\.weight'"):
        load_from_peft(tiny("distilbert"), saved)
    (saved / "adapter_model.safetensors").write_bytes(b"\x00\x01")
    with pytest.raises(StoreError, match=r"adapter_model\.safetensors: can't be read"):
        load_from_peft(tiny("distilbert"), saved)
    (saved / "adapter_model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"there is no adapter_model\.safetensors"):
        load_from_peft(tiny("distilbert"), saved)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="can't write an adapter into"):
        save_as_peft(method("ia3").apply(tiny("bert")), method("ia3"), tmp_path / "file" / "below")
