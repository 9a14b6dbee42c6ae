"""Compiles every shipped kernel configuration to an sm_90 cubin, without a GPU.

Run as a program (in a process without TRITON_INTERPRET); prints one JSON object a configuration:
registers, stack, shared memory and how often the instructions of interest occur in the SASS.
"""

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from stepcoder.kernels import (
    lm_head,
    lm_head_backward,
    logprob,
    packed_gae,
    policy_head,
    scale,
    token_loss,
)
from stepcoder.kernels.reference import IGNORED

TOOLS = os.path.join(os.path.dirname(triton.__file__), "backends/nvidia/bin")
FLOAT64 = ("DADD", "DMUL", "DFMA", "DSETP")
# Waits for all but the last group of matrix instructions: ptxas has not serialized them.
IN_FLIGHT = "WARPGROUP.DEPBAR.LE gsb0, 0x1"
COUNTED = (
    IN_FLIGHT,
    "HGMMA",
    "UTMALDG",
    "UTMASTG",
    "LDL",
    "STL",
    "LDG.E.128",
    "LDG.E.64",
    *FLOAT64,
)


def configurations() -> Iterator[dict[str, Any]]:
    """Name, kernel, argument types, constants, warps and stages of all that can be launched."""
    yield from _head_tiles()
    for softcap in (False, True):
        yield {
            "name": f"target_products softcap={softcap}",
            "kernel": lm_head.target_products,
            "types": {
                **dict.fromkeys(("hidden", "weight"), "*bf16"),
                "targets": "*i64",
                "logits": "*fp32",
                **dict.fromkeys(("N", "V", "H"), "i32"),
                "softcap": "fp32",
            },
            "constants": {
                "ROWS": lm_head.TARGET_ROWS,
                "HIDDEN": 64,
                "SOFTCAP": softcap,
                "UPCAST": False,
            },
            "aligned": ("hidden", "weight", "targets", "logits", "H"),
        }
    for entropy in (False, True):
        for softcap in (False, True):
            yield {
                "name": f"logits_gradient entropy={entropy} softcap={softcap}",
                "kernel": lm_head_backward.logits_gradient,
                "types": {
                    "exp_logits": "*bf16",
                    **dict.fromkeys(("references", "row_terms"), "*fp32"),
                    "targets": "*i64",
                    **dict.fromkeys(("N", "V", "stride"), "i32"),
                    **dict.fromkeys(("temperature", "softcap"), "fp32"),
                },
                "constants": {
                    "COLUMNS": lm_head_backward.COLUMNS,
                    "ENTROPY": entropy,
                    "SOFTCAP": softcap,
                    "LARGEST": lm_head.LARGEST,
                    "UPCAST": False,
                },
                "aligned": ("exp_logits", "stride"),
                "warps": 8,
            }
    rows = {
        **dict.fromkeys(("partials", "target_logits"), "*fp32"),
        "targets": "*i64",
        **dict.fromkeys(("N", "vocab_blocks", "programs"), "i32"),
        "scale": "fp32",
    }
    yield {
        "name": "finish_rows",
        "kernel": logprob.finish_rows,
        "types": rows | dict.fromkeys(("logprobs", "entropy", "log_normalizer"), "*fp32"),
        "constants": {"IGNORED": IGNORED, "ROWS": logprob.ROWS, "TILES": logprob.TILES},
    }
    pointers = ("references", "old_logprobs", "advantages", "importance", "ref_logprobs")
    pointers += ("normalizer", "row_terms", "sums")
    numbers = ("clip_low", "clip_high", "dual_clip", "entropy_bonus", "kl_beta")
    for estimator in range(4):
        yield {
            "name": f"ppo_rows estimator={estimator}",
            "kernel": policy_head.ppo_rows,
            "types": rows | dict.fromkeys(pointers, "*fp32") | dict.fromkeys(numbers, "fp32"),
            "constants": {
                "ESTIMATOR": estimator,
                "IGNORED": IGNORED,
                "LARGEST": lm_head.LARGEST,
                "ROWS": policy_head.ROWS,
                "TILES": policy_head.TILES,
            },
        }
    yield {
        "name": "finish_head",
        "kernel": policy_head.finish_head,
        "types": {
            **dict.fromkeys(("sums", "policy_loss", "statistics", "normalizer"), "*fp32"),
            "programs": "i32",
        },
        "constants": {"BLOCK": 1024},
    }
    yield from _token_kernels()


def _head_tiles() -> Iterator[dict[str, Any]]:
    for name, tile in (("HOPPER", lm_head.HOPPER), ("SMALL", lm_head.SMALL)):
        for store in (False, True):
            for softcap in (False, True):
                yield head_tile(f"{name} store={store} softcap={softcap}", tile, store, softcap)
    # Other generations, with the tile that `lm_head.tile_for` gives them.
    for arch, tile in ((80, lm_head.SMALL), (100, lm_head.HOPPER), (120, lm_head.SMALL)):
        yield head_tile(f"sm_{arch}", tile, True, False) | {"arch": arch}


def head_tile(name: str, tile: lm_head.Tile, store: bool, softcap: bool) -> dict[str, Any]:
    """Configuration of the matrix product's kernel with given block shapes."""
    return {
        "name": f"lm_head_tiles {name}",
        "kernel": lm_head.lm_head_tiles,
        "types": {
            "hidden_desc": f"tensordesc<bf16[{tile.rows}, {tile.hidden}]>",
            "weight_desc": f"tensordesc<bf16[{tile.vocab}, {tile.hidden}]>",
            "exp_logits_desc": f"tensordesc<bf16[{tile.rows}, {tile.vocab // 2}]>",
            **dict.fromkeys(("references", "partials"), "*fp32"),
            **dict.fromkeys(("N", "V", "H"), "i32"),
            **dict.fromkeys(("scale", "softcap"), "fp32"),
        },
        "constants": {
            "ROWS": tile.rows,
            "VOCAB": tile.vocab,
            "HIDDEN": tile.hidden,
            "GROUP": tile.group,
            "STORE": store,
            "SOFTCAP": softcap,
            "LARGEST": lm_head.LARGEST,
            "FLATTEN": tile.flatten,
            "UPCAST": False,
        },
        "aligned": ("references", "partials", "H"),
        "warps": tile.warps,
        "stages": tile.stages,
    }


def _token_kernels() -> Iterator[dict[str, Any]]:
    """The kernels over packed tokens: scaling of gradients, PPO's losses, GAE."""
    for dtype in ("bf16", "fp32"):
        yield {
            "name": f"scale_in_place {dtype}",
            "kernel": scale.scale_in_place,
            "types": {
                "gradient": f"*{dtype}",
                **dict.fromkeys(("first_factor", "second_factor"), "*fp32"),
                **dict.fromkeys(("split", "elements"), "i32"),
            },
            "constants": {"BLOCK": scale.BLOCK, "UPCAST": False},
            "aligned": ("gradient",),
            "warps": 8,
        }
    floats = [name for name in token_loss.TENSORS if not name.endswith("_mask")]
    floats += ["policy_normalizer", "value_normalizer"]
    floats += ["gradients", "policy_loss", "value_loss", "statistics", "sums"]
    numbers = ["clip_low", "clip_high", "dual_clip", "value_clip"]
    numbers += ["entropy_bonus", "kl_beta"]
    for policy, value, masked, estimator in (
        (True, False, False, 0),
        (True, False, False, 3),
        (False, True, False, 0),
        (True, True, True, 0),
        (True, True, True, 1),
        (True, True, True, 2),
        (True, True, True, 3),
    ):
        yield {
            "name": f"ppo_loss policy={policy} value={value} estimator={estimator}",
            "kernel": token_loss.ppo_loss_tokens,
            "types": {
                **dict.fromkeys(floats, "*fp32"),
                **dict.fromkeys(("executed_mask", "response_mask"), "*i1"),
                "arrivals": "*i32",
                "T": "i32",
                **dict.fromkeys(numbers, "fp32"),
            },
            "constants": {
                "POLICY": policy,
                "VALUE": value,
                "MASKED": masked,
                "ESTIMATOR": estimator,
                "BLOCK": token_loss.BLOCK,
                "FOLD": 1024,
            },
            "aligned": (*floats, "executed_mask", "response_mask"),
        }
    floats = ["rewards", "values", "bootstraps", "advantages", "returns", "sums", "statistics"]
    for bootstrap in (False, True):
        for statistics in (False, True):
            yield {
                "name": f"gae bootstrap={bootstrap} statistics={statistics}",
                "kernel": packed_gae.gae_rows,
                "types": {
                    **dict.fromkeys(floats, "*fp32"),
                    "cu_seqlens": "*i32",
                    "messages": "*i64",
                    "response_mask": "*i1",
                    **dict.fromkeys(("T", "B"), "i32"),
                    **dict.fromkeys(("gamma", "lam"), "fp32"),
                },
                "constants": {
                    "BOOTSTRAP": bootstrap,
                    "STATISTICS": statistics,
                    "BLOCK": packed_gae.BLOCK,
                    "FOLD": 1024,
                },
                "aligned": (*floats, "cu_seqlens", "response_mask"),
                "warps": packed_gae.WARPS,
            }


def variants() -> Iterator[dict[str, Any]]:
    """All configurations, as Triton specializes them for integers: any, multiples of 16, and 1."""
    seen = set()
    for configuration in configurations():
        if "arch" in configuration:
            yield configuration
            continue
        types = configuration["types"]
        plain = {p.name for p in configuration["kernel"].params if p.do_not_specialize}
        integers = [n for n in configuration["kernel"].arg_names if types.get(n) == "i32"]
        integers = [n for n in integers if n not in plain]
        aligned = (*configuration.get("aligned", ()), *integers)
        yield configuration
        yield configuration | {"name": f"{configuration['name']} (16)", "aligned": aligned}
        if configuration["kernel"] not in seen:
            seen.add(configuration["kernel"])
            constants = configuration["constants"] | dict.fromkeys(integers, 1)
            aligned = tuple(n for n in aligned if n not in integers)
            changed = {"constants": constants, "aligned": aligned}
            yield configuration | changed | {"name": f"{configuration['name']} (1)"}


def compiled(configuration: dict[str, Any]) -> dict[str, Any]:
    """Compile one configuration for sm_90 and read its resources off the cubin."""
    kernel, constants = configuration["kernel"], configuration["constants"]
    names = kernel.arg_names
    types = {n: "constexpr" if n in constants else configuration["types"][n] for n in names}
    source = ASTSource(
        kernel,
        types,
        constexprs={(names.index(n),): value for n, value in constants.items()},
        attrs={
            (names.index(n),): [["tt.divisibility", 16]] for n in configuration.get("aligned", ())
        },
    )
    options = {
        "num_warps": configuration.get("warps", 4),
        "num_stages": configuration.get("stages", 3),
    }
    target = GPUTarget("cuda", configuration.get("arch", 90), 32)
    result = triton.compile(source, target=target, options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(result.asm["cubin"])
        file.flush()
        resources, sass = (_cuobjdump(flag, file.name) for flag in ("-res-usage", "-sass"))
    usage = re.search(r"REG:(\d+) STACK:(\d+)", resources)
    assert usage, resources
    return {
        "name": configuration["name"],
        "registers": int(usage[1]),
        "stack": int(usage[2]),
        "shared": result.metadata.shared,
        "instructions": {op: len(re.findall(rf"\b{re.escape(op)}\b", sass)) for op in COUNTED}
        | {"all": len(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/", sass, re.MULTILINE))},
    }


def _cuobjdump(flag: str, path: str) -> str:
    command = [os.path.join(TOOLS, "cuobjdump"), flag, path]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    for configuration in variants():
        print(json.dumps(compiled(configuration)), flush=True)
