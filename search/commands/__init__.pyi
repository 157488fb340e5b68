from ._cli import run as run
