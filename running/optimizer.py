"""Adam over float32 weights or masters; under torchrun gradients are summed and Adam's moments shared out."""

import math

from running import ranks
from running.folder import stopped

import torch


class Adam:
    """Adam over float32 tensors: what is trained of a module's weights, or masters of those that are bfloat16.

    A bfloat16 weight does not move at a learning rate near 1e-6: the update is below half a bf16 ulp. The masters also
    gather the gradients of the micro-batches in float32.
    """

    run, name = None, "a module"  # whose it is: `begin` tells

    def __init__(self, module, lr: float, betas: tuple[float, float]):
        self.weights, self.masters = [weight for weight in module.parameters() if weight.requires_grad], []
        for weight in self.weights:
            master = weight
            if weight.dtype != torch.float32:
                master = torch.nn.Parameter(weight.detach().float())

                def move_gradient(weight, master=master):
                    gradient = weight.grad.float()
                    master.grad = gradient if master.grad is None else master.grad.add_(gradient)
                    weight.grad = None

                weight.register_post_accumulate_grad_hook(move_gradient)
            self.masters.append(master)
        self.lr, flags = lr, {"lr": lr, "betas": betas}
        flags["fused"] = self.masters[0].is_cuda  # there the other form takes 4 bytes a parameter more
        if ranks.world_size() > 1:  # each process keeps the moments of its part of the weights
            from torch.distributed.optim import ZeroRedundancyOptimizer

            self.adam = ZeroRedundancyOptimizer(self.masters, torch.optim.Adam, **flags)
        else:
            self.adam = torch.optim.Adam(self.masters, **flags)

    def step(self, max_norm: float, measured: dict[str, list[float]] | None = None) -> float:
        """Clips, steps at self.lr, updates the weights, clears the gradients. Returns the norm before clipping.

        The gradient is the sum of all processes'. Raises InputError instead of a step where it, or the last of a list
        in `measured`, is not finite.
        """
        for name, values in (measured or {}).items():
            if values and not math.isfinite(values[-1]):
                raise stopped(self.run, f"{name} is {values[-1]}, so no step of {self.name} was made")
        if ranks.world_size() > 1:
            for master in self.masters:
                master.grad = torch.zeros_like(master) if master.grad is None else master.grad
            ranks.total(*[master.grad for master in self.masters])
        self.adam.param_groups[0]["lr"] = self.lr
        norm = torch.nn.utils.clip_grad_norm_(self.masters, max_norm).item()
        if not math.isfinite(norm):
            raise stopped(self.run, f"the norm of the gradient of {self.name} is {norm}, so no step was made")
        self.adam.step()
        with torch.no_grad():
            for weight, master in zip(self.weights, self.masters):
                if weight is not master:
                    weight.copy_(master)
        self.adam.zero_grad()
        return norm

    def state_dict(self) -> dict:
        """Of several processes all must ask for it; the first one gets it."""
        masters = [m.data for w, m in zip(self.weights, self.masters) if w is not m]  # float32 weights are the model's
        if ranks.world_size() > 1:
            self.adam.consolidate_state_dict(to=0)
            if ranks.rank():
                return {}
        return {"adam": self.adam.state_dict(), "masters": masters}

    def load_state_dict(self, state: dict) -> None:
        self.adam.load_state_dict(state["adam"])
        masters = [m for w, m in zip(self.weights, self.masters) if w is not m]
        for master, saved in zip(masters, state["masters"], strict=True):
            master.data.copy_(saved)
