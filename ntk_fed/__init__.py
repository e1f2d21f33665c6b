"""ntk_fed: an instrument for wide networks trained by FedAvg.

Tangent kernels of any PyTorch network, their certified smallest eigenvalue, exact
federated runs with everything worth watching, theorems as checks, and the federated
tangent kernel, which predicts the linear rate.
"""

from ntk_fed import (
    checks,
    data,
    errors,
    fedavg,
    kernel,
    limits,
    models,
    observers,
    scaling,
    spectrum,
    theory,
)
from ntk_fed.activations import ActivationPattern, activation_pattern
from ntk_fed.checks import check
from ntk_fed.fedkernel import FederatedKernel, federated_kernel
from ntk_fed.jacobians import jacobian
from ntk_fed.kernel import gram, gram_matrix, kernel_operator
from ntk_fed.measured import Enclosure, Verdict
from ntk_fed.records import Row
from ntk_fed.simulate import History, simulate
from ntk_fed.spectrum import at_least, largest_eigenvalue, smallest_eigenvalue
from ntk_fed.theory import TheoremCheck

__all__ = [
    "ActivationPattern",
    "Enclosure",
    "FederatedKernel",
    "History",
    "Row",
    "TheoremCheck",
    "Verdict",
    "activation_pattern",
    "at_least",
    "check",
    "checks",
    "data",
    "errors",
    "fedavg",
    "federated_kernel",
    "gram",
    "gram_matrix",
    "jacobian",
    "kernel",
    "kernel_operator",
    "largest_eigenvalue",
    "limits",
    "models",
    "observers",
    "scaling",
    "simulate",
    "smallest_eigenvalue",
    "spectrum",
    "theory",
]
