from ._cost import describe_cost as describe_cost
from ._deployment import Deployment as Deployment
from ._findings import study_findings as study_findings
from ._front import Front as Front
from ._front import StudyRecord as StudyRecord
from ._screening import screen as screen
from ._screening import why_empty as why_empty
from ._study import Study as Study
