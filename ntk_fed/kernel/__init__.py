"""Empirical tangent kernels: several engines behind one function."""

from ntk_fed.kernel.forming import FormingError, forming_error
from ntk_fed.kernel.gram import gram, gram_matrix
from ntk_fed.kernel.operator import KernelOperator, kernel_operator
from ntk_fed.kernel.plan import Plan, explain, plan

__all__ = [
    "FormingError",
    "KernelOperator",
    "Plan",
    "explain",
    "forming_error",
    "gram",
    "gram_matrix",
    "kernel_operator",
    "plan",
]
