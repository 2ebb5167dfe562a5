"""Make a small Blender scene to train on, so that nothing has to be downloaded."""

from __future__ import annotations

import shlex

from finer_nerfstudio.cli.command import unwind_on_termination
from finer_nerfstudio.demo.blender import DemoScene, make_demo_scene

OPTIONS = DemoScene


def run(options: DemoScene) -> None:
    """Create the scene's folder or leave a finished one alone, and say what to type next."""
    unwind_on_termination()
    if make_demo_scene(options):
        counts = ", ".join(f"{views} {split}" for split, views in options.views.items())
        print(f"Wrote {options.output_dir}: {counts} images of {options.size}x{options.size} pixels.")
    else:
        print(f"{options.output_dir} already holds this scene: nothing to do.")
    print(f"next: ns-train finer-sine --data {shlex.quote(str(options.output_dir))}")
