"""The peers of the image benchmark: PixelSNAIL and a deep hierarchical VAE in PyTorch.

Layers and sizes are ours; images are channels first and convolutions PyTorch's own, as its users
write them.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch
from torch.nn import functional

import jaxgen as jg
from jaxgen.core import Params
from jaxgen.models.layers._attention import rotary_angles


class PixelSNAIL(torch.nn.Module):
    """`jg.PixelSNAIL` of bits, with its very weights."""

    def __init__(self, module: jg.PixelSNAIL, params: Params) -> None:
        """Copy the weights; masked convolutions get kernels with zeros at what is not seen."""
        super().__init__()
        self.shape, self.num_heads = module.image_shape, module.num_heads
        self.num_blocks, self.num_layers = module.num_blocks, module.num_layers
        weights = jax.tree.map(np.asarray, dict(params["params"]))
        self.tables = parameters({name: weights.pop(f"{name}_table") for name in ("row", "column")})
        first = weights.pop("first")
        seen, before = np.split(first["kernel"], [-1])
        size = module.first_kernel_size
        self.first = MaskedConvolution(seen, first["bias"], size, sees_itself=False)
        self.before = parameters({"kernel": before})
        size = module.kernel_size
        self.gates = torch.nn.ModuleList(
            MaskedConvolution(gate["kernel"], gate["bias"], size, sees_itself=True)
            for i in range(module.num_blocks)
            for gate in (weights[f"blocks_{i}"].pop(f"gates_{j}") for j in range(module.num_layers))
        )
        self.weights = tree_of_parameters(weights)
        angles = rotary_angles(self.shape, module.width // module.num_heads)
        self.register_buffer("angles", torch.tensor(angles))

    def forward(self, x: Any) -> Any:
        """Return log-odds `[B, D]` of bits `[B, D]`."""
        height, width = self.shape
        image = x.reshape(-1, 1, height, width)
        before = functional.pad(x, (1, 0))[:, :-1].reshape(image.shape)
        places = self.tables["row"][:, None] + self.tables["column"][None]
        h = self.first(image) + before * self.before["kernel"][0, None, :, None, None]
        h = h + places.permute(2, 0, 1)
        for i in range(self.num_blocks):
            h = self._block(i, h)
        hidden, outputs = self.weights["hidden"], self.weights["outputs"]
        h = torch.relu(h).flatten(2).transpose(1, 2)
        h = torch.relu(h @ hidden["kernel"] + hidden["bias"])
        return (h @ outputs["kernel"] + outputs["bias"])[..., 0]

    def _block(self, i: int, h: Any) -> Any:
        weights = self.weights[f"blocks_{i}"]
        for j in range(self.num_layers):
            signal, gate = self.gates[i * self.num_layers + j](h).chunk(2, dim=1)
            y = torch.tanh(signal) * torch.sigmoid(gate)
            across = weights[f"across_{j}"]
            h = h + functional.conv2d(y, across["kernel"].T[:, :, None, None], across["bias"])
        flat = h.flatten(2).transpose(1, 2)
        normed = functional.layer_norm(flat, flat.shape[-1:], weights["norm"]["scale"], eps=1e-6)
        qkv = (normed @ weights["qkv"]["kernel"]).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = (a.transpose(1, 2) for a in qkv.unbind(-3))
        q, k = rotated(q, self.angles), rotated(k, self.angles)
        attention = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        added = attention.transpose(1, 2).flatten(2) @ weights["mix"]["kernel"]
        return h + added.transpose(1, 2).reshape(h.shape)

    def nats(self, x: Any) -> Any:
        """Return −log p of images of bits `[B, D]`, `[B]`."""
        loss = functional.binary_cross_entropy_with_logits
        return loss(self(x), x, reduction="none").sum(-1)


class MaskedConvolution(torch.nn.Module):
    """A convolution of k // 2 + 1 rows by k columns, of which the last row ends at the pixel."""

    def __init__(
        self, kernel: np.ndarray, bias: np.ndarray, size: int, *, sees_itself: bool
    ) -> None:
        """Lay a kernel `[n C, G]` of the n pixels that are seen out as a masked one."""
        super().__init__()
        num_rows, num_seen = size // 2 + 1, size**2 // 2 + sees_itself
        num_inputs = len(kernel) // num_seen
        flat = np.zeros((num_rows * size, num_inputs, kernel.shape[1]), np.float32)
        flat[:num_seen] = kernel.reshape(num_seen, num_inputs, -1)
        mask = (np.arange(len(flat)) < num_seen).reshape(1, 1, num_rows, size)
        laid_out = flat.reshape(num_rows, size, num_inputs, -1).transpose(3, 2, 0, 1)
        self.weight = torch.nn.Parameter(torch.tensor(np.ascontiguousarray(laid_out)))
        self.bias = torch.nn.Parameter(torch.tensor(bias))
        self.register_buffer("mask", torch.tensor(mask, dtype=torch.float32))
        self.margin = size // 2

    def forward(self, x: Any) -> Any:
        """Map `[B, C, H, W]` to `[B, G, H, W]`."""
        margin = self.margin
        padded = functional.pad(x, (margin, margin, margin, 0))
        return functional.conv2d(padded, self.weight * self.mask, self.bias)


class DeepVAE(torch.nn.Module):
    """`jg.DeepHierarchicalVAE` of bits, with weights of its own."""

    def __init__(self, module: jg.DeepHierarchicalVAE) -> None:
        """Create the layers."""
        super().__init__()
        self.scales, self.sizes = module.scales, module.sizes
        conv, lists = torch.nn.Conv2d, torch.nn.ModuleList
        scales = list(zip(self.scales, self.sizes, strict=True))
        num_groups = sum(scale.num_groups for scale in self.scales)
        self.share = (2 * num_groups) ** -0.5
        inputs = [1] + [scale.num_channels for scale in self.scales[:-1]]
        self.down = lists(
            conv(n * s.factor**2, s.num_channels, 1)
            for n, s in zip(inputs, self.scales, strict=True)
        )
        self.up = lists(
            lists(
                Residual(s.num_channels, s.num_hidden, s.num_channels, size)
                for _ in range(s.num_groups)
            )
            for s, size in scales
        )
        self.bias = torch.nn.ParameterList(torch.zeros(s.num_channels, *size) for s, size in scales)
        finer = [
            conv(above.num_channels, s.num_channels * above.factor**2, 1, bias=False)
            for s, above in zip(self.scales[:-1], self.scales[1:], strict=True)
        ]
        self.widen = lists(finer)
        self.blocks = lists(
            lists(Group(s, size, self.share) for _ in range(s.num_groups)) for s, size in scales
        )
        first = self.scales[0]
        self.outputs = conv(first.num_channels, first.factor**2, 1, bias=False)
        self.output_bias = torch.nn.Parameter(torch.zeros(module.num_dims))

    def nats(self, x: Any) -> Any:
        """Return −ELBO of images of bits `[B, D]`, from one sample, `[B]`."""
        h, features = x.reshape(-1, 1, *self._image_size()), []
        for scale, down, ups in zip(self.scales, self.down, self.up, strict=True):
            h = down(functional.pixel_unshuffle(h, scale.factor))
            for up in ups:
                h = h + self.share * up(h)
            features.append(h)
        nats = torch.zeros(())
        above: Any = None
        for i in reversed(range(len(self.scales))):
            h = self.bias[i].expand(len(x), -1, -1, -1)
            if above is not None:
                h = h + functional.pixel_shuffle(self.widen[i](above), self.scales[i + 1].factor)
            for group in self.blocks[i]:
                h, kl = group(h, features[i])
                nats = nats + kl
            above = h
        logits = functional.pixel_shuffle(self.outputs(h), self.scales[0].factor).flatten(1)
        loss = functional.binary_cross_entropy_with_logits
        return nats + loss(logits + self.output_bias, x, reduction="none").sum(-1)

    def _image_size(self) -> tuple[int, int]:
        (height, width), factor = self.sizes[0], self.scales[0].factor
        return height * factor, width * factor


class Group(torch.nn.Module):
    """The networks of a group of latents."""

    def __init__(self, scale: jg.models.Scale, size: tuple[int, int], share: float) -> None:
        """Create them."""
        super().__init__()
        channels, hidden, latents = scale.num_channels, scale.num_hidden, scale.num_latents
        self.share, self.num_latents = share, latents
        self.of_prior = Residual(channels, hidden, 2 * latents + channels, size)
        self.of_features = torch.nn.Conv2d(channels, hidden, 1, bias=False)
        self.of_change = Residual(channels, hidden, 2 * latents, size)
        self.of_latents = torch.nn.Conv2d(latents, channels, 1, bias=False)
        self.after = Residual(channels, hidden, channels, size)

    def forward(self, h: Any, features: Any) -> tuple[Any, Any]:
        """Return the next feature maps, and KL(q ‖ p) of each image, `[B]`."""
        size = self.num_latents
        mean, log_scale, more = self.of_prior(h).tensor_split((size, 2 * size), dim=1)
        h = h + self.share * more
        shift, log_ratio = self.of_change(h, self.of_features(features)).chunk(2, dim=1)
        log_scale, log_ratio = (5 * torch.tanh(a / 5) for a in (log_scale, log_ratio))
        kl = 0.5 * (shift**2 + torch.expm1(2 * log_ratio)) - log_ratio
        standard = shift + torch.exp(log_ratio) * torch.randn_like(mean)
        h = h + self.of_latents(mean + torch.exp(log_scale) * standard)
        return h + self.share * self.after(h), kl.flatten(1).sum(1)


class Residual(torch.nn.Module):
    """Linear, GELU, 3×3 convolution, GELU, linear."""

    def __init__(self, inputs: int, hidden: int, outputs: int, size: tuple[int, int]) -> None:
        """Create the layers; a single position is convolved by 1×1."""
        super().__init__()
        kernel = 1 if size == (1, 1) else 3
        self.enter = torch.nn.Conv2d(inputs, hidden, 1)
        self.layer = torch.nn.Conv2d(hidden, hidden, kernel, padding=kernel // 2)
        self.leave = torch.nn.Conv2d(hidden, outputs, 1)

    def forward(self, x: Any, seen: Any = None) -> Any:
        """Map `[B, C, h, w]` to `[B, outputs, h, w]`; the first layer also gets `seen`."""
        h = self.enter(x)
        if seen is not None:
            h = h + seen
        h = functional.gelu(self.layer(functional.gelu(h, approximate="tanh")), approximate="tanh")
        return self.leave(h)


def training(
    module: Any, x: np.ndarray, num_steps: int, learning_rate: float, *, is_compiled: bool
) -> Callable[[], Any]:
    """Return steps of Adam on the mean of `module.nats`, eager or by `torch.compile`."""
    optimizer = torch.optim.Adam(module.parameters(), lr=learning_rate, fused=True)
    batch = torch.tensor(x, dtype=torch.float32)
    nats = torch.compile(module.nats) if is_compiled else module.nats

    def run() -> Any:
        for _ in range(num_steps):
            optimizer.zero_grad()
            loss = nats(batch).mean()
            loss.backward()
            optimizer.step()
        return loss.item()

    return run


def rotated(x: Any, angles: Any) -> Any:
    """Turn pairs of channels `[..., T, C]` by angles `[T, C / 2]`."""
    cos, sin = torch.cos(angles), torch.sin(angles)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


def parameters(arrays: dict[str, np.ndarray]) -> Any:
    """Return arrays as parameters, by name."""
    return torch.nn.ParameterDict({k: torch.tensor(np.array(v)) for k, v in arrays.items()})


def tree_of_parameters(tree: dict[str, Any]) -> Any:
    """Return a tree of arrays as modules of parameters, by name."""
    leaves = {k: v for k, v in tree.items() if not isinstance(v, dict)}
    if leaves:
        return parameters(leaves)
    return torch.nn.ModuleDict({k: tree_of_parameters(v) for k, v in tree.items()})
