"""What ONNX Runtime is told about running on CUDA."""

from foldserve.settings import CudnnSearch, ParityBudget

TF32_RELATIVE_L2 = 2e-3
"""About what TF32 moves answers by: 10 bits of mantissa, several layers deep."""


def cuda_options(budget: ParityBudget, search: CudnnSearch) -> dict[str, str]:
    """Options of the CUDA provider; TF32 only within the budget, which by default is far too strict for it.

    The proof at load has the last word, on the very session that has these options.
    """
    return {
        "use_tf32": "1" if budget.relative_l2 >= TF32_RELATIVE_L2 else "0",
        "cudnn_conv_algo_search": search.upper(),
    }
