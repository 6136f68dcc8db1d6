from __future__ import annotations

import pytest
import torch
from transformers import AutoModel

from peprof.training.geometries import GEOMETRIES, geometry_name, known_config, near_geometry

# Parameters of the base model without any head, as the checkpoints on the hub have them.
PUBLISHED = {
    "distilbert/distilbert-base-uncased": 66_362_880,
    "bert-base-uncased": 109_482_240,
    "google-bert/bert-large-uncased": 335_141_888,
    "FacebookAI/roberta-base": 124_645_632,
    "roberta-large": 355_359_744,
    "sentence-transformers/all-MiniLM-L6-v2": 22_713_216,
    "t5-small": 60_506_624,
    "google-t5/t5-base": 222_903_552,
    "t5-large": 737_668_096,
    "t5-3b": 2_851_598_336,
    "google-t5/t5-11b": 11_307_321_344,
    # v1_1's published 76,961,152 and 247,577,856 hold an output matrix of 32,128 x d_model that is not tied.
    "google/t5-v1_1-small": 76_961_152 - 32_128 * 512,
    "google/t5-v1_1-base": 247_577_856 - 32_128 * 768,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    # 8,030,261,248 with the output matrix.
    "meta-llama/Llama-3.1-8B": 8_030_261_248 - 128_256 * 4_096,
    "meta-llama/Llama-3.1-70B": 70_553_706_496 - 128_256 * 8_192,
    "meta-llama/Llama-3.3-70B-Instruct": 70_553_706_496 - 128_256 * 8_192,
    "meta-llama/Meta-Llama-3-8B": 8_030_261_248 - 128_256 * 4_096,
    "meta-llama/Meta-Llama-3-70B-Instruct": 70_553_706_496 - 128_256 * 8_192,
    "meta-llama/Llama-2-7b-hf": 6_738_415_616 - 32_000 * 4_096,
    "meta-llama/Llama-2-13b-chat-hf": 13_015_864_320 - 32_000 * 5_120,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096 - 32_000 * 4_096,
    "mistralai/Mistral-7B-Instruct-v0.3": 7_248_023_552 - 32_768 * 4_096,
    "Qwen/Qwen2.5-0.5B": 494_032_768,  # up to 3B the output matrix is the embedding
    "Qwen/Qwen2.5-1.5B-Instruct": 1_543_714_304,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512 - 152_064 * 3_584,
    "Qwen/Qwen2.5-14B": 14_770_033_664 - 152_064 * 5_120,
    "Qwen/Qwen2.5-32B": 32_763_876_352 - 152_064 * 5_120,
    "Qwen/Qwen2.5-72B": 72_706_203_648 - 152_064 * 8_192,
    "Qwen/Qwen2-0.5B": 494_032_768,
    "Qwen/Qwen2-1.5B-Instruct": 1_543_714_304,
    "Qwen/Qwen2-7B": 7_615_616_512 - 152_064 * 3_584,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_the_published_ones(name: str) -> None:
    with torch.device("meta"):
        model = AutoModel.from_config(known_config(name))
    assert sum(parameter.numel() for parameter in model.parameters()) == PUBLISHED[name]


def test_v1_1_is_gated_and_t5_is_not() -> None:
    assert known_config("t5-v1_1-base").is_gated_act
    assert not known_config("t5-base").is_gated_act


@pytest.mark.parametrize(
    ("typed", "known"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "Llama-3.1-8B"),
        ("Meta-Llama-3.1-8B-Instruct", "Llama-3.1-8B"),
        ("llama-3.2-1b-instruct", "Llama-3.2-1B"),
        ("Meta-Llama-3-70B", "Llama-3-70B"),
        ("Llama-2-7B", "Llama-2-7B"),
        ("meta-llama/Llama-2-13b-chat-hf", "Llama-2-13B"),
        ("mistralai/Mistral-7B-Instruct-v0.1", "Mistral-7B-v0.1"),
        ("Qwen2.5-7B-Base", "Qwen2.5-7B"),
        ("Qwen/Qwen2.5-7B-Instruct", "Qwen2.5-7B-Instruct"),
        ("roberta-base", "roberta-base"),
        ("t5-base", "t5-base"),
    ],
)
def test_what_a_model_was_trained_for_last_doesnt_change_its_geometry(typed: str, known: str) -> None:
    assert geometry_name(typed) == known


@pytest.mark.parametrize(
    "other",
    [
        "Llama-2-70b-hf", "Llama-3.1-405B", "Mistral-7B-Instruct-v0.2", "Mixtral-8x7B-v0.1",
        "Qwen-7B-Chat", "Qwen2-VL-7B-Instruct", "Qwen2.5-7B-Instruct-GPTQ-Int4", "roberta-large-instruct",
        "meta-roberta-base",
    ],
)  # fmt: skip
def test_a_model_that_only_sounds_like_one_is_none(other: str) -> None:
    assert geometry_name(other) is None


def test_positions_are_those_of_the_published_configurations() -> None:
    """Qwen's base models were trained on longer texts than those that follow instructions."""
    positions = {
        "Llama-2-7B": 4096, "Llama-3-8B": 8192, "Llama-3.3-70B": 131072,
        "Mistral-7B-v0.1": 32768, "Mistral-7B-v0.3": 32768,
        "Qwen2.5-0.5B": 32768, "Qwen2.5-3B": 32768, "Qwen2.5-7B": 131072, "Qwen2.5-7B-Instruct": 32768,
        "Qwen2-0.5B": 131072, "Qwen2-7B-Instruct": 32768,
    }  # fmt: skip
    assert {name: known_config(name).max_position_embeddings for name in positions} == positions
    assert known_config("Mistral-7B-v0.1").sliding_window == 4096
    assert known_config("Mistral-7B-v0.3").sliding_window is None
    assert known_config("Qwen2.5-7B").sliding_window is None


def test_names_are_found_by_hub_id_in_any_case_and_no_other_model_is_taken_for_them() -> None:
    assert geometry_name("FacebookAI/roberta-large") == "roberta-large"
    assert geometry_name("meta-llama/llama-3.2-1b") == "Llama-3.2-1B"
    assert geometry_name("distilbert-base") == "distilbert-base-uncased"
    for other in ("FacebookAI/xlm-roberta-large", "bert-base-cased", "distilbert-base-uncased-finetuned", ""):
        assert geometry_name(other) is None
    assert near_geometry("distilbert-base-uncasd") == "distilbert-base-uncased"
    assert len(GEOMETRIES) >= 17
