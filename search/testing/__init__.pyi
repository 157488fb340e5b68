from ._store import StoreContract as StoreContract
