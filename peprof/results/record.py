"""What one run found: the record that is stored, its format's version and that format's history.

Raw samples are kept; statistics are derived from them on reading. What was not measured is ``None``, never 0.

Format history:
    1: first.
    2: whose the peak's bytes are (``short.breakdown``, and ``memory.json`` beside the record); the caching
        allocator's counters by phase; what was alive when memory ran out; what a text-to-text task wrote
        (``exact_matches`` and ``invalid`` of an evaluation, the task's keys in ``spec.data``).
    3: metrics by name beside the count of right answers, which is ``None`` where nothing is right or wrong;
        the result's intervals, its answers one by one (``predictions.json``); what a full phase's seconds
        were spent on, its peak, its energy, why it stopped; the history by phase, with gradient norms and
        tokens; the commit.
    4: the host's and wall time of steps (``short.times.host``, ``wall``, ``enqueue``, ``pass_s``), whether
        the warm-up ended steady, rounds; ``extra_warmup_steps``, ``min_seconds`` and ``rounds`` in
        ``spec.short``.
    5: what a step's memory was computed to be without running it (``estimate``); ``estimate`` in
        ``spec.short``, ``quantization`` in ``spec.model``.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from peprof.suite.planning import RunSpec

FORMAT_VERSION = 5

Status = Literal["ok", "oom", "failed", "timeout", "diverged"]


def utc_now() -> str:
    """The time as records have it: ISO 8601, UTC, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Piece(BaseModel):
    """A part of a record: immutable; unknown keys of later versions are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="strings")


class OutOfMemory(Piece):
    """Whose memory it was when there was no more; all of it lies beside the record in ``memory.json``.

    From a step that was run again under the ledger and failed again, maybe elsewhere than the first time.

    Args:
        phase: of the step.
        operator: that asked for more; ``None`` where it wasn't one of torch's.
        module: in which it ran; ``None`` outside of all.
        live_bytes: of all storages at that moment.
        categories: the same by category, largest first.
    """

    phase: str
    operator: str | None
    module: str | None
    live_bytes: int
    categories: dict[str, int]


class Failure(Piece):
    """Why a run has no complete result.

    Args:
        phase: what the run was doing: ``setup``, ``short: timing``, ``full: training`` ...
        kind: the error's type, or ``Signal`` / ``TimeLimit`` when the process said nothing.
        message: one line for people.
        hint: what to do next.
        requested_bytes: what an out-of-memory error had asked for.
        memory: whose the memory was when it ran out; ``None`` where that couldn't be found.
        exit_code: of the child process, negative for a signal; ``None`` when it answered itself.
        traceback: for a bug report; ``None`` when the process said nothing.
    """

    phase: str
    kind: str
    message: str
    hint: str | None = None
    requested_bytes: int | None = None
    memory: OutOfMemory | None = None
    exit_code: int | None = None
    traceback: str | None = None


class ParameterCounts(Piece):
    """Numbers of parameters (elements), shared ones counted once; backbone and head apart.

    Args:
        backbone: all that are not in the head, before the method is applied.
        head: the pooler and classifier, before the method is applied.
        trainable_backbone: trained ones outside the head, added ones included.
        trainable_head: trained ones in the head.
    """

    backbone: int
    head: int
    trainable_backbone: int
    trainable_head: int


class PhaseTimes(Piece):
    """Seconds of each of some steps, in order; all tuples have the same length.

    Args:
        step_s: of the whole step.
        forward_s, backward_s, optimizer_s: by phase.
        clip_s: of clipping the gradient; ``None`` when it isn't clipped.
    """

    step_s: tuple[float, ...]
    forward_s: tuple[float, ...]
    backward_s: tuple[float, ...]
    clip_s: tuple[float, ...] | None
    optimizer_s: tuple[float, ...]


class StepTimes(PhaseTimes):
    """Seconds of each measured step on ``clock``, and what the other clocks say, see ``profiler.latency``.

    On a CPU the host does the work itself: device, host and wall time are one, and kept once.

    Args:
        clock: ``perf_counter`` (host time) or ``cuda_events`` (device time).
        host: the same steps by the host's clock, which didn't wait: the time in which their work was queued,
            or where the queue was full the device's pace. ``None`` where ``clock`` is the host's.
        wall: of a few other steps, whose phases were each waited for. ``None`` where ``clock`` is the host's.
        enqueue: of these, the time in which their work was queued, with an empty queue before each phase.
        pass_s: wall time of all measured steps together; ``None`` in records of before format 4.
    """

    clock: Literal["perf_counter", "cuda_events"]
    host: PhaseTimes | None = None
    wall: PhaseTimes | None = None
    enqueue: PhaseTimes | None = None
    pass_s: float | None = None


class PoolPeaks(Piece):
    """The caching allocator's own peak counters over one phase, each at its own highest moment.

    Args:
        requested_bytes: what tensors and libraries asked for.
        allocated_bytes: in blocks that are in use; more than what was asked for by rounding.
        active_bytes: as allocated, and blocks that a stream may still be using.
        reserved_bytes: held from the device.
        inactive_split_bytes: free parts of blocks that are partly in use: they can't be given back.
    """

    requested_bytes: int
    allocated_bytes: int
    active_bytes: int
    reserved_bytes: int
    inactive_split_bytes: int


class PhaseMemory(Piece):
    """Live bytes in one phase of a step: the highest value within it, and the value at its end.

    Args:
        phase: its name.
        peak_bytes, end_bytes: allocated.
        pool: the caching allocator's counters; ``None`` where there is no such pool.
    """

    phase: str
    peak_bytes: int
    end_bytes: int
    pool: PoolPeaks | None = None


class MemoryResult(Piece):
    """Peak memory of one training step.

    Args:
        source: ``torch.profiler`` (CPU allocation events) or ``cuda_allocator`` (its own peak counters).
        start_bytes: live before the step: parameters, buffers, optimizer state, the batch.
        peak_allocated_bytes: highest live bytes in the step.
        peak_reserved_bytes: highest bytes held from the device; ``None`` where there is no such pool.
        phases: forward, backward, clip, optimizer, in order.
        alloc_retries: times the pool was emptied to find room, in the step; ``None`` where there is no pool.
        ooms: times that memory ran out in the step and somebody caught it; ``None`` where there is no pool.
        device_bytes: used on the device after the step as its management library tells, of this process
            where it can tell them apart; ``None`` where it can't be known.
        device_bytes_of: whose ``device_bytes`` are.
        unowned_bytes: of ``device_bytes``, what isn't held by torch's pool: the context, libraries, and where
            processes can't be told apart the others; ``None`` where it can't be known.
    """

    source: Literal["torch.profiler", "cuda_allocator"]
    start_bytes: int
    peak_allocated_bytes: int
    peak_reserved_bytes: int | None
    phases: tuple[PhaseMemory, ...]
    alloc_retries: int | None = None
    ooms: int | None = None
    device_bytes: int | None = None
    device_bytes_of: Literal["process", "device"] | None = None
    unowned_bytes: int | None = None


class PeakBreakdown(Piece):
    """Whose each byte of the peak is, in short; all of it lies beside the record in ``memory.json``.

    Counted by the ledger: requested bytes of storages, in a pass of its own.

    Args:
        peak_bytes: live bytes at the highest moment; the divisions below add up to it.
        peak_phase: in which it lies.
        categories: by category, largest first.
        owners: by backbone, adapter and head, largest first.
        saved_bytes: activations kept for backward when it begins.
        uncounted_bytes: the device's own peak less ``peak_bytes``: memory inside operators, workspaces,
            rounding.
    """

    peak_bytes: int
    peak_phase: str
    categories: dict[str, int]
    owners: dict[str, int]
    saved_bytes: int
    uncounted_bytes: int


class EnergyResult(Piece):
    """What steps took, counted over several seconds in a pass of its own. ``None``: see ``unavailable``.

    Energy is that of the device, by all that used it meanwhile: of a whole GPU, or of all processors.

    Args:
        steps: that were run meanwhile; 0 where there is no counter, so that nothing was run.
        seconds: from before the first of them to after the last; ``None`` where nothing was run.
        energy_j: the counter's difference.
        step_energy_j, sample_energy_j: of that, for each step and each example.
        mean_power_w: of that, for each second.
        counter_period_s: from one move of the counter to the next, as found.
        integrated_j: power over time, a second figure for ``energy_j``.
        power_kind: of the power that was integrated: ``instant``, or ``usage``, on recent cards the mean of
            a second.
        power_w, sm_clock_mhz, memory_clock_mhz, temperature_c: the lowest, the middle and the highest look.
        gpu_busy, memory_busy: the same for shares of time, each over up to a second before the look.
        memory_used_bytes, process_bytes: the highest that was seen of the device, by all and by this process.
        slowdowns: why clocks weren't higher -> share of the looks.
        violations_s: policy -> seconds for which it held clocks down, as the driver counts them.
        unavailable: figure -> why it is ``None``; ``energy_j`` stands for what is derived from it too.
    """

    steps: int
    seconds: float | None = None
    energy_j: float | None = None
    step_energy_j: float | None = None
    sample_energy_j: float | None = None
    mean_power_w: float | None = None
    counter_period_s: float | None = None
    integrated_j: float | None = None
    power_kind: Literal["instant", "usage"] | None = None
    power_w: tuple[float, float, float] | None = None
    sm_clock_mhz: tuple[float, float, float] | None = None
    memory_clock_mhz: tuple[float, float, float] | None = None
    temperature_c: tuple[float, float, float] | None = None
    gpu_busy: tuple[float, float, float] | None = None
    memory_busy: tuple[float, float, float] | None = None
    memory_used_bytes: int | None = None
    process_bytes: int | None = None
    slowdowns: dict[str, float] | None = None
    violations_s: dict[str, float] | None = None
    unavailable: dict[str, str] = Field(default_factory=dict)


class PhaseWorkResult(Piece):
    """What a phase of a training step has to do.

    Args:
        phase: its name.
        flops: floating-point operations of products, convolutions and attention, as executed.
        bytes_accessed: read and written by operators, without what caches keep.
    """

    phase: str
    flops: int
    bytes_accessed: int


class WorkResult(Piece):
    """What a training step has to do, counted in a pass of its own.

    Args:
        phases: in the order in which they were first entered.
        uncounted: operators that have work whose operations aren't known: the sums lack them.
        peak_flops_per_s: the device's, for the number format of the products; ``None`` where it isn't known.
        peak_words: which peak it is, or why there is none.
    """

    phases: tuple[PhaseWorkResult, ...]
    uncounted: tuple[str, ...] = ()
    peak_flops_per_s: float | None = None
    peak_words: str = ""


class InferenceTimesResult(Piece):
    """Seconds of each round of the inference pass.

    Args:
        forward_s: of a forward pass in evaluation mode.
        prefill_s: from a prompt to its first new token; empty where nothing is generated.
        token_s: of each further token; empty where nothing is generated.
    """

    forward_s: tuple[float, ...]
    prefill_s: tuple[float, ...] = ()
    token_s: tuple[float, ...] = ()


class InferenceCostResult(Piece):
    """What one form of a model costs when it is used.

    Args:
        times: of the model.
        plain: of the plain backbone in the same rounds.
        model_bytes: parameters and buffers.
        peak_bytes: these, and the most that a forward pass and its batch need beside them.
        cached: generates with a cache of keys and values; ``None`` where nothing is generated.
    """

    times: InferenceTimesResult
    plain: InferenceTimesResult | None
    model_bytes: int
    peak_bytes: int
    cached: bool | None = None


class InferenceResult(Piece):
    """What using a trained model costs, beside the plain backbone.

    Args:
        clock: as of ``StepTimes``.
        adapted: as it was trained.
        merged: with the adapter folded into the weights; ``None`` where the method can't.
        plain_peak_bytes: of the plain backbone.
        new_tokens: generated in each round; 0 where nothing was.
    """

    clock: Literal["perf_counter", "cuda_events"]
    adapted: InferenceCostResult
    merged: InferenceCostResult | None = None
    plain_peak_bytes: int | None = None
    new_tokens: int = 0


class TimedRound(Piece):
    """One of the rounds in which the methods of a suite were timed in turns, each time in a fresh process.

    Args:
        steps: measured ones; the rounds' samples follow each other in ``ShortResult.times``.
        warmup_steps, steady, stopped_by: as of ``ShortResult``.
        started_at: ISO 8601, UTC.
    """

    steps: int
    warmup_steps: int
    steady: bool | None
    stopped_by: Literal["steps", "max_seconds"]
    started_at: str


class ShortResult(Piece):
    """The short phase: single steps on batches padded to ``max_length``.

    Args:
        warmup_steps: steps really run before measuring; the fewest of any round.
        steady: whether the last of these took equally long, in all rounds; ``None`` where there were too few
            to tell.
        stopped_by: what ended the timing pass.
        batch_size: examples a step.
        padded_tokens: tokens a step, padding included.
        real_tokens: tokens of each measured step, padding left out.
        times: the timing pass; ``None`` when it didn't finish.
        memory: the memory pass, apart from the timing pass; ``None`` when it didn't finish.
        breakdown: the ledger's pass, apart from both; ``None`` when it didn't finish.
        work: operations and bytes of a step, in a pass of its own; ``None`` when it didn't finish.
        inference: of the model that the short phase trained; ``None`` where it wasn't asked for or didn't
            finish.
        energy: the energy pass, apart from all; ``None`` where it wasn't asked for or didn't finish.
        rounds: of the timing pass, in order; empty where it was done once, in the run itself.
    """

    warmup_steps: int
    stopped_by: Literal["steps", "max_seconds"]
    batch_size: int
    padded_tokens: int
    real_tokens: tuple[int, ...]
    times: StepTimes | None
    memory: MemoryResult | None
    breakdown: PeakBreakdown | None = None
    energy: EnergyResult | None = None
    work: WorkResult | None = None
    inference: InferenceResult | None = None
    steady: bool | None = None
    rounds: tuple[TimedRound, ...] = ()


class Evaluation(Piece):
    """One pass over the validation split.

    Args:
        step: training steps done before it.
        train_time_s: training seconds spent before it (sum of steps).
        correct: examples classified rightly; ``None`` where the task has no classes.
        total: examples evaluated.
        loss: mean over the examples (cross-entropy, squared error), or over the tokens to be written.
        time_s: seconds this evaluation took.
        exact_matches: answers that, written greedily, are the class's word and nothing else; ``None`` where
            nothing is written.
        invalid: answers that are no class's word; ``None`` where nothing is written.
        metrics: by name, the deciding one first; empty in records of before format 3.
        energy_j: joules that the device has taken in training steps before it; ``None`` where it can't tell.
    """

    step: int
    train_time_s: float
    correct: int | None
    total: int
    loss: float
    time_s: float
    exact_matches: int | None = None
    invalid: int | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    energy_j: float | None = None


class RunPeak(Piece):
    """The highest memory of a whole full phase, evaluations included.

    Args:
        source: ``cuda_allocator`` (its own counters), or ``process_rss``: the process as the system sees it,
            with the interpreter and all libraries.
        peak_bytes: allocated, or resident.
        start_bytes: the same before the first step.
        peak_reserved_bytes: held from the device; ``None`` where there is no pool.
    """

    source: Literal["cuda_allocator", "process_rss"]
    peak_bytes: int
    start_bytes: int
    peak_reserved_bytes: int | None = None


StopReason = Literal["epochs", "max_steps", "max_seconds", "early_stopping"]


class FullResult(Piece):
    """The full phase: a whole training. Its loss curve lies beside the record, see ``TrainingHistory``.

    Args:
        steps: training steps done.
        epochs: passes over the training split done, in fractions.
        train_time_s: sum of the training steps' seconds: no evaluation, no set-up.
        evaluation_time_s: sum of the evaluations' seconds.
        epoch_times_s: training seconds of each finished epoch.
        evaluations: in order.
        checkpoint_bytes: size on disk of what the method has to save.
        final_loss: mean training loss of the last (up to) 50 steps.
        result_step: of the evaluation that is the result; ``None`` in records of before format 3: the last.
        intervals: metric -> 95 % interval of the result, by resampling the examples.
        correct_bits: a hexadecimal number, of a digit for each four examples; its bit i, that of 2**i, is 1
            where the result's answer to example i is right, in the split's order; ``None`` where the task has
            no classes.
        stopped_by: what ended it.
        wall_time_s: seconds from the first batch to the end: steps, waiting, evaluations, checkpoints, over
            all attempts that a checkpoint joined.
        waiting_time_s: of these, waiting for batches.
        checkpoint_time_s: of these, keeping checkpoints.
        resumes: times that it went on from a checkpoint.
        peak: over the whole phase; of the last attempt, if it was resumed.
        energy_j: joules that the device has taken in training steps; ``None`` where it can't tell.
    """

    steps: int
    epochs: float
    train_time_s: float
    evaluation_time_s: float
    epoch_times_s: tuple[float, ...]
    evaluations: tuple[Evaluation, ...]
    checkpoint_bytes: int
    final_loss: float
    result_step: int | None = None
    intervals: dict[str, tuple[float, float]] = Field(default_factory=dict)
    correct_bits: str | None = None
    stopped_by: StopReason | None = None
    wall_time_s: float | None = None
    waiting_time_s: float | None = None
    checkpoint_time_s: float | None = None
    resumes: int = 0
    peak: RunPeak | None = None
    energy_j: float | None = None

    @property
    def result(self) -> Evaluation | None:
        """The evaluation that counts; ``None`` where there was none."""
        wanted = (one for one in self.evaluations if one.step == self.result_step)
        return next(wanted, self.evaluations[-1] if self.evaluations else None)


class TrainingHistory(Piece):
    """The full phase step by step; stored beside the record as ``history.json``.

    Equal lengths; what came with format 3 is empty in histories of before, and where it isn't known.

    Args:
        loss: mean over the batch.
        learning_rate: of the first group.
        step_time_s: seconds.
        forward_s, backward_s, clip_s, optimizer_s: seconds by phase.
        gradient_norm: before clipping, over all trained parameters.
        samples: examples of the step.
        real_tokens: tokens of the step, padding left out.
    """

    loss: tuple[float, ...]
    learning_rate: tuple[float, ...]
    step_time_s: tuple[float, ...]
    forward_s: tuple[float, ...] = ()
    backward_s: tuple[float, ...] = ()
    clip_s: tuple[float, ...] = ()
    optimizer_s: tuple[float, ...] = ()
    gradient_norm: tuple[float, ...] = ()
    samples: tuple[int, ...] = ()
    real_tokens: tuple[int, ...] = ()


class Predictions(Piece):
    """The result's answers one by one, in the split's order; beside the record as ``predictions.json``.

    Args:
        labels: classes or numbers that were to be found; empty for language modelling.
        predictions: what was found; for language modelling an example's summed negative log-likelihood.
        tokens: (language modelling) predicted tokens of each example; empty otherwise.
        written: (text-to-text) classes as they were written, -1 for what is no class's word; empty otherwise.
    """

    labels: tuple[float, ...]
    predictions: tuple[float, ...]
    tokens: tuple[int, ...] = ()
    written: tuple[int, ...] = ()


class DataFacts(Piece):
    """The data that was really used.

    Args:
        train_rows, validation_rows: examples after ``train_rows`` / ``validation_rows`` limits.
        num_labels: classes; 1 for regression, 0 for language modelling.
        fingerprint: hash of texts and labels, so that equal data can be recognised under any name.
        synthetic: made by peprof, not collected.
        class_names: what the classes 0, 1 ... are called in the data; empty where they are numbers there.
    """

    train_rows: int
    validation_rows: int
    num_labels: int
    fingerprint: str
    synthetic: bool
    class_names: tuple[str, ...] = ()


class ModelFacts(Piece):
    """The backbone that was really used.

    Args:
        architecture: the model's class.
        geometry: layers, width, heads ... in one line, e.g. ``6L-768d-12h-3072ff-30522v``.
        attention: the attention kernel really used.
        tokenizer: where it came from: ``hub``, ``directory``, ``embedded`` or ``made from the data``.
        synthetic: weights that are random, or pre-trained on generated text.
    """

    architecture: str
    geometry: str
    attention: str
    tokenizer: str
    synthetic: bool


class Environment(Piece):
    """Where a run was measured.

    Args:
        device: ``cpu`` or ``cuda``.
        device_name: as its vendor names it.
        device_uuid: of a GPU.
        driver, cuda: versions; ``None`` on CPU.
        threads: intra-op threads of torch.
        git_commit: of the working directory's repository; ``None`` where there is none.
        git_dirty: whether files that it keeps were changed since; ``None`` where there is no repository.
        bitsandbytes: version; ``None`` where it isn't installed, and in records from before it was noted.
    """

    peprof: str
    python: str
    torch: str
    transformers: str
    platform: str
    hostname: str
    device: str
    device_name: str
    device_uuid: str | None
    driver: str | None
    cuda: str | None
    threads: int
    git_commit: str | None = None
    git_dirty: bool | None = None
    bitsandbytes: str | None = None


Standing = Literal["exact", "by formula", "simulated", "assumed"]
"""How well a computed figure is known: counted, with a library's own bytes from its source, by a simulated
allocator, or from what was seen elsewhere."""


class EstimatedPhase(Piece):
    """The most that one phase of a step was computed to need.

    Args:
        phase: its name.
        peak_bytes: of all tensors.
    """

    phase: str
    peak_bytes: int


class EstimatedMemory(Piece):
    """The memory of the short phase's step, computed on tensors without data: nothing of it was measured.

    Args:
        kind: of the device whose operators it is about, ``cpu`` or ``cuda``.
        gpu: by whose kernels, libraries and pool; ``None`` for a CPU, and for a GPU that isn't known.
        peak_bytes: of all tensors at the step's highest moment, as the ledger counts them; ``None`` with a
            problem.
        peak_phase: in which it lies.
        phases: in order.
        categories: of the peak, as ``peprof estimate`` groups them; they add up to it.
        reserved_bytes: what the caching allocator would hold of a device that has room for all, workspaces
            included; ``None`` where no known GPU was simulated.
        device_bytes: with the device's context; ``None`` likewise.
        standing: ``tensors`` (the peak, its phases and categories), ``reserved_bytes``, ``device_bytes``
            -> how well these are known.
        there_bytes: for the process's tensors when it began: on a GPU what was free beside its context, on a
            CPU all that the process might have; ``None`` where nobody tells.
        assumptions: in words.
        problem: why there is no estimate; ``None`` where there is one.
    """

    kind: Literal["cpu", "cuda"]
    gpu: str | None = None
    peak_bytes: int | None = None
    peak_phase: str | None = None
    phases: tuple[EstimatedPhase, ...] = ()
    categories: dict[str, int] = Field(default_factory=dict)
    reserved_bytes: int | None = None
    device_bytes: int | None = None
    standing: dict[str, Standing] = Field(default_factory=dict)
    there_bytes: int | None = None
    assumptions: tuple[str, ...] = ()
    problem: str | None = None


class RunRecord(Piece):
    """One run's whole result.

    Args:
        format_version: of this record.
        run_id: ``spec.run_id``.
        spec: what was asked for.
        status: ``ok``, or why there is no complete result.
        failure: set unless ``status`` is ``ok``.
        started_at, finished_at: ISO 8601, UTC.
        setup_time_s: seconds from the child's start to a ready model and data.
        total_time_s: seconds from start to end of the run, and of its rounds before it.
        attempt: 1 for the first try; more when earlier tries had failed.
        warnings: what a reader should know of these numbers.
        estimate: of a step's memory; ``None`` where the suite didn't ask for it.
    """

    format_version: int = FORMAT_VERSION
    run_id: str
    spec: RunSpec
    status: Status
    failure: Failure | None = None
    parameters: ParameterCounts | None = None
    short: ShortResult | None = None
    full: FullResult | None = None
    data: DataFacts | None = None
    model: ModelFacts | None = None
    environment: Environment | None = None
    started_at: str
    finished_at: str
    setup_time_s: float | None = None
    total_time_s: float
    attempt: int = 1
    warnings: tuple[str, ...] = ()
    estimate: EstimatedMemory | None = None
