"""The selective scan as Triton kernels: both passes under one name."""

from pallas_kernels.selective_scan.gpu_backward import backward
from pallas_kernels.selective_scan.gpu_forward import forward

__all__ = ["backward", "forward"]
