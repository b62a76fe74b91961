"""What a GPU holds beside what torch's allocator counts, so that a peak can be held against it."""

from __future__ import annotations

CONTEXT_BYTES = 600_000_000
"""Of a process: CUDA's context, the code of its kernels and cuBLAS's workspaces. 0.5 to 0.7 GB by
card and by release of CUDA."""
FRAGMENTATION = 0.05
"""Share of the peak that the allocator has reserved and cannot use: an estimate."""


def beside(allocated: int, kind: str) -> dict[str, int]:
    """Bytes by name beside an allocated peak on a GPU; nothing on a CPU, where all is counted."""
    if kind != "cuda":
        return {}
    return {"context": CONTEXT_BYTES, "fragmentation": round(FRAGMENTATION * allocated)}


def needed(allocated: int, kind: str) -> int:
    """Bytes that a device must have free for an allocated peak."""
    return allocated + sum(beside(allocated, kind).values())
