"""``ns-train`` for ``torchrun``, which starts several processes on machines without GPUs too.

``torchrun --nproc-per-node 2 -m finer_nerfstudio.nerf.train_distributed finer-sine --data data/demo``; what follows the
module is the command line of ``ns-train``, of which ``torchrun`` decides ``--machine.num-devices``,
``--machine.num-machines``, ``--machine.machine-rank`` and ``--machine.dist-url``.
"""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
import tyro
from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.scripts import train
from nerfstudio.utils.rich_utils import CONSOLE

from finer_nerfstudio.errors import UsageError
from finer_nerfstudio.nerf.training.trainer import require_launchable
from finer_nerfstudio.runs.command_line import exit_on_input_error


def main() -> None:
    with exit_on_input_error():
        if not dist.is_torchelastic_launched():
            raise UsageError(
                "this is started by torchrun: torchrun --nproc-per-node 2 -m finer_nerfstudio.nerf.train_distributed …"
            )
    rank, processes, local_rank, local_processes, machine_rank = (
        int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK")
    )
    # One process speaks for all.
    CONSOLE.quiet = rank > 0
    config: TrainerConfig = tyro.cli(AnnotatedBaseConfigUnion, console_outputs=rank == 0)
    machine = config.machine
    machine.num_devices, machine.num_machines = local_processes, processes // local_processes
    machine.machine_rank = machine_rank
    on_gpu = machine.device_type == "cuda"
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=train.DEFAULT_TIMEOUT)
    with exit_on_input_error():
        require_launchable(machine)
    if on_gpu:
        torch.cuda.set_device(local_rank)

    def launch(*, main_func: Any, config: TrainerConfig, **_: Any) -> None:
        main_func(local_rank, processes, config, rank)

    # What ns-train does, but for starting processes.
    train.launch = launch
    try:
        train.main(config)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
