"""The pager: memory of programs, paged to tmem servers by userfaultfd.

    from tmem.agents.pager import FarMemory

    far = FarMemory(8 << 30, resident=1 << 30, target="10.0.0.2:8636")

A page that was written reads as it was written, wherever it has been; one that can't be had back is SIGBUS. FarMemory says what else
to know. Needs Linux 6.6, the right to use userfaultfd, and the extra `tmem[agents]`.
"""

from .farmemory import FarMemory
from .settings import Pages, Target

__all__ = ["FarMemory", "Pages", "Target"]
