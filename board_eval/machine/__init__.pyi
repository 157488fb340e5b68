from ._banks import Banks as Banks
from ._machine import Machine as Machine
from ._machine import simulate as simulate
