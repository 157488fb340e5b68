import torch


class QuantStub(torch.nn.Module):
    def forward(self, inputs):
        return inputs


class DeQuantStub(torch.nn.Module):
    def forward(self, inputs):
        return inputs
