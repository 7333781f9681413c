"""The Triton kernels of `gpu_forward` and `gpu_backward`."""

from pallas_kernels.graph_attention.gpu_backward import backward
from pallas_kernels.graph_attention.gpu_forward import forward

__all__ = ["backward", "forward"]
