"""A named GPU's memory, against torch's rules for cuBLAS's workspaces and bytes worked out by hand."""

from __future__ import annotations

import pytest

from peprof.errors import UsageError
from peprof.estimation.gpu_memory import cublas_workspace, memory_of
from peprof.estimation.torch_version import TorchVersion
from peprof.gpus.known import KNOWN

VERSIONS: tuple[TorchVersion, ...] = ((2, 11), (2, 12), (2, 13))


@pytest.mark.parametrize("name", [gpu.name for gpu in KNOWN])
def test_every_figure_says_how_well_it_is_known_and_why(name: str) -> None:
    found = memory_of(name)
    for figure in (found.total, found.context, found.cublas, found.cublaslt):
        assert figure.nbytes >= 0
        assert figure.certainty in ("exact", "assumed")
        assert len(figure.source) > 10
    assert found.capacity_bytes == found.total.nbytes - found.context.nbytes


LARGE, SMALL = 33_554_432, 8_519_680
"""32 MiB; and twice 4 MiB with eight times 16 KiB."""


@pytest.mark.parametrize(
    ("capability", "before", "since"),
    [
        ((7, 5), SMALL, SMALL),
        ((8, 0), SMALL, SMALL),
        ((8, 9), SMALL, SMALL),
        ((9, 0), LARGE, LARGE),
        ((10, 0), SMALL, LARGE),
        ((10, 3), SMALL, LARGE),
        ((11, 0), SMALL, SMALL),
        ((12, 0), SMALL, LARGE),
    ],
)
def test_cublas_has_32_mebibytes_on_hopper_and_since_torch_2_12_on_blackwell(
    capability: tuple[int, int], before: int, since: int
) -> None:
    """``parseChosenWorkspaceSize`` of CublasHandlePool.cpp: (9, 0) alone in the wheel of 2.11; majors 9, 10
    and 12 in those of 2.12 and 2.13, after pytorch#175344.
    """
    found = {version: cublas_workspace(capability, torch_version=version) for version in VERSIONS}
    assert [found[version].nbytes for version in VERSIONS] == [before, since, since]
    assert {figure.certainty for figure in found.values()} == {"exact"}
    later = cublas_workspace(capability, torch_version=(2, 99))
    assert (later.nbytes, later.certainty) == (since, "exact" if before == since else "assumed")


@pytest.mark.parametrize(
    ("config", "nbytes"), [(":4096:8", 33_554_432), (":16:8", 131_072), (":4096:2:16:8", 8_519_680)]
)
def test_the_setting_counts_more(config: str, nbytes: int) -> None:
    assert cublas_workspace((9, 0), config=config).nbytes == nbytes
    assert cublas_workspace((9, 0), config=config).source == f"CUBLAS_WORKSPACE_CONFIG={config}"


def test_a_setting_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="'4096' is no setting; expected :SIZE:COUNT"):
        memory_of("H100", cublas_workspace_config="4096")


def test_each_thread_that_multiplies_has_a_workspace_of_its_own() -> None:
    """Handles are a thread's (``DeviceThreadHandlePool``), workspaces a handle's and a stream's; backward
    runs on a thread of autograd's own, so that a step has two.
    """
    h100 = memory_of("H100", torch_version=(2, 13))
    assert h100.workspaces_bytes == (33_554_432, 33_554_432)
    assert memory_of("RTX 5090", torch_version=(2, 13)).workspaces_bytes == (33_554_432, 33_554_432)
    assert memory_of("T4", torch_version=(2, 13)).workspaces_bytes == (8_519_680, 8_519_680)
    small = memory_of("H100", cublas_workspace_config=":16:8", torch_version=(2, 13))
    assert small.workspaces_bytes == (131_072, 131_072)
    assert memory_of("H100", cublas_workspace_config=":0:0", torch_version=(2, 13)).workspaces_bytes == ()


@pytest.mark.parametrize(
    ("version", "unified", "size_kib", "nbytes"),
    [
        ((2, 11), None, None, 1_048_576),
        ((2, 11), True, None, 0),
        ((2, 11), False, None, 1_048_576),
        ((2, 11), None, "512", 524_288),
        ((2, 12), None, None, 0),
        ((2, 13), None, None, 0),
        ((2, 13), None, "512", 0),  # it is cuBLAS's block all the same
        ((2, 13), True, None, 0),
        ((2, 13), False, None, 1_048_576),
        ((2, 13), False, "4096", 4_194_304),
        ((2, 13), False, "512 KiB", 524_288),  # as std::stoi reads it
        ((2, 13), False, "much", 1_048_576),  # of which torch warns, and takes its own
        ((2, 13), False, "0", 0),
    ],
)
def test_cublaslt_shares_cublass_workspace_since_torch_2_12_unless_it_is_told_otherwise(
    version: TorchVersion, unified: bool | None, size_kib: str | None, nbytes: int
) -> None:
    """``unified_cublas_and_lt_workspaces`` and ``parseCUDABlasLtWorkspaceSize`` of CublasHandlePool.cpp: in
    2.11 it shares where the variable is set and true, since 2.12 where it isn't set to false. It is in the
    pool once, as forward alone has products with a bias.
    """
    found = memory_of(
        "T4", torch_version=version, unified_workspace=unified, cublaslt_workspace_size=size_kib
    )
    assert found.cublaslt.nbytes == nbytes
    assert found.workspaces_bytes == (8_519_680, 8_519_680, nbytes)[: 3 if nbytes else 2]
    assert found.cublaslt.certainty == "exact"
    assert memory_of("T4", torch_version=(2, 99)).cublaslt.certainty == "assumed"


def test_a_gpu_that_is_not_known_is_refused() -> None:
    with pytest.raises(UsageError, match="Did you mean 'H100'"):
        memory_of("H10O")
