"""From a specification to rows, over a grid that survives a crash."""

from ntk_fed.studies.cases import CaseStudy, read_cases, run_cases
from ntk_fed.studies.compute import Progress
from ntk_fed.studies.cost import forecast
from ntk_fed.studies.requirement import run_requirement
from ntk_fed.studies.requirementspec import RequirementSpec, read_requirement
from ntk_fed.studies.run import Result, run
from ntk_fed.studies.spec import RunSpec
from ntk_fed.studies.store import Store
from ntk_fed.studies.study import StudySpec, read_study
from ntk_fed.studies.sweep import failures, run_study

__all__ = [
    "CaseStudy",
    "Progress",
    "RequirementSpec",
    "Result",
    "RunSpec",
    "Store",
    "StudySpec",
    "failures",
    "forecast",
    "read_cases",
    "read_requirement",
    "read_study",
    "run",
    "run_cases",
    "run_requirement",
    "run_study",
]
