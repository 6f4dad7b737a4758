"""Which instruction sets a CPU is taken to have, from what its kernel says of it."""

from typing import Final

import pytest

from worker.engine.native.isa import features_of, levels, supported

# `flags` and `Features` of /proc/cpuinfo, without what decides nothing here.
_SKYLAKE_LAPTOP: Final = (
    "fpu sse4_2 movbe popcnt avx f16c abm bmi1 avx2 bmi2 fma rdseed adx clflushopt"
)
_ALDER_LAKE: Final = _SKYLAKE_LAPTOP + " sha_ni gfni vaes vpclmulqdq avx_vnni"
_XEON_BEFORE_VNNI: Final = _SKYLAKE_LAPTOP + " avx512f avx512dq avx512cd avx512bw avx512vl"
_ICE_LAKE_SERVER: Final = _XEON_BEFORE_VNNI + " avx512ifma avx512vbmi avx512_vnni"
_ZEN_5: Final = _ICE_LAKE_SERVER + " avx512_bf16 avx_vnni avx512_vp2intersect"
_IVY_BRIDGE: Final = "fpu sse4_2 popcnt avx f16c"
_RASPBERRY_PI_4: Final = "fp asimd evtstrm crc32 cpuid"
_RASPBERRY_PI_5: Final = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop "
    "asimddp"
)


def best(cpuinfo: str, machine: str, system: str = "linux") -> str:
    return supported(features_of(cpuinfo), levels(system, machine))[0].name


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        (_ZEN_5, "avx512vnni"),
        (_ICE_LAKE_SERVER, "avx512vnni"),
        (_XEON_BEFORE_VNNI, "avx2"),
        (_ALDER_LAKE, "avxvnni"),
        (_SKYLAKE_LAPTOP, "avx2"),
        (_IVY_BRIDGE, "x86-64"),
    ],
)
def test_x86(flags, level) -> None:
    cpu = f"processor\t: 0\nmodel name\t: some CPU\nflags\t\t: {flags}\nbugs\t\t: avx512_vnni\n\n"
    assert best(cpu * 2, "x86_64") == level


@pytest.mark.parametrize(
    ("features", "level"), [(_RASPBERRY_PI_4, "arm64"), (_RASPBERRY_PI_5, "neon-dotprod")]
)
def test_arm(features, level) -> None:
    cpu = f"processor\t: 0\nBogoMIPS\t: 108.00\nFeatures\t: {features}\nCPU part\t: 0xd0b\n\n"
    assert best(cpu * 4, "aarch64") == level


def test_a_mac_has_no_cpuinfo() -> None:
    assert best("", "arm64", "darwin") == "neon-dotprod"
    assert [flag for level in levels("darwin", "arm64") for flag in level.flags] == [
        "-mcpu=apple-m1"
    ]


def test_what_only_some_cores_have_does_not_count() -> None:
    """Threads move between cores."""
    cores = f"Features\t: {_RASPBERRY_PI_5}\n\nFeatures\t: {_RASPBERRY_PI_4}\n"
    assert best(cores, "aarch64") == "arm64"


@pytest.mark.parametrize("machine", ["riscv64", "armv7l", "ppc64le"])
def test_other_machines_get_what_any_compiler_makes(machine) -> None:
    (level,) = levels("linux", machine)
    assert (level.name, level.flags) == ("generic", ())


@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "riscv64"])
def test_nothing_known_of_a_cpu_is_enough_for_the_last_level(machine) -> None:
    among = levels("linux", machine)
    assert supported(frozenset(), among) == (among[-1],)
