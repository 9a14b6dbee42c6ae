#!/bin/sh
# A second stage that starts warm: from the policy and the critic of a first one.
#
#     sh examples/two_stages.sh FOLDER [section.key=value ...]
#
# The first stage learns with StepCoder's curriculum, the second from whole problems at a lower rate.
# Names of runs stand for their newest checkpoints: as model.path for its policy/, as
# model.critic_path for its critic/ (a transformers checkpoint with the value head beside it).
set -e
out=$1
shift
python -m stepcoder.train steps=20 "$@" run_dir="$out/first"
python -m stepcoder.train steps=20 dtype=float32 ppo.policy_lr=1e-7 "$@" run_dir="$out/second" \
    model.path="$out/first" model.critic_path="$out/first" sft.steps=0 curriculum.cccs=false
