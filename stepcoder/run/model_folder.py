"""Which folder a model's name means: a transformers checkpoint, a run of ours, a model of the hub.

Takes what `model.path`, `model.critic_path` or `--policy` say.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from huggingface_hub import snapshot_download

from stepcoder.config import Config
from stepcoder.errors import RunError
from stepcoder.run.checkpoint import CRITIC, POLICY, STATE, newest_checkpoint

WEIGHTS = ("*.safetensors", "*.bin")
# What transformers does not read: other formats, and the same weights under another name.
UNREAD = ["*.gguf", "*.pt", "*.pth", "*.onnx", "*.h5", "*.msgpack", "consolidated*", "original/*"]


def with_model_folders(config: Config) -> Config:
    """Return the configuration with folders in place of the names of its models."""
    model = config.model
    path = model.path and str(model_folder(model.path, "model.path"))
    critic_path = model.critic_path and str(
        model_folder(model.critic_path, "model.critic_path", CRITIC)
    )
    return replace(config, model=replace(model, path=path, critic_path=critic_path))


def model_folder(name: str, option: str, part: str = POLICY) -> Path:
    """Return the folder of a transformers checkpoint that a name means.

    That is the folder of this name, of a run its newest checkpoint's policy (or another `part`, if
    there is one), of a checkpoint of ours the same; else the model of this name in the cache of the
    hub, downloaded if it is not there and the hub can be reached.

    Raises:
        RunError: there is none; `option` is what named it.
    """
    path = Path(name)
    if not path.is_dir():
        if name.startswith(("/", ".", "~")) or len(path.parts) > 2:  # no name of the hub
            raise RunError(f"{option}: {name} is no folder here; check its spelling")
        return _of_hub(name, option)
    found = newest_checkpoint(path / "checkpoints") or (path if (path / STATE).is_file() else None)
    folder = path
    if found:
        folder = found / (part if (found / part).is_dir() else POLICY)
    if not any((folder / f"{kind}.json").is_file() for kind in ("config", "adapter_config")):
        raise RunError(
            f"{option}: {name} is no transformers checkpoint (config.json is missing); give the "
            "folder that save_pretrained wrote, a run folder, or one of its checkpoints"
        )
    return folder


def _of_hub(name: str, option: str) -> Path:
    for from_cache in (True, False):
        try:
            folder = snapshot_download(name, local_files_only=from_cache, ignore_patterns=UNREAD)
        except (OSError, ValueError):  # not cached, not there, not to be reached, no such name
            continue
        if any(any(Path(folder).glob(pattern)) for pattern in WEIGHTS):
            return Path(folder)
    raise RunError(
        f"{option}: {name} is no folder here and no model that is cached, and the hub does not "
        f"give one; run `hf download {name}` where there is a network, then run again"
    )
