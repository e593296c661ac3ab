"""The table of TensorRT-LLM's releases agrees with itself and with the constraints files, and chooses as it should."""

import re
from pathlib import Path

import pytest

from helpers import hardware
from helpers.errors import WorkshopError
from helpers.hardware import Gpu, Machine
from helpers.releases import table

CONSTRAINTS = Path(__file__).parents[1] / "data" / "constraints"
GB = 10**9
OFFERED = ["1.2.1", "1.0.0"]
REFUSED = ["1.3.0rc22", "1.2.0", "1.1.0", "0.21.0"]


def by_version(version):
    return next(row for row in table.releases() if row.version == version)


def order(version):
    """A version as numbers, for sorting; a pre-release by its base."""
    return tuple(map(int, re.match(r"[\d.]+\d", version).group().split(".")))


def test_the_releases_are_those_of_the_issue_newest_first():
    versions = [row.version for row in table.releases()]
    assert sorted(versions) == sorted(OFFERED + REFUSED)
    assert [order(version) for version in versions] == sorted(map(order, versions), reverse=True)
    assert [row.version for row in table.offered()] == OFFERED


@pytest.mark.parametrize("version", OFFERED)
def test_an_offered_release_has_everything_that_installing_needs(version):
    row = by_version(version)
    assert row.engine_workflow
    assert not row.refusal
    assert row.pythons[0] == "3.12"
    assert {"libopenmpi-dev", "libnuma1", "python3-dev"} <= set(row.system_packages)
    assert row.torch_index.startswith("https://download.pytorch.org/whl/cu" + row.torch_cuda)
    assert row.cuda.split(".")[0] == row.torch_cuda
    assert row.driver == {"13": 580, "12": 525}[row.torch_cuda]
    assert row.container == f"nvcr.io/nvidia/tensorrt-llm/release:{version}"
    assert "PKG-INFO" in row.source
    # The one that a laptop's kernel writes checkpoints with, and the one that it ships.
    oldest, newest = (tuple(map(int, text.split("."))) for text in row.reads_modelopt)
    for modelopt in (row.modelopt, "0.37.0"):
        assert oldest <= tuple(map(int, modelopt.split(".")[:2])) <= newest


@pytest.mark.parametrize("version", REFUSED)
def test_a_release_that_is_not_offered_says_why(version):
    row = by_version(version)
    assert row.refusal
    assert not row.constraints
    with pytest.raises(WorkshopError) as told:
        table.release(version)
    assert str(told.value).startswith(f"This workshop does not offer TensorRT-LLM {version}: {row.refusal}. ")
    assert str(told.value).endswith("Choose 1.2.1 or 1.0.0.")


def test_the_first_release_without_engines_is_known_as_that():
    without = by_version("1.3.0rc22")
    assert (without.engine_workflow, without.tensorrt) == (False, "")
    assert [row.version for row in table.releases() if not row.engine_workflow] == ["1.3.0rc22"]


def test_an_unknown_release_names_those_that_are_offered():
    with pytest.raises(WorkshopError, match=r"does not offer TensorRT-LLM 9\.9.* Choose 1\.2\.1 or 1\.0\.0\."):
        table.release("9.9")
    assert table.release("1.2.1").version == "1.2.1"


# --- Constraints ---------------------------------------------------------------------------------


def pins(row):
    """What a constraints file says, by package: the text after the name."""
    lines = (CONSTRAINTS / row.constraints).read_text().splitlines()
    found = (re.match(r"([a-z-]+)(.*)", line) for line in lines if line and not line.startswith("#"))
    return {match.group(1): match.group(2) for match in found}


@pytest.mark.parametrize("version", OFFERED)
def test_the_constraints_name_the_versions_of_the_table(version):
    row = by_version(version)
    found = pins(row)
    # With its local version: pip takes a build for another CUDA for the same, and puts it in this one's place.
    cuda = row.torch_index.rsplit("/", 1)[-1]
    assert found["torch"] == f"=={row.torch}+{cuda}"
    assert found["torchvision"].endswith(f"+{cuda}")
    assert found["tensorrt"] == f"=={row.tensorrt}"
    assert found["transformers"] == f"=={row.transformers}"
    assert found["nvidia-modelopt"] == f"=={row.modelopt}"
    assert found["numpy"] == "<2"
    major = int(row.torch_cuda)
    assert found["cuda-python"] == f">={major},<{major + 1}"


@pytest.mark.parametrize("version", OFFERED)
def test_every_constraint_has_its_reason_and_is_one_that_pip_reads(version):
    from packaging.requirements import Requirement

    blocks = (CONSTRAINTS / by_version(version).constraints).read_text().strip().split("\n\n")
    for block in blocks[1:]:
        *reason, pin = block.splitlines()
        assert reason and all(line.startswith("# ") for line in reason), block
        Requirement(pin)


def test_every_constraints_file_belongs_to_an_offered_release():
    assert {file.name for file in CONSTRAINTS.iterdir()} == {row.constraints for row in table.offered()}


# --- Choosing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capability", "driver", "version"),
    [
        ((8, 9), "580.65.06", "1.2.1"),
        ((8, 9), "595.71.05", "1.2.1"),
        ((8, 9), "579.99", "1.0.0"),
        ((8, 6), "525.60.13", "1.0.0"),
        ((8, 6), "524.99", None),
        ((8, 0), "535.183.01", "1.0.0"),
        ((9, 0), "550.54.15", "1.0.0"),
        ((10, 0), "570.26", "1.0.0"),
        ((10, 0), "565.57.01", None),
        ((12, 0), "570.86.16", "1.0.0"),
        ((12, 0), "560.35.05", None),
        ((10, 3), "570.86.16", "1.0.0"),
        ((10, 3), "560.35.05", None),
        ((12, 1), "580.95.05", "1.2.1"),
        ((8, 6), "", None),
        ((7, 5), "580.65.06", None),
        ((7, 0), "580.65.06", None),
        ((11, 0), "580.65.06", None),
        (None, "580.65.06", None),
    ],
)
def test_the_newest_release_that_fits_gpu_and_driver_is_chosen(capability, driver, version):
    choice = table.choose(capability, "NVIDIA Some", driver)
    assert (choice.release.version if choice.release else None) == version
    assert choice.why in str(choice)
    assert choice.why in choice._repr_html_()
    assert [row[0] for row in choice.table.rows] == [row.version for row in table.releases()]
    fits = {row[0]: row[3] for row in choice.table.rows}
    assert all(fits[refused] == "not offered" for refused in REFUSED)
    first = next((row[0] for row in choice.table.rows if row[3] == "yes"), None)
    assert first == version


def test_why_a_release_was_chosen():
    why = table.choose((8, 9), "NVIDIA GeForce RTX 4090", "580.65.06").why
    assert why == (
        "TensorRT-LLM 1.2.1 (CUDA 13.1) is the newest of these that fits: it has kernels for the NVIDIA GeForce RTX "
        "4090 and runs with driver 580.65.06."
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ((7, 5), "Tesla T4", "580.65.06"),
            ["The Tesla T4 cannot run", "7.5", "CPU toolchain", "8.0 or newer", "A10G"],
        ),
        (((11, 0), "NVIDIA Thor", "580.65.06"), ["The NVIDIA Thor cannot run", "11.0", "CPU toolchain"]),
        (
            ((8, 6), "NVIDIA GeForce RTX 3090", "470.256.02"),
            ["Driver 470.256.02 is too old", "1.0.0 needs 525", "1.2.1 needs 580", "Rent a pod"],
        ),
        (
            ((12, 0), "NVIDIA GeForce RTX 5090", "565.57.01"),
            ["1.0.0 needs 570 or newer on the NVIDIA GeForce RTX 5090"],
        ),
        (((8, 6), "NVIDIA A10G", ""), ["Driver (unknown) is too old"]),
        ((None, "", ""), ["no NVIDIA GPU here", "8.0 or newer", "CPU toolchain"]),
    ],
)
def test_where_none_fits_it_says_why_and_what_to_do(arguments, says):
    choice = table.choose(*arguments)
    assert choice.release is None
    assert "\n" not in choice.why
    for text in says:
        assert text in choice.why


def test_kernels_run_on_later_members_of_a_generation():
    row = by_version("1.0.0")
    assert [row.kernels(c) for c in ((8, 9), (8, 7), (10, 3), (7, 5), (11, 0))] == ["8.9", "8.6", "10.0", None, None]
    assert [row.driver_for(c) for c in ((8, 9), (10, 0), (10, 3), (12, 1))] == [525, 570, 570, 570]


def test_kernels_and_precisions_are_of_the_same_generations():
    for row in table.offered():
        for capability in row.capabilities:
            major, minor = map(int, capability.split("."))
            assert hardware.gpus.support((major, minor)).capability == (major, minor)


# --- Choosing for a machine --------------------------------------------------------------------------


def machine(*gpus, driver="580.65.06"):
    cpu = hardware.Cpu("A CPU", 16, ("avx2",))
    return Machine(cpu, gpus, 64 * GB, Path("/"), 250 * GB, None, "3.12.3", "Linux", driver, "13.0")


def gpu(name, capability, index=0):
    return Gpu(index, name, capability, 24 * GB, 23 * GB, "580.65.06")


def test_a_machines_first_usable_gpu_decides():
    old, new = gpu("Tesla T4", (7, 5)), gpu("NVIDIA L4", (8, 9), 1)
    both = table.choose_here(machine(old, new))
    assert both.release.version == "1.2.1"
    assert "NVIDIA L4" in both.why
    assert "The Tesla T4 cannot" in table.choose_here(machine(old)).why
    assert "no NVIDIA GPU here" in table.choose_here(machine(driver="")).why
    assert table.choose_here(machine(new, driver="550.54.15")).release.version == "1.0.0"


def test_this_machine_for_real():
    choice = table.choose_here()
    assert (choice.release is None) == ("newest of these that fits" not in choice.why)
