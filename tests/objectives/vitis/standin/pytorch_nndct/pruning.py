import os
import time
from pathlib import Path

import torch

FAULT = os.environ.get("STANDIN_FAULT", "")
_VAI = Path(".vai")


class _Runner:
    def __init__(self, model, input_signature):
        self._model, self._shape = model, tuple(input_signature.shape[1:])

    def _finish(self, slim, mode):
        assert mode in ("sparse", "slim")
        if mode == "sparse" or FAULT == "sparse":
            for module in list(slim.modules()):
                if isinstance(module, torch.nn.Conv2d):
                    module.register_buffer("weight_mask", torch.ones_like(module.weight))
            slim.slim_state_dict = slim.state_dict
        if FAULT == "frozen":
            next(slim.parameters()).requires_grad = False
        if FAULT == "unchanged":
            return self._model
        if FAULT == "torn":
            conv = next(m for m in slim.modules() if isinstance(m, torch.nn.Conv2d))
            conv.weight = torch.nn.Parameter(conv.weight[:-1].detach())
        if FAULT == "nan_weights":
            torch.nn.init.constant_(next(slim.parameters()), float("nan"))
        return slim


class OneStepPruningRunner(_Runner):
    def search(
        self,
        gpus=["0"],  # noqa: B006
        calibration_fn=None,
        calib_args=(),
        num_subnet=10,
        removal_ratio=0.5,
        excludes=[],  # noqa: B006
        eval_fn=None,
        eval_args=(),
        forced=False,
        with_group_conv=False,
    ):
        assert len(gpus) == 1
        eval_fn(self._model, *eval_args)
        eval_fn(self._model, *eval_args)  # of a trial at the highest ratio
        if FAULT == "endless":
            time.sleep(600)
        from edgesearch.objectives.pruning import measure_sensitivity, prune_one_step

        flat = measure_sensitivity(self._model, self._shape, granularity=2, score=lambda network: 0.0, seed=0)
        self._best = prune_one_step(
            self._model,
            self._shape,
            ratio=removal_ratio,
            granularity=2,
            draws=max(1, num_subnet - 2),  # two more follow the sensitivity
            sensitivity=flat,
            score=lambda network: eval_fn(network, *eval_args),
            recalibrate=lambda network: calibration_fn(network, *calib_args),
            seed=0,
        )
        (_VAI / f"{self._model._get_name()}_ratio_{removal_ratio}.search").write_text("{}")

    def prune(self, mode="slim", removal_ratio=None, index=None, pruning_info_path=None, channel_divisible=2):
        assert removal_ratio, "Pruning ratio for model is needed!"
        assert (_VAI / f"{self._model._get_name()}_ratio_{removal_ratio}.search").exists()
        return self._finish(self._best.model, mode)


class IterativePruningRunner(_Runner):
    def ana(self, eval_fn, args=(), gpus=None, excludes=None, forced=False, with_group_conv=False):
        self._model.eval()
        self._model.cuda()  # the real one does so unasked, and fails where there is no GPU
        int(os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0])
        from edgesearch.objectives.pruning import measure_sensitivity

        self._sensitivity = measure_sensitivity(
            self._model, self._shape, granularity=2, score=lambda network: eval_fn(network, *args), seed=0
        )
        (_VAI / f"{self._model._get_name()}.sens").write_text("{}")

    def prune(
        self,
        removal_ratio=None,
        threshold=None,
        spec_path=None,
        excludes=None,
        mode="sparse",
        pruning_info_path=None,
        channel_divisible=2,
    ):
        assert isinstance(removal_ratio, float)
        assert (_VAI / f"{self._model._get_name()}.sens").exists(), "Must call ana() before model pruning."
        from edgesearch.objectives.pruning import prune_iterative

        pruned = prune_iterative(
            self._model,
            self._shape,
            ratio=removal_ratio,
            granularity=channel_divisible,
            steps=1,
            score=lambda network: 0.0,
            finetune=lambda network, step: None,
            seed=0,
            sensitivity=self._sensitivity,
        )
        return self._finish(pruned.model, mode)


def get_pruning_runner(model, input_signature, method):
    assert method in ("iterative", "one_step")
    return (IterativePruningRunner if method == "iterative" else OneStepPruningRunner)(model, input_signature)
