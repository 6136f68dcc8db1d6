"""A named GPU's memory, against torch's rules for cuBLAS's workspaces and bytes worked out by hand."""

from __future__ import annotations

import pytest

from peprof.errors import UsageError
from peprof.estimation.gpu_memory import cublas_workspace, memory_of
from peprof.gpus.known import KNOWN


@pytest.mark.parametrize("name", [gpu.name for gpu in KNOWN])
def test_every_figure_says_how_well_it_is_known_and_why(name: str) -> None:
    found = memory_of(name)
    for figure in (found.total, found.context, found.cublas, found.cublaslt):
        assert figure.nbytes >= 0
        assert figure.certainty in ("exact", "assumed")
        assert len(figure.source) > 10
    assert found.capacity_bytes == found.total.nbytes - found.context.nbytes


@pytest.mark.parametrize(
    ("capability", "nbytes"),
    [((9, 0), 33_554_432), ((8, 0), 8_519_680), ((10, 0), 8_519_680), ((7, 5), 8_519_680)],
)
def test_cublas_has_32_mebibytes_on_hopper_and_a_quarter_elsewhere(
    capability: tuple[int, int], nbytes: int
) -> None:
    assert cublas_workspace(capability).nbytes == nbytes


@pytest.mark.parametrize(
    ("config", "nbytes"), [(":4096:8", 33_554_432), (":16:8", 131_072), (":4096:2:16:8", 8_519_680)]
)
def test_the_setting_counts_more(config: str, nbytes: int) -> None:
    assert cublas_workspace((9, 0), config=config).nbytes == nbytes
    assert cublas_workspace((9, 0), config=config).source == f"CUBLAS_WORKSPACE_CONFIG={config}"


def test_a_setting_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="'4096' is no setting; expected :SIZE:COUNT"):
        memory_of("H100", cublas_workspace_config="4096")


def test_workspaces_are_blocks_of_their_own() -> None:
    assert memory_of("H100").workspaces_bytes == (33_554_432,)
    assert memory_of("T4", unified_workspace=False).workspaces_bytes == (8_519_680, 1_048_576)


def test_a_gpu_that_is_not_known_is_refused() -> None:
    with pytest.raises(UsageError, match="Did you mean 'H100'"):
        memory_of("H10O")
