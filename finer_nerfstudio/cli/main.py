"""The command ``finer``: find the verb, and leave everything else to its file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from finer_nerfstudio._version import __version__

# Nothing is imported to list them.
VERBS: dict[str, str] = {
    "fit-image": "fit images, and lay methods side by side",
    "render-image": "decode a fitted image at any size",
    "fit-sdf": "fit the signed distance of a mesh or a point cloud",
    "stream": "send networks stage by stage: encode, decode, serve, inspect, pack, compare",
    "export": "export a radiance field as a mesh, Gaussian splats or a sparse grid",
    "view": "open splats in the browser",
    "analyze": "repeat the figures of the paper on an image or network of your own",
    "reproduce": "repeat the tables of the paper",
    "compare": "train radiance fields with several methods for the same time",
    "benchmark": "measure speed and memory beside plain PyTorch",
    "gpu-queue": "measure the paper's tables on a GPU, a few minutes at a time",
    "demo-scene": "make a small Blender scene to train on",
    "demo-capture": "make a capture with a distorting lens to train on",
}

_HELP = """usage: finer VERB [options]

FINER++ neural fields beside Nerfstudio. Radiance fields are trained by ns-train:
  ns-train finer-sine --data SCENE

verbs:
{verbs}

finer VERB --help lists a verb's options; finer --version prints the version.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a verb.

    Args:
        arguments: the verb and its options; those of the command line unless given.
    """
    verb, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if verb in ("-h", "--help"):
        print(_HELP.format(verbs="\n".join(f"  {name:<13} {what}" for name, what in VERBS.items())), end="")
    elif verb in ("-V", "--version"):
        print(f"finer-nerfstudio {__version__}")
    elif verb in VERBS:
        _run(verb, rest)
    else:
        import difflib

        close = difflib.get_close_matches(verb, VERBS, n=1)
        meant = f"did you mean {close[0]}?" if close else f"verbs are {', '.join(VERBS)}."
        print(f"error: finer has no verb {verb!r}: {meant}", file=sys.stderr)
        raise SystemExit(2)


def _run(verb: str, arguments: Sequence[str]) -> None:
    try:
        _run_imported(verb, arguments)
    except (KeyboardInterrupt, Exception) as error:  # while modules were imported: a verb says itself how to go on
        from finer_nerfstudio.runs.command_line import came_from_interruption

        if not came_from_interruption(error):
            raise
        print("interrupted.", file=sys.stderr)
        raise SystemExit(130) from None


def _run_imported(verb: str, arguments: Sequence[str]) -> None:
    from finer_nerfstudio.cli.command import exit_without_extra, run_command

    with exit_without_extra():
        module = import_module(f"finer_nerfstudio.cli.{verb.replace('-', '_')}")
        run_command(module.run, module.OPTIONS, module.__doc__, program=f"finer {verb}", arguments=arguments)
