"""A driver of Triton that compiles kernels for an H100 and launches none, on a machine without a GPU.

What the host does for a call is then real up to the launcher, the Python and C that Triton puts around CUDA's
launch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clippo_kernels.aot import ARCHITECTURES, TargetDriver

__all__ = ["IdleDriver"]

NAME = "sm_90"


class IdleDriver(TargetDriver):
    """Takes the place of Triton's driver for CUDA: `triton.runtime.driver.set_active(IdleDriver())`."""

    def __init__(self) -> None:
        super().__init__(NAME)

    @property
    def utils(self) -> IdleDriver:
        return self

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": ARCHITECTURES[NAME].shared_per_block}

    def load_binary(self, name: str, *args: Any) -> tuple[None, str, int, int, int]:
        """Return no module, a name as the function, no registers and spills, and the threads of a program."""
        return None, name, 0, 0, 1024

    def launcher_cls(self, source: Any, metadata: Any) -> Callable[..., None]:
        return self.launch

    def launch(self, *args: Any) -> None:
        """Launch nothing. The last of `args`, those of Triton's launcher, are the arguments of the kernel."""
