"""Every shipped kernel configuration, compiled for Hopper, fits its registers and shared memory."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from stepcoder.kernels import lm_head, lm_head_backward, logprob, packed_gae, policy_head

SHARED_LIMIT = 232_448  # bytes a block may have on sm_90
FLOAT64 = ("DADD", "DMUL", "DFMA", "DSETP")


@pytest.fixture(scope="module")
def configurations() -> list[dict]:
    if not importlib.util.find_spec("triton"):
        pytest.skip("triton is not installed")
    if platform.machine() != "x86_64":
        pytest.skip("Triton's wheel carries its CUDA tools for x86-64 only")
    environment = {n: v for n, v in os.environ.items() if n != "TRITON_INTERPRET"}
    path = [os.environ.get("PYTHONPATH", ""), str(Path(__file__).parents[2])]
    environment["PYTHONPATH"] = os.pathsep.join(path)
    result = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "shipped.py")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return [json.loads(line) for line in result.stdout.splitlines()]


# Bytes of spilled registers a thread, which cost some time: A100 and Blackwell, which have not been
# tuned for, and a register pair that ptxas keeps out of the 64 that it wants for GAE's statistics.
SPILLS = {
    "lm_head_tiles sm_80": 168,
    "lm_head_tiles sm_100": 208,
    "gae bootstrap=False statistics=True (16)": 8,
}


def offenders(configurations: list[dict], allowed) -> list[dict]:
    assert len(configurations) > 60
    return [c for c in configurations if not allowed(c)]


def test_other_generations_compile(configurations):
    names = {c["name"] for c in configurations}
    assert {f"lm_head_tiles sm_{arch}" for arch in (80, 100, 120)} <= names


def test_no_kernel_is_compiled_anew_for_a_number_of_rows():
    pytest.importorskip("triton")
    rows = {
        lm_head.lm_head_tiles: "N",
        lm_head.target_products: "N",
        lm_head_backward.logits_gradient: "N",
        logprob.finish_rows: "N",
        policy_head.ppo_rows: "N",
        policy_head.finish_head: "programs",
        packed_gae.gae_rows: "B",
    }
    for kernel, name in rows.items():
        (parameter,) = (p for p in kernel.params if p.name == name)
        assert parameter.do_not_specialize
        assert "PROGRAMS" not in kernel.arg_names  # they are the grid's


def test_no_configuration_spills_registers(configurations):
    def allowed(c):
        ops, spilled = c["instructions"], SPILLS.get(c["name"], 0)
        return c["stack"] <= spilled and (spilled or ops["LDL"] == ops["STL"] == 0)

    assert not offenders(configurations, allowed)


def test_shared_memory_fits_a_block(configurations):
    assert not offenders(configurations, lambda c: c["shared"] <= SHARED_LIMIT)


def test_the_matrix_product_uses_wgmma_and_tma_and_overlaps_them(configurations):
    def allowed(c):
        ops = c["instructions"]
        stores = ops["UTMASTG"] > 0 or "store=True" not in c["name"]
        loads = ops["HGMMA"] > 0 and ops["UTMALDG"] > 0
        return loads and stores and ops["WARPGROUP.DEPBAR.LE gsb0, 0x1"] > 0

    products = [c for c in configurations if c["name"].startswith("lm_head_tiles")]
    products = [c for c in products if " sm_" not in c["name"]]  # Hopper's alone have both
    products = [
        c for c in products if "(1)" not in c["name"]
    ]  # of states 1 wide: no loop to overlap
    assert len(products) == 16
    assert all(allowed(c) for c in products), products


def test_the_losses_load_four_tokens_at_a_time_under_their_masks(configurations):
    (masked,) = (
        c for c in configurations if c["name"] == "ppo_loss policy=True value=True estimator=3 (16)"
    )
    assert masked["instructions"]["LDG.E.128"] == 9 * 1024 // 128 // 4  # tensors x tokens a thread


def test_what_follows_a_tile_is_short(configurations):
    """The tensor cores wait for it: 4 to 5% of a tile's time at H = 4096, computed."""
    found = {c["name"]: c["instructions"]["all"] for c in configurations}
    assert found["lm_head_tiles HOPPER store=True softcap=False (16)"] < 2900  # once 3864
    assert found["lm_head_tiles HOPPER store=False softcap=False (16)"] < 2350  # once 3352


def test_gae_loads_its_tokens_four_at_a_time_and_once(configurations):
    (plain,) = (
        c for c in configurations if c["name"] == "gae bootstrap=False statistics=False (16)"
    )
    # Rewards and values; the masks' bytes come in a load of 64 bits.
    assert (
        plain["instructions"]["LDG.E.128"] == 2 * packed_gae.BLOCK // (32 * packed_gae.WARPS) // 4
    )
    assert plain["instructions"]["LDG.E.64"] > 0


def test_no_constant_slips_into_float64(configurations):
    assert not offenders(configurations, lambda c: not any(c["instructions"][op] for op in FLOAT64))
