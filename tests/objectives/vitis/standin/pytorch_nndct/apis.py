import copy
import json
import os
import sys
import time
import types
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import fx

from .nn import QuantStub
from .nn.modules import functional

FAULT = os.environ.get("STANDIN_FAULT", "")
#: What the calibration leaves for the export, as bias_corr.pth does.
_STATE = "state.bin"


class _Recorder(torch.nn.Module):
    """The network that is to be shown images."""

    def __init__(self, module):
        super().__init__()
        self.module, self.images = module, []

    def forward(self, images):
        assert not torch.is_grad_enabled(), "calibration keeps gradients"
        assert not self.training
        self.images.append(images)
        return self.module(images)


class torch_quantizer:  # noqa: N801
    def __init__(
        self,
        quant_mode,
        module,
        input_args=None,
        state_dict_file=None,
        output_dir="quantize_result",
        bitwidth=None,
        mix_bit=False,
        device=None,
        lstm=False,
        app_deploy="CV",
        qat_proc=False,
        custom_quant_ops=None,
        quant_config_file=None,
        target=None,
    ):
        assert quant_mode in ("calib", "test")
        assert isinstance(input_args, tuple)
        assert device == torch.device("cpu"), "the default is CUDA, which is not there"
        _fail("construct")
        self._shape, self._folder, self._mode = tuple(input_args[0].shape[1:]), Path(output_dir), quant_mode
        self._folder.mkdir(exist_ok=True)
        assert not getattr(module, "replaced", False), "this network was changed by a quantizer before"
        module.replaced = True
        self._module = _Recorder(module).eval()

    @property
    def quant_model(self):
        return self._module

    def fast_finetune(self, run_fn, run_args):
        assert self._mode == "calib"
        run_fn(*run_args)
        self._module.images.clear()
        (self._folder / "param.pth").write_bytes(b"")

    def load_ft_param(self):
        assert self._mode == "test"
        assert (self._folder / "param.pth").exists()

    def export_quant_config(self):
        assert self._mode == "calib"
        assert {len(image) for image in self._module.images} == {1}, "the thesis calibrated image by image"
        images = torch.cat(self._module.images)
        _quantize(self._module.module, self._shape, images, self._folder)

    def export_xmodel(self, output_dir="quantize_result", deploy_check=False, dynamic_batch=False):
        assert self._mode == "test"
        assert self._module.images, "FORWARD function must be called before exporting quantization result"
        assert len(self._module.images[-1]) == 1, "Batch size must be 1 when exporting xmodel"
        _export(self._module.module._get_name(), self._folder, Path(output_dir))


class QatProcessor:
    def __init__(self, model, inputs, bitwidth=8, mix_bit=False, device=None):
        assert model.training, "Conv and BN both must be in training mode"
        self._model, self._shape = model, tuple(inputs.shape[1:])
        self._check()
        self._deployable = None
        self._shown = []

    def _check(self):
        """What the real one says of networks that it cannot train, before it ends the process."""
        traced = _trace(self._model)
        modules = dict(traced.named_modules())
        calls = Counter(node.target for node in traced.graph.nodes if node.op == "call_module")
        used = [modules[name] for name in calls]
        if not any(isinstance(module, QuantStub) for module in used):
            _exit("Input is not quantized. Please use QuantStub/DeQuantStub to define quantization scope.")
        for name, count in calls.items():
            if count > 1 and not list(modules[name].parameters()):
                _exit(f'Quantized module "{name}" has been called multiple times in forward pass.')
        for node in traced.graph.nodes:
            if node.op == "call_method" or (node.op == "call_function" and node.target is not torch.flatten):
                _exit(f'Quantized operation({node.name}) must be instance of "torch.nn.Module"')

    def trainable_model(self, calib_dir="", allow_reused_module=False):
        model = copy.deepcopy(self._model)
        model.register_parameter("log_threshold", torch.nn.Parameter(torch.ones(1)))
        shown, froze = self._shown, []

        def keep(module, inputs, output):
            shown[:] = [inputs[0].detach()]
            return output + 0 * module.log_threshold * float("nan" if FAULT == "nan" else 1)

        model.register_forward_hook(keep)
        model.froze = froze
        model.quantizer_parameters = types.MethodType(lambda m: [m.log_threshold], model)
        model.freeze_quant = types.MethodType(lambda m: froze.append("quant"), model)
        model.freeze_bn_stats = types.MethodType(lambda m: froze.append("bn"), model)
        return model

    def to_deployable(self, trained_model, output_dir):
        Path(output_dir).mkdir(exist_ok=True)
        state = {name: value for name, value in trained_model.state_dict().items() if name != "log_threshold"}
        self._model.load_state_dict(state)
        torch.save(state, str(Path(output_dir, "deployable.pth")))
        return self._model

    def deployable_model(self, src_dir, used_for_xmodel=False):
        assert used_for_xmodel
        model = copy.deepcopy(self._model).cpu().eval()
        model.load_state_dict(torch.load(str(Path(src_dir, "deployable.pth"))))
        self._deployable = _Recorder(model).eval()
        return self._deployable

    def export_xmodel(self, output_dir, deploy_check=False, dynamic_batch=False):
        assert self._deployable is not None
        assert len(self._deployable.images[-1]) == 1
        model = self._deployable.module
        _quantize(model, self._shape, self._shown[0].cpu(), Path(output_dir))
        _export(model._get_name(), Path(output_dir), Path(output_dir))


class _Tracer(fx.Tracer):
    """Sees the quantizer's own modules as what they are."""

    def is_leaf_module(self, m, module_qualified_name):
        own = isinstance(m, (functional.Add, functional.Cat)) or type(m).__module__.startswith("pytorch_nndct")
        return own or super().is_leaf_module(m, module_qualified_name)


def _trace(model):
    return fx.GraphModule(model, _Tracer().trace(model))


def _quantize(model, shape, images, folder):
    if FAULT in ("no_xmodel", "two_xmodels", "garbage", "other_network"):
        (folder / _STATE).write_bytes(b"")
        (folder / "quant_info.json").write_text("{}")
        return
    from edgesearch.board_eval import graph_to_json, lower, write_xmodel
    from edgesearch.objectives.quantization import quantize

    graph = quantize(lower(model, shape, target=None), np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy()), method="vitis")
    write_xmodel(graph, folder / _STATE)
    nodes = graph_to_json(graph)[0]["nodes"]
    (folder / "quant_info.json").write_text(json.dumps({"output": {node["name"]: [[8, node.get("fix")]] for node in nodes}}))


def _export(name, folder, output):
    _fail("export")
    assert (folder / "quant_info.json").exists(), "calibration comes first"
    path = output / f"{name}_int.xmodel"
    if FAULT == "no_xmodel":
        print("[VAIQ_WARN]: Convert to xmodel failed with following reasons: ...")
        return
    path.write_bytes((folder / _STATE).read_bytes())
    if FAULT == "two_xmodels":
        (output / f"{name}_1_int.xmodel").write_bytes(b"")
    if FAULT == "garbage":
        path.write_bytes(b"\x08\x96" * 500)
    if FAULT == "aten":
        from edgesearch.board_eval.xmodel._message import parse_message

        message = parse_message(path)
        next(op for op in message.op_node if op.op_type == "conv2d").op_type = "aten::silu"
        path.write_bytes(message.SerializeToString())
    if FAULT == "other_network":
        from edgesearch.board_eval import lower, write_xmodel
        from edgesearch.objectives.quantization import quantize
        from edgesearch.spaces import Student, build

        other = lower(build(Student(architecture="mlp", input_size=8), channels=1, classes=10), (1, 8, 8))
        write_xmodel(quantize(other, np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)), path)
    if FAULT == "finer":  # one position is another than this project's quantizer finds
        import dataclasses

        from edgesearch.board_eval import read_xmodel, write_xmodel

        graph = read_xmodel(path)
        node = graph.output
        write_xmodel(graph.replace({node.name: dataclasses.replace(node, fix=node.fix - 1)}), path)


def _fail(where):
    if f"hang_{where}" == FAULT:
        time.sleep(600)
    if f"crash_{where}" == FAULT:
        os.abort()
    if f"raise_{where}" == FAULT:
        raise RuntimeError("the tracer met an operation that it does not know")
    if f"exit_{where}" == FAULT:
        _exit("Failed to get graph from model and input args.")


def _exit(message):
    print(f"[VAIQ_ERROR]: {message}", flush=True)
    sys.exit(1)
