"""What a scale of fp8 rows costs that is a bound, known before the product, in
place of one made of a row's largest number: relative L2 errors of GELU's fp8
outputs (cuda/product8.cu) and of attention's (cuda/attention_plan.cuh), on data
that is easy and hard for it. Prints the tables of docs/kernels.md; PyTorch on the
CPU, under two minutes.

    python3 tests/ops/fp8_bound.py
"""

import math

import torch

ROWS, SIZES, FACTORS = 128, (1536, 5120), (1, 4, 16)
QUERIES, HEADS, WIDTH, KEYS = 64, 12, 128, (512, 4680, 32760)


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


# ---- attention ----

def measure_attention(q, k, v):
    """The same: errors of all, and of the head that has most."""
    weights = torch.softmax(torch.einsum("nhd,mhd->hnm", q, k) /
                            math.sqrt(WIDTH), -1)
    y = torch.einsum("hnm,mhd->nhd", weights, v)
    exact = y.abs().amax((1, 2), keepdim=True) / 448
    bound = (v.abs().max() / 416).expand_as(exact)
    errors = []
    for scale in (exact, bound, 4 * bound):
        wrong = narrow(y, scale) * scale - y
        heads = wrong.norm(dim=(0, 2)) / y.norm(dim=(0, 2))
        errors.append(((wrong.norm() / y.norm()).item(), heads.max().item()))
    return (bound / exact).median().item(), errors


def neighbours(m, sharp):
    """Tokens whose keys and values are like those beside them."""
    at = torch.arange(m)[:, None] / m
    waves = torch.cos(6.28 * (20 * torch.exp(torch.randn(24)) * at +
                              torch.rand(24))) / math.sqrt(12)
    k, v = (torch.einsum("mw,hwd->mhd", waves,
                         torch.randn(HEADS, 24, WIDTH)) +
            size * torch.randn(m, HEADS, WIDTH) for size in (0.5, 1))
    return sharp * k[torch.randint(0, m, (QUERIES,))], k, v


def sink(m):
    """Nine tenths of each query go to the first key, whose value is small."""
    q, k, v = (torch.randn(n, HEADS, WIDTH) for n in (QUERIES, m, m))
    k[0] = 10 * torch.nn.functional.normalize(k[0], dim=1)
    v[0] *= 0.05
    return q + k[0] * (math.log(9 * m) + 0.5) * math.sqrt(WIDTH) / 100, k, v


def attention_cases(m):
    q, k, v = (torch.randn(n, HEADS, WIDTH) for n in (QUERIES, m, m))
    sizes = torch.exp(0.6 * torch.randn(HEADS, 1))
    spread = 10 ** torch.linspace(-1, 1, HEADS)[:, None]
    tokens, channel = torch.ones(m, 1, 1), torch.ones(HEADS, WIDTH)
    tokens[5::997] = 100
    channel[0, 3] = 30

    def heavy(freedom):
        return torch.distributions.StudentT(freedom).sample(v.shape)
    return {
        "normal": (q, k, v),
        "weights nearly equal": (q / 10, k, v),
        "scores of a deviation of 4": (4 * q, k, v),
        "neighbours alike": neighbours(m, 0.3),
        "a sink with a small value": sink(m),
        "every 997th value 100 times larger": (q, k, v * tokens),
        "a channel of a head 30 times larger": (q, k, v * channel),
        "heads of all sizes (lognormal, 0.6)": (q, k, v * sizes),
        "that, weights nearly equal": (q / 10, k, v * sizes),
        "Student's t (5) values": (q, k, heavy(5.0)),
        "Student's t (3) values": (q, k, heavy(3.0)),
        "heads of 0.1 to 10": (q, k, v * spread),
        "a channel of a head 1000 times larger":
            (q, k, v * (1 + (channel - 1) * 999 / 29)),
    }


def print_attention():
    results = [{name: measure_attention(*data)
                for name, data in attention_cases(m).items()} for m in KEYS]
    print("| data | scale too large by | exact scale | bound | worst head, "
          "exact | bound | 4 times the bound |\n|---|---|---|---|---|---|---|")
    for name in results[0]:
        all_of = [result[name] for result in results]
        print(f"| {name} | " + "; ".join(f"{ratio:.0f}" for ratio, _ in all_of)
              + " | " + " | ".join("; ".join(f"{errors[i][j]:.4f}"
                                             for _, errors in all_of)
                                   for i, j in ((0, 0), (1, 0), (0, 1),
                                                (1, 1), (2, 1))) + " |")


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
    print()
    print_attention()


if __name__ == "__main__":
    main()
