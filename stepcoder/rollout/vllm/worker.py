"""Loads new weights inside a CPU server's model process, from a file in shared memory.

vLLM mixes the class into its worker (option worker-extension-cls) and calls the method by name. On
CUDA vLLM's native weight transfer does this job.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

if TYPE_CHECKING:
    from torch import Tensor


class FileWeights:
    """A mix-in for vLLM's worker."""

    reload_weights: Any  # a method of the worker

    def load_weights_file(self, path: str) -> dict[str, int]:
        """Load a safetensors file of a transformers model's parameters in place; count them.

        Nothing is loaded, and none counted, where this process cannot read the file.
        """
        if not os.access(path, os.R_OK):
            return {"tensors": 0}
        names: list[str] = []

        def weights() -> Iterator[tuple[str, Tensor]]:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (not a mapping)
                    names.append(name)
                    yield name, file.get_tensor(name)

        self.reload_weights(weights_iterator=weights())
        return {"tensors": len(names)}
