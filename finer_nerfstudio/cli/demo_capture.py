"""Make a capture of a generated square or room, as if photographed with a distorting lens."""

from __future__ import annotations

import shlex

from finer_nerfstudio.cli.command import unwind_on_termination
from finer_nerfstudio.demo.capture import DemoCapture, make_demo_capture

OPTIONS = DemoCapture


def run(options: DemoCapture) -> None:
    """Create the capture's folder or leave a finished one alone, and say what to type next."""
    unwind_on_termination()
    if make_demo_capture(options):
        width, height = options.size
        print(f"Wrote {options.output_dir}: {options.views} images of {width}x{height} pixels.")
    else:
        print(f"{options.output_dir} already holds this capture: nothing to do.")
    print(f"next: ns-train finer-sine --data {shlex.quote(str(options.output_dir))} nerfstudio-data")
