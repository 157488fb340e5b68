from ._data_source import DataSourceContract as DataSourceContract
