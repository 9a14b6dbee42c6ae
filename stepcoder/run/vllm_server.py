"""python -m stepcoder.run.vllm_server MODEL: a vLLM server of your own, for `rollout.server`.

Takes the model and options of a run and, behind --, options of vLLM's own; starts the server that a
trainer on the same machine generates with, run after run, until Ctrl-C. Whoever has its key can
change its weights, which begin as random ones: the trainer sends its policy's.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from stepcoder.config import Config, load_config
from stepcoder.errors import RunError
from stepcoder.models.lora import add_adapters
from stepcoder.models.policy import choose_device
from stepcoder.models.pretrained import load_tokenizer
from stepcoder.options import ConfigError, LineParser
from stepcoder.rollout.open_engine import MEMORY_SHARE, server_options, visible_gpus
from stepcoder.rollout.vllm.api import ServerOptions, check_installed, write_model_folder
from stepcoder.rollout.vllm.server import KEY, VLLMServer
from stepcoder.run.model_folder import model_folder


def options_of(name: str, config: Config, folder: Path) -> ServerOptions:
    """Return a server's options, and write configuration and tokenizer of its model to `folder`.

    Raises:
        RunError: there is no such model.
    """
    source = model_folder(name, "MODEL")
    if not (source / "config.json").is_file():
        raise RunError(f"MODEL: {name} has adapters alone; give the model that they belong to")
    with torch.device("meta"):  # no weights
        policy = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(source, local_files_only=True),
            dtype=getattr(torch, config.dtype),
        )
    on_cpu = choose_device(config.device).type == "cpu"
    write_model_folder(folder, policy, load_tokenizer(source, "MODEL"), untie=on_cpu)
    if config.model.lora_rank:
        add_adapters(policy, config.model.lora_rank, config.seed)
    [options] = server_options(config, policy, folder)
    if on_cpu:
        return options
    share, cache = config.rollout.memory_share, config.rollout.kv_cache_gb
    return replace(
        options,
        gpu=",".join(filter(None, visible_gpus())),
        memory_share=share or MEMORY_SHARE["own"],
        kv_cache_gb=cache,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C or the server's end, and return the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    place = given.index("--") if "--" in given else len(given)
    parser = LineParser(
        prog="stepcoder.run.vllm_server",
        usage="python -m stepcoder.run.vllm_server MODEL [--port N] [section.key=value ...] "
        "[-- options of vLLM]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="as model.path of the run")
    parser.add_argument("--port", type=int, default=8000, help="of the loopback interface (8000)")
    parser.add_argument("--config", metavar="FILE", type=Path, help="the run's file of options")
    parser.add_argument("overrides", nargs="*", help="the run's dtype, rollout.*, model.lora_rank")
    command = parser.parse_intermixed_args(given[:place])
    with tempfile.TemporaryDirectory(prefix="stepcoder-vllm-server-") as folder:
        try:
            check_installed()
            config = load_config(command.config, command.overrides)
            options = options_of(command.model, config, Path(folder) / "model")
        except (ConfigError, RunError) as error:
            parser.error(str(error))
        server = VLLMServer(0, options, Path(folder))
        return serve(server, command.port, given[place + 1 :])


def serve(server: VLLMServer, port: int, more: Sequence[str]) -> int:
    """Run a server on a port with `more` options of vLLM; returns the exit status."""
    key = os.environ.get(KEY) or secrets.token_hex(16)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a supervisor's Ctrl-C
    sys.stderr.write(f"starting vLLM (log: {server.log})\n")
    try:
        server.launch(port, key, more)
        server.wait_until_healthy()
        sys.stderr.write(
            f"ready; train with {KEY}={key} python -m stepcoder.train rollout.engine=vllm "
            f"rollout.server=http://127.0.0.1:{port} ...\n"
        )
        assert server.process is not None
        server.process.wait()
        sys.stderr.write(f"stepcoder.run.vllm_server: {server.describe(RunError())}\n")
    except RunError as error:
        sys.stderr.write(f"stepcoder.run.vllm_server: {error}\n")
    except KeyboardInterrupt:
        return 130
    finally:
        server.stop()
    return 1


if __name__ == "__main__":
    sys.exit(main())
