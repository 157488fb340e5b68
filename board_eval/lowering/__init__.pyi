from ._trace import Lowered as Lowered
from ._trace import lower as lower
from ._trace import lower_with_sources as lower_with_sources
from ._tracer import traced as traced
from ._weights import parameter_of as parameter_of
from ._widths import channel_groups as channel_groups
from ._widths import pruned_estimate as pruned_estimate
from ._widths import with_widths as with_widths
