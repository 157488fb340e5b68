from ._forecast import scale_prior as scale_prior
from ._rungs import Entrant as Entrant
from ._rungs import Rungs as Rungs
from ._rungs import Verdict as Verdict
