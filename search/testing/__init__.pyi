from ._board import BoardContract as BoardContract
from ._data_source import DataSourceContract as DataSourceContract
from ._pruner import PrunerContract as PrunerContract
from ._quantizer import QuantizerContract as QuantizerContract
from ._sampler import SamplerContract as SamplerContract
from ._store import StoreContract as StoreContract
from ._target import TargetContract as TargetContract
