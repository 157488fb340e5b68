from ._writer import write_onnx as write_onnx
