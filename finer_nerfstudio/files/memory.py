"""How much memory there is for what is about to be read."""

from __future__ import annotations

from pathlib import Path

# Limits of containers and batch systems, where Linux keeps them: version 2 of control groups, and version 1.
_LIMITS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)


def available_memory() -> int:
    """Return the bytes that this process can still take, of the machine's memory and of its container's."""
    import psutil  # late: programs that read no pictures do without it

    available = psutil.virtual_memory().available
    for limit, used in _LIMITS:
        try:
            available = min(available, int(limit.read_text()) - int(used.read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return max(0, available)


def gigabytes(count: float) -> str:
    """Format a number of bytes for a sentence."""
    return f"{count / 1e9:.1f} GB"
