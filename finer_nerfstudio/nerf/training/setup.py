"""What a checkpoint says beside its weights, and whether a model of other options may take them."""

from __future__ import annotations

from finer_nerfstudio.errors import InputError


def require_same_setup(saved: dict[str, str], own: dict[str, str]) -> None:
    """Check that a checkpoint's weights mean in this model what they meant in the one that was trained.

    Args:
        saved: of the checkpoint: ``method`` and, unless it is of an early version, ``scales``, ``unbounded`` and
            ``sampler``.
        own: of the model at hand, all four.

    Raises:
        InputError: where they differ.
    """
    if saved["method"] != own["method"]:
        raise InputError(
            f"this checkpoint is of the method {saved['method']}, not {own['method']}: name the former on the command "
            f"line, or leave the checkpoint out."
        )
    scales = saved.get("scales")
    if scales is not None and scales != own["scales"]:
        raise InputError(
            f"this checkpoint was trained with {scales}, not {own['scales']}: give those by "
            f"--pipeline.model.field.omega-0, s-0 and omega-f, or leave the checkpoint out."
        )
    trained = saved.get("unbounded", "no")
    if trained != own["unbounded"]:
        kind = "a scene without end" if trained == "yes" else "a bounded scene"
        raise InputError(
            f"this checkpoint is of {kind}, which the one at hand is not: give --pipeline.model.unbounded {trained}, "
            f"or leave the checkpoint out."
        )
    sampler = saved.get("sampler", "occupancy")
    if sampler != own["sampler"]:
        raise InputError(
            f"this checkpoint was trained with --pipeline.model.sampler {sampler}: give that option, or leave the "
            f"checkpoint out."
        )
