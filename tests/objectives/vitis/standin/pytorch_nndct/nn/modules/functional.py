import torch


class Add(torch.nn.Module):
    def forward(self, input, other, alpha=1, out=None):
        return torch.add(input, other, alpha=alpha)


class Cat(torch.nn.Module):
    def forward(self, x, dim=0):
        return torch.cat(x, dim=dim)


class Pad(torch.nn.Module):
    def forward(self, input, pad, mode="constant", value=0):
        return torch.nn.functional.pad(input, pad, mode, value)
