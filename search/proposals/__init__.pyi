from ._choice import Chooser as Chooser
from ._draws import Proposal as Proposal
from ._proposals import Proposer as Proposer
from ._samplers import READ_BY as READ_BY
from ._samplers import Maker as Maker
from ._samplers import samplers as samplers
from ._walk import Endless as Endless
from ._walk import walk as walk
