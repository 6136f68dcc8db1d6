"""Model geometries by their usual names, so that ``weights = "random"`` needs no download.

The values are those of each model's published ``config.json`` on the hub; parameter counts in the tests.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

_BERT = {"model_type": "bert", "vocab_size": 30522, "max_position_embeddings": 512, "type_vocab_size": 2}
_ROBERTA = {
    "model_type": "roberta",
    "vocab_size": 50265,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
_LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
_T5 = {
    "model_type": "t5",
    "vocab_size": 32128,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}
_T5_V1_1 = {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
_T5_SIZES: dict[str, dict[str, int]] = {
    "small": {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8},
    "base": {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12},
    "large": {"d_model": 1024, "d_kv": 64, "d_ff": 4096, "num_layers": 24, "num_heads": 16},
    "3b": {"d_model": 1024, "d_kv": 128, "d_ff": 16384, "num_layers": 24, "num_heads": 32},
    "11b": {"d_model": 1024, "d_kv": 128, "d_ff": 65536, "num_layers": 24, "num_heads": 128},
}
_T5_V1_1_SIZES: dict[str, dict[str, int]] = {
    "small": {"d_model": 512, "d_kv": 64, "d_ff": 1024, "num_layers": 8, "num_heads": 6},
    "base": {"d_model": 768, "d_kv": 64, "d_ff": 2048, "num_layers": 12, "num_heads": 12},
    "large": {"d_model": 1024, "d_kv": 64, "d_ff": 2816, "num_layers": 24, "num_heads": 16},
    "xl": {"d_model": 2048, "d_kv": 64, "d_ff": 5120, "num_layers": 24, "num_heads": 32},
}
_LLAMA = {
    "model_type": "llama",
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "pad_token_id": 128004,
    "num_key_value_heads": 8,
}


def _llama_rope(factor: float) -> dict[str, Any]:
    return {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
    }


def _plain_rope(theta: float) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta}}


# Their tokenizers know no padding; <unk> is what people take for it, and a classifier needs one.
_SENTENCEPIECE = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_LLAMA_2 = {
    "model_type": "llama",
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    **_SENTENCEPIECE,
    **_plain_rope(10000.0),
}
_LLAMA_3 = {**_LLAMA, **_plain_rope(500000.0), "max_position_embeddings": 8192}
_LLAMA_8B = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "head_dim": 128,
    "intermediate_size": 14336,
    "tie_word_embeddings": False,
}
_LLAMA_70B = {
    "hidden_size": 8192,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "head_dim": 128,
    "intermediate_size": 28672,
    "tie_word_embeddings": False,
}
_MISTRAL_7B = {
    "model_type": "mistral",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 14336,
    "tie_word_embeddings": False,
    **_SENTENCEPIECE,
}
_QWEN = {
    "model_type": "qwen2",
    "rms_norm_eps": 1e-6,
    "use_sliding_window": False,
    "bos_token_id": 151643,
    "eos_token_id": 151643,
    "pad_token_id": 151643,
    **_plain_rope(1000000.0),
}
_QWEN_SMALL = {**_QWEN, "vocab_size": 151936, "num_key_value_heads": 2, "tie_word_embeddings": True}
_QWEN_7B = {
    **_QWEN,
    "vocab_size": 152064,
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "intermediate_size": 18944,
    "tie_word_embeddings": False,
}
_QWEN_LARGE = {
    **_QWEN,
    "vocab_size": 152064,
    "rms_norm_eps": 1e-5,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
}
_SHORT, _LONG = 32768, 131072
_QWEN_SIZES: dict[str, dict[str, Any]] = {
    "0.5B": {
        **_QWEN_SMALL,
        "hidden_size": 896,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "intermediate_size": 4864,
    },
    "1.5B": {
        **_QWEN_SMALL,
        "hidden_size": 1536,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "intermediate_size": 8960,
    },
    "3B": {
        **_QWEN_SMALL,
        "hidden_size": 2048,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "intermediate_size": 11008,
    },
    "7B": _QWEN_7B,
    "14B": {
        **_QWEN_LARGE,
        "hidden_size": 5120,
        "num_hidden_layers": 48,
        "num_attention_heads": 40,
        "intermediate_size": 13824,
    },
    "32B": {
        **_QWEN_LARGE,
        "hidden_size": 5120,
        "num_hidden_layers": 64,
        "num_attention_heads": 40,
        "intermediate_size": 27648,
    },
    "72B": {
        **_QWEN_LARGE,
        "hidden_size": 8192,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "intermediate_size": 29568,
    },
}
_QWEN_2_POSITIONS = {"0.5B": _LONG, "1.5B": _LONG, "7B": _LONG}
_QWEN_2_5_POSITIONS = {
    "0.5B": _SHORT,
    "1.5B": _LONG,
    "3B": _SHORT,
    "7B": _LONG,
    "14B": _LONG,
    "32B": _LONG,
    "72B": _LONG,
}


def _qwens(generation: str, positions: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """Base models and those that follow instructions, which differ in their positions."""
    found: dict[str, dict[str, Any]] = {}
    for size, longest in positions.items():
        name = f"{generation}-{size}"
        found[name] = {**_QWEN_SIZES[size], "max_position_embeddings": longest}
        found[f"{name}-Instruct"] = {**_QWEN_SIZES[size], "max_position_embeddings": _SHORT}
    return found


GEOMETRIES: dict[str, dict[str, Any]] = {
    "distilbert-base-uncased": {
        "model_type": "distilbert",
        "vocab_size": 30522,
        "max_position_embeddings": 512,
        "dim": 768,
        "n_layers": 6,
        "n_heads": 12,
        "hidden_dim": 3072,
        "pad_token_id": 0,
    },
    "bert-base-uncased": dict(_BERT),
    "bert-large-uncased": {**_BERT, **_LARGE},
    "roberta-base": dict(_ROBERTA),
    "roberta-large": {**_ROBERTA, **_LARGE},
    "all-MiniLM-L6-v2": {
        **_BERT,
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
    },
    **{f"t5-{size}": {**_T5, **values} for size, values in _T5_SIZES.items()},
    **{f"t5-v1_1-{size}": {**_T5_V1_1, **values} for size, values in _T5_V1_1_SIZES.items()},
    "Llama-3.2-1B": {
        **_LLAMA,
        **_llama_rope(32.0),
        "hidden_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "head_dim": 64,
        "intermediate_size": 8192,
        "tie_word_embeddings": True,
    },
    "Llama-3.2-3B": {
        **_LLAMA,
        **_llama_rope(32.0),
        "hidden_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "head_dim": 128,
        "intermediate_size": 8192,
        "tie_word_embeddings": True,
    },
    "Llama-3.1-8B": {**_LLAMA, **_llama_rope(8.0), **_LLAMA_8B},
    "Llama-3.1-70B": {**_LLAMA, **_llama_rope(8.0), **_LLAMA_70B},
    "Llama-3.3-70B": {**_LLAMA, **_llama_rope(8.0), **_LLAMA_70B},
    "Llama-3-8B": {**_LLAMA_3, **_LLAMA_8B},
    "Llama-3-70B": {**_LLAMA_3, **_LLAMA_70B},
    "Llama-2-7B": {
        **_LLAMA_2,
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "intermediate_size": 11008,
    },
    "Llama-2-13B": {
        **_LLAMA_2,
        "hidden_size": 5120,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "num_key_value_heads": 40,
        "intermediate_size": 13824,
    },
    "Mistral-7B-v0.1": {
        **_MISTRAL_7B,
        **_plain_rope(10000.0),
        "vocab_size": 32000,
        "sliding_window": 4096,
    },
    "Mistral-7B-v0.3": {
        **_MISTRAL_7B,
        **_plain_rope(1000000.0),
        "vocab_size": 32768,
        "sliding_window": None,
    },
    **_qwens("Qwen2.5", _QWEN_2_5_POSITIONS),
    **_qwens("Qwen2", _QWEN_2_POSITIONS),
}

_ALIASES = {
    "distilbert-base": "distilbert-base-uncased",
    "bert-base": "bert-base-uncased",
    "bert-large": "bert-large-uncased",
    "minilm-l6": "all-MiniLM-L6-v2",
    "xlm-roberta-large": "",  # has another vocabulary: not to be taken for roberta-large
}
_FAMILIES = re.compile(r"(meta-)?(llama|mistral|qwen)")
_TRAINING = re.compile(r"-(instruct|chat|base|hf)(?=-|$)")


def geometry_name(name: str) -> str | None:
    """A hub id or usual name -> the name under which its geometry is known; ``None`` if it isn't.

    ``FacebookAI/roberta-large`` and ``roberta-large`` are one; upper and lower case don't matter. Nor does it
    for a Llama, Mistral or Qwen whether it was trained to follow instructions.

    Example:
        >>> geometry_name("meta-llama/Meta-Llama-3-8B-Instruct"), geometry_name("Llama-2-7b-chat-hf")
        ('Llama-3-8B', 'Llama-2-7B')
    """
    usual = name.rsplit("/", 1)[-1].lower()
    usual = _ALIASES.get(usual, usual)
    known = {geometry.lower(): geometry for geometry in GEOMETRIES}
    return known.get(usual.lower()) or known.get(_without_training(usual.lower()))


def _without_training(name: str) -> str:
    """Of families whose models are alike whatever they were trained for last: without what says that."""
    if _FAMILIES.match(name) is None:
        return name
    return _TRAINING.sub("", name.removeprefix("meta-"))


def near_geometry(name: str) -> str | None:
    """The known name that looks most like ``name``."""
    known = {geometry.lower(): geometry for geometry in GEOMETRIES}
    near = difflib.get_close_matches(name.rsplit("/", 1)[-1].lower(), known, n=1)
    return known[near[0]] if near else None


def known_config(name: str, **overrides: Any) -> PretrainedConfig:
    """The configuration of a known geometry.

    Args:
        name: as ``geometry_name`` takes it.
        overrides: laid over it, e.g. ``num_labels``.

    Raises:
        KeyError: the geometry isn't known.
    """
    known = geometry_name(name)
    if known is None:
        raise KeyError(name)
    values = {**GEOMETRIES[known], **overrides}
    return AutoConfig.for_model(values.pop("model_type"), **values)


def untie_output(model: PreTrainedModel) -> None:
    """Gives a T5 v1.1 that writes an output matrix of its own, as its checkpoints have.

    transformers 5 ties that of every T5 to the embedding, and finds out only from a checkpoint which holds
    both that it shouldn't: made from its configuration alone, the model would be smaller than it is.

    Args:
        model: with random weights; changed in place. One of another kind is left as it is.
    """
    # What the configuration keeps of a ``tie_word_embeddings = false``.
    if getattr(model.config, "scale_decoder_outputs", True) or not hasattr(model, "lm_head"):
        return
    output = torch.empty_like(model.lm_head.weight)
    model.lm_head.weight = nn.Parameter(nn.init.normal_(output, std=model.config.initializer_factor))
