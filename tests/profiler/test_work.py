"""Floating-point operations against formulas written from each method's mathematics.

One DistilBERT block with eager attention, and its head. Letters: B rows of L tokens, T = B L; width d,
feed-forward f, C classes. A product (m, k) by (k, n) takes 2 m k n operations. A linear layer's backward
takes as many as its forward for the gradient of its input, and as many for that of its weight, each only if
it is needed. Attention is two products of 2 B L L d; its backward four, one for each of dP, dV, dK and dQ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from peprof.devices import Mark, no_mark
from peprof.profiler.work import StepWork, WorkCounter, measure_work
from peprof.running.methods import enable_checkpointing
from peprof.suite.catalogue import known_methods
from peprof.training.batches import Batch
from peprof.training.step import ClassifierStep
from tests.profiler.models import batch_of, build
from tests.profiler.steps import MlpStep

B, L, T = 3, 7, 21
d, f, C = 32, 52, 2
HEADS = 4

HEAD = 2 * B * d * d + 2 * B * d * C
"""Forward of the head: the first position's dense layer and the classifier."""
HEAD_BACKWARD = 2 * HEAD
"""Both of its layers need the gradients of inputs and weights."""
PROJECTION = 2 * T * d * d
FEEDFORWARD = 2 * (2 * T * d * f)
ATTENTION = 2 * (2 * B * L * L * d)
BASE = 4 * PROJECTION + FEEDFORWARD + ATTENTION + HEAD

# If nothing before attention is trained: the gradient goes back through the feed-forward's two layers and the
# attention's output layer, whose weights are frozen, and on to what of the attention is asked for.
DOWN_TO_ATTENTION = HEAD_BACKWARD + FEEDFORWARD + PROJECTION
# dP, dV, and one of dQ and dK: the other's projection is frozen and its input needs no gradient.
THREE_QUARTERS = 3 * (2 * B * L * L * d)


@dataclass(frozen=True)
class Work:
    forward: int
    backward: int
    options: dict[str, Any]


def low_rank(**options: int) -> Work:
    """y = W x + B (A x) for query and value: A x, B of it; back: dA x, A's gradient and B's."""
    r = next(iter(options.values()))
    return Work(BASE + 2 * (4 * T * d * r), DOWN_TO_ATTENTION + THREE_QUARTERS + 2 * (6 * T * d * r), options)


def lora_on_all(r: int) -> Work:
    """Six layers: four of d x d, two of d x f. Query, key and value don't hand on a gradient."""
    ranks = 4 * (4 * T * d * r) + 2 * (2 * T * r * (d + f))
    # Each A and B: gradient of A x, of A, of B; and for the last three layers, of x through A.
    square, wide = 2 * T * d * r, T * r * (d + f)  # one product with A or B; of two in f x d on average
    attention = 2 * ATTENTION
    backward = HEAD_BACKWARD + FEEDFORWARD + PROJECTION + attention
    backward += 3 * (3 * square) + 4 * square + 2 * (4 * wide)
    options = {
        "rank": r,
        "targets": [
            *("attention.query", "attention.key", "attention.value", "attention.output"),
            *("feedforward.up", "feedforward.down"),
        ],
    }
    return Work(BASE + ranks, backward, options)


def dora(r: int) -> Work:
    """As LoRA; the norms of W + s B A need W A', A A' and B (A A'), once a forward, without a gradient."""
    lora = low_rank(rank=r)
    norms = 2 * d * d * r + 2 * r * r * d + 2 * d * r * r
    return Work(lora.forward + 2 * norms, lora.backward, {"rank": r})


def lora_fa(r: int) -> Work:
    """A is frozen: of its three products backward has only that for B's gradient."""
    return Work(
        BASE + 2 * (4 * T * d * r), DOWN_TO_ATTENTION + THREE_QUARTERS + 2 * (2 * T * d * r), {"rank": r}
    )


def vera(r: int) -> Work:
    """A and B are frozen; one product of B's size gives, with the other vector, each one's gradient."""
    backward = DOWN_TO_ATTENTION + THREE_QUARTERS + 2 * (2 * T * d * r + 2 * (2 * d * r))
    return Work(BASE + 2 * (4 * T * d * r), backward, {"rank": r})


def adalora(r: int) -> Work:
    """As LoRA, and a term ||Q Q' - I|| + ||P' P - I||: two products, of which each has two in backward."""
    lora = low_rank(initial_rank=r)
    gram = 2 * r * r * d
    options = {"initial_rank": r, "target_rank": r - 2}
    return Work(lora.forward + 2 * 2 * gram, lora.backward + 2 * 2 * 2 * gram, options)


def ladder(reduction: int, *, fusion: Fused | None = None, rank: int | None = None, **options: Any) -> Work:
    """The backbone forward only; two downsamplings, a side block of width w, the first position upsampled."""
    w, g = d // reduction, f // reduction
    block = 4 * (2 * T * w * w) + 2 * (2 * T * w * g) + 2 * (2 * B * L * L * w)
    up = 2 * B * w * d
    # The downsamplings read the backbone: only their weights' gradients are needed, and where the one of the
    # layer is of two matrices, that of what lies between them. The one of the embeddings is always whole.
    down = down_backward = first = 2 * T * d * w
    if rank is not None:
        down, down_backward = 2 * T * rank * (d + w), 2 * T * rank * (d + 2 * w)
        options["downsample_rank"] = rank
    fused = fusion(w) if fusion is not None else Work(0, 0, {})
    return Work(
        BASE + first + down + block + up + fused.forward,
        HEAD_BACKWARD + 2 * up + 2 * block + first + down_backward + fused.backward,
        {"reduction": reduction} | options | fused.options,
    )


Fused = Callable[[int], Work]
"""Width of a side layer -> what its fusion takes; static gates are no products."""


def dynamic_fusion(w: int) -> Work:
    """A linear of w x 1 of one mean a row."""
    gate = 2 * B * w
    return Work(gate, 2 * gate, {"fusion": "dynamic"})


def attention_fusion(w: int) -> Work:
    """Four projections, and attention as the CPU fuses it: backward makes the scores once more."""
    projections, attention = 4 * (2 * T * w * w), 2 * (2 * B * L * L * w)
    return Work(projections + attention, 2 * projections + 5 * attention // 2, {"fusion": "attention"})


def window_fusion(w: int) -> Work:
    """Queries and outputs of T positions; keys and values of k states for each, and of k places.

    The scores and the sum of values are products by element, which no counter of matrix products has.
    """
    k = 3
    projections = 2 * (2 * T * w * w) + 2 * (2 * k * T * w * w) + 2 * (2 * k * w * w)
    return Work(projections, 2 * projections, {"fusion": "window", "window": k})


def adapters(m: int, *, houlsby: bool) -> Work:
    """Two layers of d x m. The first adapter's input needs no gradient; a second one's does."""
    product = 2 * T * d * m
    if not houlsby:
        return Work(BASE + 2 * product, HEAD_BACKWARD + 3 * product, {"bottleneck": m})
    return Work(BASE + 4 * product, HEAD_BACKWARD + FEEDFORWARD + 7 * product, {"bottleneck": m})


def compacter(m: int, n: int, k: int) -> Work:
    """y in n blocks by s, then by A and t; u and A, then by v; blocks carry one more column each for e."""
    by_s = 2 * (T * n) * (d // n) * (n * k)
    by_t = 2 * T * (n * n * k) * m
    by_u = 2 * T * m * (n * (n * k + n))
    by_v = 2 * (T * n) * (n * k + n) * (d // n)
    once = by_s + by_t + by_u + by_v
    backward = HEAD_BACKWARD + FEEDFORWARD + 2 * (2 * once) - by_s  # the first one's y needs no gradient
    return Work(BASE + 2 * once, backward, {"bottleneck": m, "n": n, "rank": k})


def prompt(p: int) -> Work:
    """All rows are p longer; the prompt is at the bottom, so each layer's input needs its gradient."""
    long = L + p
    linear = 8 * (B * long) * d * d + 4 * (B * long) * d * f
    attention = 4 * B * long * long * d
    return Work(linear + attention + HEAD, linear + 2 * attention + HEAD_BACKWARD, {"tokens": p})


def prefix(p: int, hidden: int | None) -> Work:
    """p more keys and values; they and the own ones are one tensor, so dK and dV are of all, dQ isn't needed.

    The network that makes them has layers of d x hidden and hidden x 2 d, over p rows.
    """
    attention = 2 * (2 * B * L * (L + p) * d)
    network = 0 if hidden is None else 2 * p * d * hidden + 2 * p * hidden * 2 * d
    forward = 4 * PROJECTION + FEEDFORWARD + attention + HEAD + network
    backward = DOWN_TO_ATTENTION + 3 * attention // 2 + 2 * network
    return Work(forward, backward, {"tokens": p} | ({} if hidden is None else {"hidden": hidden}))


def parts() -> dict[str, Work]:
    through_all = 4 * PROJECTION + FEEDFORWARD + 2 * ATTENTION  # gradients of all inputs, of no weight
    attention_trained = PROJECTION + FEEDFORWARD + 2 * ATTENTION + 4 * PROJECTION
    return {
        "full": Work(BASE, 2 * BASE, {}),
        "head": Work(BASE, HEAD_BACKWARD - 2 * B * d * d, {}),  # what the head reads needs no gradient
        "last_layers": Work(BASE, 2 * BASE - 3 * PROJECTION, {}),  # nor what the layer reads
        "bitfit": Work(BASE, HEAD_BACKWARD + through_all, {}),  # the embedding's norm has a bias
        "layernorm": Work(BASE, HEAD_BACKWARD + through_all, {}),
        "parameters": Work(BASE, HEAD_BACKWARD + attention_trained, {}),
        # As executed: the dense gradient of each weight is made, and its selected entries are kept.
        "sparse": Work(BASE, HEAD_BACKWARD + attention_trained + FEEDFORWARD, {"density": 0.2}),
        "ia3": Work(BASE, DOWN_TO_ATTENTION + THREE_QUARTERS, {}),
    }


WORK = parts() | {
    "lora": low_rank(rank=5),
    "lora/all": lora_on_all(3),
    "lora_fa": lora_fa(5),
    "pissa": low_rank(rank=5),
    "siva": low_rank(rank=5),
    "dora": dora(5),
    "vera": vera(5),
    "adalora": adalora(5),
    "lst": ladder(4),
    "lst/rank": ladder(4, rank=3),
    "lst/dynamic": ladder(4, fusion=dynamic_fusion),
    "lst/attention": ladder(4, fusion=attention_fusion),
    "lst/window": ladder(4, fusion=window_fusion),
    "houlsby": adapters(6, houlsby=True),
    "pfeiffer": adapters(6, houlsby=False),
    "parallel_adapter": adapters(6, houlsby=False),
    "compacter": compacter(12, 4, 1),
    "compacter/rank 2": compacter(6, 2, 2),
    "prompt_tuning": prompt(5),
    "prefix_tuning": prefix(5, 11),
    "p_tuning_v2": prefix(5, None),
}


def block(attention: str = "eager", device: str = "cpu") -> DistilBertForSequenceClassification:
    config = DistilBertConfig(
        vocab_size=50,
        max_position_embeddings=16,
        dim=d,
        hidden_dim=f,
        n_heads=HEADS,
        n_layers=1,
        dropout=0.0,
        attention_dropout=0.0,
        seq_classif_dropout=0.0,
        num_labels=C,
        attn_implementation=attention,
    )
    torch.manual_seed(0)
    with torch.device(device):
        return DistilBertForSequenceClassification(config)


def batch(device: str = "cpu") -> Batch:
    ids = torch.full((B, L), 3)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.arange(B) % C}
    return Batch(inputs={name: tensor.to(device) for name, tensor in inputs.items()}, real_tokens=T)


def step_of(case: str, *, device: str = "cpu", attention: str = "eager", **kwargs: Any) -> ClassifierStep:
    method: Any = known_methods()[case.partition("/")[0]].construct(WORK[case].options)
    model = method.apply(block(attention, device))
    term: Callable[[], torch.Tensor] | None = None
    if hasattr(method, "loss_term"):

        def term() -> torch.Tensor:
            loss: torch.Tensor = method.loss_term(model)
            return loss

    trained = [p for p in model.parameters() if p.requires_grad]
    return ClassifierStep(model, torch.optim.AdamW(trained, foreach=True), loss_term=term, **kwargs)


def by_phase(work: StepWork) -> dict[str, int]:
    return {phase.phase: phase.flops for phase in work.phases}


def test_every_built_in_method_has_a_formula() -> None:
    built_in = {name for name, entry in known_methods().items() if entry.distribution == "peprof"}
    assert {case.partition("/")[0] for case in WORK} == built_in


@pytest.mark.parametrize("case", WORK)
def test_operations_are_those_of_the_mathematics(case: str) -> None:
    found = measure_work(step_of(case), [batch()])
    expected = {"forward": WORK[case].forward, "backward": WORK[case].backward, "clip": 0, "optimizer": 0}
    assert by_phase(found) == expected
    assert not found.uncounted


@pytest.mark.parametrize("case", ["full", "lora", "lst"])
def test_meta_tensors_count_the_same(case: str) -> None:
    real, without_data = (
        measure_work(step_of(case, device=device), [batch(device)]) for device in ("cpu", "meta")
    )
    assert by_phase(without_data) == by_phase(real)
    assert [phase.bytes_accessed for phase in without_data.phases[:2]] == [
        phase.bytes_accessed for phase in real.phases[:2]
    ]


def test_checkpointed_layers_count_again_in_backward() -> None:
    step = step_of("full")
    enable_checkpointing(step.model)
    layer = 4 * PROJECTION + FEEDFORWARD + ATTENTION
    found = by_phase(measure_work(step, [batch()]))
    assert (found["forward"], found["backward"]) == (BASE, 2 * BASE + layer)


def test_parts_of_a_batch_add_up() -> None:
    found = by_phase(measure_work(step_of("full", parts=3), [batch()]))
    assert (found["forward"], found["backward"]) == (BASE, 2 * BASE)


def test_autocast_does_as_much_in_another_type() -> None:
    found = by_phase(measure_work(step_of("lora", autocast="bfloat16"), [batch()]))
    assert (found["forward"], found["backward"]) == (WORK["lora"].forward, WORK["lora"].backward)


def test_fused_attention_of_cpus_is_counted_and_makes_the_scores_again_in_backward() -> None:
    found = measure_work(step_of("full", attention="sdpa"), [batch()])
    forward, backward = found.phase("forward"), found.phase("backward")
    assert forward is not None and backward is not None
    assert forward.flops_by_operator["aten._scaled_dot_product_flash_attention_for_cpu"] == ATTENTION
    assert (forward.flops, backward.flops) == (BASE, 2 * BASE + ATTENTION // 2)
    assert not found.uncounted


@pytest.mark.parametrize(("architecture", "method"), [("t5", "full"), ("llama", "frozen"), ("bert", "lst")])
def test_agrees_with_the_counter_of_torch(architecture: str, method: str) -> None:
    """Where every operator that runs is one that torch's counter knows."""
    model = build(architecture, method)
    inputs = batch_of(architecture)

    def step(inputs: Any, mark: Mark = no_mark) -> None:
        mark("forward")
        loss = model(**inputs).loss
        mark("backward")
        loss.backward()
        mark(None)
        model.zero_grad()

    with FlopCounterMode(display=False) as counter:
        step(inputs)
    found = measure_work(step, [inputs], warmup_steps=0)
    assert found.flops == counter.get_total_flops() > 0
    assert not found.uncounted


def test_products_in_place_and_with_vectors_are_counted() -> None:
    m, k, n = 3, 5, 7
    left, right, vector = torch.randn(m, k), torch.randn(k, n), torch.randn(k)
    with WorkCounter() as counter:
        torch.zeros(m, n).addmm_(left, right)
        torch.zeros(2, m, n).baddbmm_(left.expand(2, m, k), right.expand(2, k, n))
        left @ vector
        vector @ vector
    assert counter.result().flops == 2 * (m * k * n + 2 * m * k * n + m * k + k)


def test_what_is_made_of_other_operators_is_counted_in_inference_mode() -> None:
    with torch.inference_mode(), WorkCounter() as counter:
        nn.functional.linear(torch.randn(4, 3), torch.randn(2, 3))
    assert counter.result().flops == 2 * 4 * 3 * 2


def test_work_without_a_formula_is_named() -> None:
    with WorkCounter() as counter:
        torch.linalg.svd(torch.randn(4, 4))
        torch.cdist(torch.randn(3, 2), torch.randn(3, 2))
        torch.randn(4, 4).softmax(1).sum().sqrt()
    assert set(counter.result().uncounted) == {"aten._linalg_svd", "aten._cdist_forward"}


def test_bytes_are_those_worked_out_by_hand() -> None:
    n, a, b = 6, 5, 3
    weight, rows = torch.randn(b, a), torch.randn(n, a)
    table, indices = torch.randn(1000, a), torch.tensor([7, 8])
    with WorkCounter() as counter:
        counter.mark("product")
        made = rows @ weight.t()  # a view costs nothing
        counter.mark("in place")
        made.mul_(2.0)
        counter.mark("copy")
        torch.empty(n, b).copy_(made)
        counter.mark("repeated")
        made + torch.ones(1, 1).expand(n, b)
        counter.mark("looked up")
        nn.functional.embedding(indices, table)
    found = {phase.phase: phase.bytes_accessed for phase in counter.result().phases}
    assert found == {
        "product": 4 * (n * a + a * b + n * b),
        "in place": 4 * 2 * n * b,
        "copy": 4 * 2 * n * b,
        "repeated": 4 + 4 * (2 * n * b + 1),  # the single 1 is written, and read once
        "looked up": 4 * (2 * 2 * a) + 8 * 2,
    }


def test_a_step_that_marks_nothing_is_one_phase() -> None:
    step = MlpStep(8, 16, 4, adam=False)
    found = measure_work(lambda rows: step(rows), [torch.randn(5, 8)])
    # The first layer's input needs no gradient.
    assert by_phase(found) == {"other": 2 * 5 * (3 * 16 * 4 + 2 * 8 * 16)}
    assert step.calls == 2


def test_bad_use_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one batch"):
        measure_work(lambda rows: None, [])
    with pytest.raises(ValueError, match="at least 0, not -1"):
        measure_work(lambda rows: None, [0], warmup_steps=-1)
