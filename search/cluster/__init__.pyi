from ._ray import RayPool as RayPool
