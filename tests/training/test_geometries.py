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
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_the_published_ones(name: str) -> None:
    with torch.device("meta"):
        model = AutoModel.from_config(known_config(name))
    assert sum(parameter.numel() for parameter in model.parameters()) == PUBLISHED[name]


def test_v1_1_is_gated_and_t5_is_not() -> None:
    assert known_config("t5-v1_1-base").is_gated_act
    assert not known_config("t5-base").is_gated_act


def test_names_are_found_by_hub_id_in_any_case_and_no_other_model_is_taken_for_them() -> None:
    assert geometry_name("FacebookAI/roberta-large") == "roberta-large"
    assert geometry_name("meta-llama/llama-3.2-1b") == "Llama-3.2-1B"
    assert geometry_name("distilbert-base") == "distilbert-base-uncased"
    for other in ("FacebookAI/xlm-roberta-large", "bert-base-cased", "distilbert-base-uncased-finetuned", ""):
        assert geometry_name(other) is None
    assert near_geometry("distilbert-base-uncasd") == "distilbert-base-uncased"
    assert len(GEOMETRIES) >= 17
