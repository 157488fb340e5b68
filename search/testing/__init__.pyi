from ._target import TargetContract as TargetContract
