from ._fp16 import quantize_fp16 as quantize_fp16
from ._method import QUANTIZERS as QUANTIZERS
from ._method import Method as Method
from ._method import Quantizer as Quantizer
from ._qat import QatSettings as QatSettings
from ._qat import train_qat as train_qat
from ._quantize import quantize as quantize
