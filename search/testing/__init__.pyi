from ._quantizer import QuantizerContract as QuantizerContract
