from ._sampler import SamplerContract as SamplerContract
