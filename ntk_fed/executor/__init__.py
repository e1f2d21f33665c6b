"""Independent tasks on processes or on a cluster, one torch thread each.

Floor 1. A function at the top level of a module and its arguments in, outcomes out as
they come. :class:`Processes` needs the standard library only; :class:`Dask` sends the
same calls to a scheduler. Neither changes a result.
"""

from ntk_fed.executor.cluster import Dask
from ntk_fed.executor.common import Executor, Outcome, Task, run
from ntk_fed.executor.here import Here
from ntk_fed.executor.processes import Processes

__all__ = ["Dask", "Executor", "Here", "Outcome", "Processes", "Task", "run"]
