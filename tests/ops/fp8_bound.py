"""What a scale of fp8 rows costs that is a bound, known before the product, in
place of one made of a row's largest number (cuda/product8.cu): relative L2 errors
of GELU's fp8 outputs, on data that is easy and hard for it. Prints the table of
docs/kernels.md; PyTorch on the CPU, under a minute.

    python3 tests/ops/fp8_bound.py
"""

import math

import torch

ROWS, SIZES, FACTORS = 128, (1536, 5120), (1, 4, 16)


def narrow(x, scale):
    return (x / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float()


def narrow_rows(x):
    scale = x.abs().amax(1, keepdim=True) / 448
    return narrow(x, scale), scale


def measure(x, weight, bias):
    """How many times the scale is too large, and the errors: with the exact
    scale, with the bound and multiples of it."""
    x, x_scale = narrow_rows(x)
    weight, scale = narrow_rows(weight)
    y = torch.nn.functional.gelu(x * x_scale @ (weight * scale).t() + bias,
                                 approximate="tanh")
    norms = weight.norm(dim=1, keepdim=True) * scale
    bound = (x.norm(dim=1, keepdim=True) * x_scale * norms.max() +
             bias.abs().max()) / 448
    exact = y.abs().amax(1, keepdim=True) / 448
    scales = [exact] + [bound * factor for factor in FACTORS]
    errors = [((narrow(y, s) * s - y).norm() / y.norm()).item()
              for s in scales]
    return (bound / exact).median().item(), errors


def cases(size):
    out = 2 * size
    weight = torch.randn(out, size) / math.sqrt(size)
    x = torch.randn(ROWS, size)
    small = 0.1 * torch.randn(out)
    channels = torch.ones(size)
    channels[torch.randperm(size)[:4]] = 100
    sizes = torch.exp(0.6 * torch.randn(out, 1))
    row = 0.6 * weight
    row[0] *= 30
    heavy = torch.distributions.StudentT(3.0).sample((out, size))
    return {
        "normal": (x, weight, small),
        "4 channels of x 100 times larger": (x * channels, weight, small),
        "the same, weights there smaller by it":
            (x * channels, weight / channels, small),
        "rows of weights of all sizes (lognormal, 0.6)":
            (x, weight * sizes, small),
        "that, y around -1":
            (x, 0.7 * weight * sizes, -1 + 0.5 * torch.randn(out)),
        "y around -2.5": (x, 0.5 * weight, -2.5 + 0.5 * torch.randn(out)),
        "Student's t (3) weights":
            (x, heavy / math.sqrt(3 * size), -0.5 + 0.2 * torch.randn(out)),
        "a row of weights 30 times larger":
            (x, row, -0.5 + 0.2 * torch.randn(out)),
    }


def main():
    torch.manual_seed(1)
    results = [{name: measure(*data) for name, data in cases(size).items()}
               for size in SIZES]
    print("| data | scale too large by | exact scale | bound | 4 times the "
          "bound | 16 times |\n|---|---|---|---|---|---|")
    for name in results[0]:
        both = [result[name] for result in results]
        print(f"| {name} | " + "; ".join(f"{ratio:.0f}" for ratio, _ in both) +
              " | " + " | ".join("; ".join(f"{errors[i]:.4f}"
                                           for _, errors in both)
                                 for i in range(1 + len(FACTORS))) + " |")


if __name__ == "__main__":
    main()
