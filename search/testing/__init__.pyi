from ._data_source import DataSourceContract as DataSourceContract
from ._store import StoreContract as StoreContract
