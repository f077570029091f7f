"""Small torch functions, by what they show of the table of operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # its usual name

aten = torch.ops.aten

_draw = torch.Generator().manual_seed(7)


def _normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=_draw, dtype=torch.float64)


def _whole(low: int, high: int, *shape: int) -> Tensor:
    return torch.randint(low, high, shape, generator=_draw)


INPUTS = {
    "x": _normal(3, 4),
    "y": _normal(3, 4),
    "p": _normal(3, 4).abs() + 0.5,  # positive
    "u": torch.tanh(_normal(3, 4)),  # between -1 and 1
    "w": _normal(5, 4),  # a layer's weight
    "v": _normal(4),
    "s": _normal(1)[0],  # no dimensions
    "f": _normal(3, 4).float(),
    "n": _whole(-5, 6, 3, 4),
    "m": _whole(1, 4, 3, 4),
    "i": _whole(0, 3, 2, 4),  # indices
    "b": _normal(3, 4) > 0,
    "c": _normal(3, 4) > 0,
    "t": _normal(2, 3, 4),
    "r": _normal(2, 4, 3),
    "q": _normal(4, 4),
    "o": _normal(2, 3, 9),  # a line
    "a": _normal(2, 4, 7, 6),  # pictures
    "k": _normal(6, 2, 3, 3),  # a kernel of two groups
    "g": _normal(2, 4, 4, 3) / 3,  # coordinates
}
"""Arguments by letter."""

Case = tuple[Callable[..., Any], str]

ARITHMETIC: dict[str, Case] = {
    "add": (lambda x, y: torch.add(x, y, alpha=2) + 3, "xy"),
    "subtract": (lambda x, y: torch.sub(x, y, alpha=2) - (1 - x), "xy"),
    "with numbers": (
        lambda x: (
            aten.add.Scalar(x, 2, 3),
            aten.sub.Scalar(x, 2, 3),
            aten.mul.Scalar(x, 2),
            aten.div.Scalar(x, 3),
        ),
        "x",
    ),
    "multiply": (lambda x, v, s: x * v * s * 2.5, "xvs"),
    "divide": (lambda x, p: x / p / 2 + 1 / p, "xp"),
    "divide whole numbers": (lambda n, m: (n / m, n // m, n % m, n / 2), "nm"),
    "divide and round": (
        lambda x, n, m: (
            torch.div(x, 0.3, rounding_mode="trunc"),
            torch.div(x, 0.3, rounding_mode="floor"),
            torch.div(n, m, rounding_mode="trunc"),
            torch.div(n, m, rounding_mode="floor"),
        ),
        "xnm",
    ),
    "powers": (lambda p, y: (p**y, p**2, p**3, p**0.5, p**-1.5, 2.0**y), "py"),
    "powers of whole numbers": (lambda n, m: (n**m, n**2, n**0.5), "nm"),
    "remainders": (lambda x, p: (x % p, x % 0.7, torch.fmod(x, p), torch.fmod(x, 0.7)), "xp"),
    "rounded": (
        lambda x: (x.floor(), x.ceil(), x.round(), x.trunc(), x.frac(), x.sign(), x.abs(), -x),
        "x",
    ),
    "rounded to decimals": (lambda x: torch.round(x, decimals=1), "x"),
    "extremes": (lambda x, y: (torch.minimum(x, y), torch.maximum(x, y), x.max(y)), "xy"),
    "clamped": (lambda x: (x.clamp(-0.5, 0.5), x.clamp(min=0.1), x.clamp(max=0.2)), "x"),
    "clamped by tensors": (
        lambda x, v, s: (torch.clamp(x, v, v + s.abs()), x.clamp(min=v), x.clamp(max=s)),
        "xvs",
    ),
    "chosen": (lambda b, x, y: (torch.where(b, x, y), torch.where(b, x, 0.0)), "bxy"),
    "masked": (lambda x, b, s: (x.masked_fill(b, 2.0), x.masked_fill(b, s)), "xbs"),
    "between": (lambda x, y, u: (torch.lerp(x, y, 0.3), torch.lerp(x, y, u)), "xyu"),
    "products added": (
        lambda x, y, p: (
            torch.addcmul(x, y, p, value=0.3),
            torch.addcdiv(x, y, p, value=0.3),
        ),
        "xyp",
    ),
    "widened as torch does": (
        lambda f, s, n, b: (f * s, f + n, n * b, b + b, n + 1.5, torch.where(b, f, s), f > s),
        "fsnb",
    ),
}

COMPARISONS: dict[str, Case] = {
    "compared": (lambda x, y: (x == y, x != y, x < y, x <= y, x > y, x >= y), "xy"),
    "compared with numbers": (
        lambda n: (n == 1, n != 1, n < 1, n <= 1, n > 1, n >= 1.5),
        "n",
    ),
    "compared across dtypes": (lambda f, n, x: (f > n, f == x, n <= x), "fnx"),
    "logic": (
        lambda b, c, x: (
            torch.logical_and(b, c),
            torch.logical_or(b, x),
            torch.logical_xor(b, c),
            torch.logical_not(x),
        ),
        "bcx",
    ),
    "bits": (
        lambda n, m, b, c: (n & m, n | m, n ^ m, ~n, b & c, b | c, b ^ c, ~b, n & 3, n | 3, n ^ 3),
        "nmbc",
    ),
    "not finite": (
        lambda x, b: [
            test(torch.where(b, x / 0, x * torch.inf))
            for test in (torch.isnan, torch.isinf, torch.isfinite, torch.nan_to_num)
        ],
        "xb",
    ),
}

FUNCTIONS: dict[str, Case] = {
    "exponentials": (lambda x: (x.exp(), x.exp2(), x.expm1(), x.sigmoid()), "x"),
    "logarithms": (lambda p: (p.log(), p.log1p(), p.log2(), p.log10(), p.logit(0.1)), "p"),
    "roots": (lambda p: (p.sqrt(), p.rsqrt(), p.reciprocal(), p.square()), "p"),
    "circular": (lambda u: (u.sin(), u.cos(), u.tan(), u.asin(), u.acos(), u.atan()), "u"),
    "hyperbolic": (lambda u: (u.sinh(), u.cosh(), u.tanh(), u.asinh(), u.atanh()), "u"),
    "hyperbolic above one": (lambda p: (p + 1).acosh(), "p"),
    "angles": (lambda x, y: torch.atan2(x, y), "xy"),
    "errors": (lambda u: (u.erf(), u.erfc(), u.erfinv()), "u"),
    "gamma": (lambda p: (p.lgamma(), p.digamma()), "p"),
    "roots of whole numbers": (lambda m: (m.sqrt(), m.exp(), m.sigmoid(), m.tanh()), "m"),
    "entropies": (lambda p, u: (torch.xlogy(u, p), torch.logaddexp(u, p)), "pu"),
    "activations": (
        lambda x: (
            *(F.relu(x), F.elu(x, 0.7), F.celu(x, 0.7), F.selu(x), F.silu(x), F.mish(x)),
            *(F.softplus(x, 2), F.softplus(x * 30), F.leaky_relu(x, 0.2), F.logsigmoid(x)),
            *(F.gelu(x), F.gelu(x, approximate="tanh"), F.hardtanh(x, -0.4, 0.3), F.relu6(x * 9)),
            *(F.hardswish(x), F.softsign(x), F.tanhshrink(x), F.glu(x)),
            *(F.softshrink(x), F.hardshrink(x), F.threshold(x, 0.2, -1), F.softmin(x, 0)),
        ),
        "x",
    ),
    "hard sigmoid": (lambda x: F.hardsigmoid(x), "x"),
    "activations with a weight": (lambda x, s: F.prelu(x, s.reshape(1)), "xs"),
    "far out": (lambda x: (torch.sigmoid(x * 900), F.softplus(x * 900), torch.tanh(x * 90)), "x"),
    "softmax": (lambda x: (F.softmax(x * 400, -1), F.log_softmax(x * 400, 0)), "x"),
    "sums of exponentials": (lambda x: (torch.logsumexp(x * 400, 1), x.logsumexp(0, True)), "x"),
}

REDUCTIONS: dict[str, Case] = {
    "sums": (lambda x: (x.sum(), x.sum(0), x.sum((0, 1), keepdim=True), x.sum(-1, True)), "x"),
    "sums of others": (lambda n, b: (n.sum(), b.sum(1), n.sum(dtype=torch.float32)), "nb"),
    "means": (lambda x: (x.mean(), x.mean(0), x.mean((0, 1)), x.mean(1, keepdim=True)), "x"),
    "spreads": (
        lambda x: (x.var(), x.std(0), x.var(1, correction=0), x.std(), x.std(1, True)),
        "x",
    ),
    "means and spreads": (lambda x: (*torch.std_mean(x, 1), *torch.var_mean(x)), "x"),
    "products": (lambda p: (p.prod(), p.prod(1), p.prod(0, keepdim=True)), "p"),
    "greatest": (lambda x: (x.amax(), x.amax(1), x.amin((0, 1)), x.max(), x.min()), "x"),
    "greatest with places": (lambda x: (*x.max(1), *x.min(0, keepdim=True)), "x"),
    "places": (lambda x: (x.argmax(), x.argmax(1), x.argmin(0, True), x.argmin()), "x"),
    "any and all": (
        lambda b, x: (
            b.any(),
            b.any(0),
            b.any((0, 1)),
            b.all(),
            b.all(1, True),
            b.all((0, 1)),
            x.any(),
        ),
        "bx",
    ),
    "counted": (lambda x, b: (torch.count_nonzero(b, 0), x.nansum()), "xb"),
    "running": (lambda x: (x.cumsum(0), x.cumsum(-1), x.cumprod(1)), "x"),
    "running counts": (lambda n, b: (n.cumsum(0), b.cumsum(1)), "nb"),
    "norms": (
        lambda x: (
            *(x.norm(), x.norm(dim=1), torch.linalg.vector_norm(x, 1, 0), x.norm(3)),
            *(torch.linalg.vector_norm(x, torch.inf), torch.dist(x, x + 1), F.normalize(x, dim=1)),
            *(torch.nn.utils.get_total_norm([x, x[0]]), torch.linalg.matrix_norm(x)),
        ),
        "x",
    ),
    "losses": (
        lambda x, y, u: (
            *(F.mse_loss(x, y), F.l1_loss(x, y), F.smooth_l1_loss(x, y, beta=0.5)),
            *(F.huber_loss(x, y, delta=0.4), F.binary_cross_entropy_with_logits(x, u.abs())),
            *(F.binary_cross_entropy(u.abs(), u.abs()), F.cosine_similarity(x, y)),
            F.kl_div(x, y.softmax(1), reduction="batchmean"),
        ),
        "xyu",
    ),
    "classes": (
        lambda x, i: (F.cross_entropy(x, i[0, :3]), F.nll_loss(x, i[0, :3], reduction="none")),
        "xi",
    ),
}

ORDERS: dict[str, Case] = {
    "sorted": (lambda x: (*x.sort(), *x.sort(0, descending=True)), "x"),
    "sorted with ties": (
        lambda n: (
            *torch.sort(n, dim=1, stable=True),
            *torch.sort(n, dim=0, descending=True, stable=True),
        ),
        "n",
    ),
    "orders": (lambda x: (x.argsort(0), x.argsort(1, descending=True)), "x"),
    "topmost": (lambda x: (*x.topk(2), *x.topk(2, 0, largest=False)), "x"),
    "ranks": (lambda x: (*x.kthvalue(2), *x.median(1), x.median(), *x.kthvalue(1, 0, True)), "x"),
    "bins": (
        lambda v, x: (
            torch.searchsorted(v.sort().values, x),
            torch.searchsorted(v.sort().values, x, right=True),
        ),
        "vx",
    ),
}

PRODUCTS: dict[str, Case] = {
    "layers": (lambda x, w, y: (F.linear(x, w), F.linear(x, w, w[:, 0]), x @ y.T), "xwy"),
    "scaled": (lambda q, x, y: torch.addmm(q, x.T, y, beta=0.3, alpha=2), "qxy"),
    "vectors": (lambda x, v: (x @ v, v @ v, v.dot(v), torch.outer(v, v), torch.mv(x, v)), "xv"),
    "batches": (lambda t, r, q: (t @ r, torch.bmm(t, r), torch.baddbmm(t @ r, t, r), t @ q), "trq"),
    "sums by letter": (lambda t, r: torch.einsum("bij,bjk->bk", t, r), "tr"),
    "attention": (lambda t: F.scaled_dot_product_attention(t, t * 2, t + 1), "t"),
    "orthogonal": (lambda q: torch.linalg.qr(q).R.diagonal().abs(), "q"),
    "inverse": (lambda q: torch.linalg.inv(q + 9 * torch.eye(4, dtype=q.dtype)), "q"),
    "distances": (lambda x, y: torch.linalg.vector_norm(x[:, None] - y[None], dim=-1), "xy"),
}

SHAPES: dict[str, Case] = {
    "views": (lambda x: (x.view(2, 6), x.reshape(-1), x.flatten(), x.T.reshape(2, 6)), "x"),
    "turned": (lambda t: (t.permute(2, 0, 1), t.transpose(0, 2), t.mT, t.movedim(0, 2)), "t"),
    "widened": (lambda x: (x[:, None].expand(3, 2, 4), x.unsqueeze(-1), x[0].expand(5, -1)), "x"),
    "narrowed": (
        lambda t: (t[:1].squeeze(), t[:1].squeeze(0), t[:1, :1].squeeze((0, 1)), t.squeeze(1)),
        "t",
    ),
    "turned round": (
        lambda x: (x.flip(0), x.flip((0, 1)), x.roll(1, 0), x.roll((1, 2), (0, 1))),
        "x",
    ),
    "repeated": (lambda x: (x.repeat(2, 1), x.repeat(2, 1, 3), x.repeat_interleave(2, 1)), "x"),
    "joined": (
        lambda x, y, v: (torch.cat([x, y]), torch.stack([x, y], 1), torch.hstack([v, v])),
        "xyv",
    ),
    "joined across dtypes": (lambda f, x, n: (torch.cat([f, x]), torch.cat([n, f], 1)), "fxn"),
    "diagonals": (
        lambda q, t: (q.diagonal(), q.diagonal(1), t.diagonal(-1, 1, 2), q.trace()),
        "qt",
    ),
    "triangles": (lambda q: (q.tril(), q.triu(1), q.tril(-1)), "q"),
    "matrices of diagonals": (lambda v, x: (torch.diag(v), torch.diag_embed(x)), "vx"),
    "copies": (lambda x: (x.clone(), x.detach() * 2, x.contiguous(), x.to(torch.float64)), "x"),
}

PARTS: dict[str, Case] = {
    "rows": (lambda x: (x[1], x[-1], x[:, 2], x[..., -1], x.select(1, 0)), "x"),
    "slices": (lambda x: (x[1:], x[:, :-1], x[:, 1:9:2], x[:0], x.narrow(1, 1, 2)), "x"),
    "split": (lambda x: (*x.split(2, 1), *x.split([1, 2]), *x.chunk(3), *x.unbind(1)), "x"),
    "picked": (lambda x, i: (x.gather(0, i), x.gather(0, i[:, :2]), x[i[0]], x[i[0], i[1]]), "xi"),
    "picked along": (
        lambda x, t, i: (x.index_select(1, i[0]), t[:, i[0, :2]], t[:, :, i[0]], x.take(i)),
        "xti",
    ),
    "picked apart": (lambda t, i: t[i[0, :2] % 2, :, i[1, :2]], "ti"),
    "taken along": (lambda x, i: torch.take_along_dim(x, i, 0), "xi"),
    "embedded": (lambda w, i: (F.embedding(i, w), F.one_hot(i, 5)), "wi"),
}

REPLACEMENTS: dict[str, Case] = {
    "scattered": (lambda x, i, y: (x.scatter(0, i, y[:2]), x.scatter(0, i[:1], 2.0)), "xiy"),
    "scattered and added": (
        lambda x, i, y: (x.scatter_add(0, i, y[:2]), x.index_add(0, i[0, :2], y[:2])),
        "xiy",
    ),
    "scattered and reduced": (
        lambda x, i, y: [
            x.scatter_reduce(0, i, y[:2], how) for how in ("sum", "prod", "amax", "amin")
        ],
        "xiy",
    ),
    "put": (
        lambda x, i, y: (
            x.index_put((i[0],), y[0]),
            x.index_put((i[0],), y[:1], accumulate=True),
            x.index_fill(0, i[0, :1], 2.0),
            x.index_copy(0, i[0, :1], y[:1]),
        ),
        "xiy",
    ),
    "put by mask": (lambda x, b, s: (_put(x, b, 0.0), _put(x, b[:, 0], s.detach())), "xbs"),
    "written into": (lambda x, y, s: _written(x, y, s), "xys"),
    "written into a diagonal": (lambda q, v, t: _diagonal(q, v, t), "qvt"),
}


def _put(x: Tensor, mask: Tensor, value: Any) -> Tensor:
    x = x.clone()
    x[mask] = value
    return x


def _written(x: Tensor, y: Tensor, s: Tensor) -> list[Tensor]:
    x, y = x.clone(), y * 1
    x[0] = 3.0
    x[:, 1] += s
    x[1:, 2:].mul_(2)
    x[:, -1].copy_(y[:, 0])
    y.add_(x).clamp_(-1, 1)
    new = torch.zeros(3, 4, dtype=x.dtype)
    new[::2] = y[1]
    new.view(-1)[3] = s
    return [x, y, new, x.fill_(2), torch.empty_like(x).copy_(y)]


def _diagonal(q: Tensor, v: Tensor, t: Tensor) -> list[Tensor]:
    q, t = q.clone(), t.clone()
    q.diagonal().copy_(v)
    t.diagonal(1, 0, 2).mul_(2)
    q.diagonal(-1).add_(1)
    return [q, t]


CREATION: dict[str, Case] = {
    "new": (
        lambda x: (
            *(torch.zeros(2) + x[0, 0], torch.ones(2, 3), torch.full((2,), 1.5), torch.eye(3)),
            *(torch.arange(4), torch.arange(1, 2, 0.3), torch.linspace(0, 1, 5), torch.tensor(2)),
            *(x.new_zeros(2), x.new_ones(2), x.new_full((2,), 7), torch.zeros_like(x)),
            *(torch.ones_like(x, dtype=torch.int64), torch.full_like(x, 2), torch.tensor([1.0, 2])),
            *(torch.scalar_tensor(2.5), torch.tril_indices(2, 2), torch.empty(0), x.new_empty(0)),
        ),
        "x",
    ),
    "cast": (lambda x, n, b: (x.float(), x.long(), n.double(), b.float(), n.bool(), x > 0), "xnb"),
    "empty": (lambda x: torch.empty_strided((3, 4), (1, 3), dtype=x.dtype).copy_(x), "x"),
    "constant": (lambda x: torch.tensor([1.0, 2, 3, 4], dtype=x.dtype).square().sum() * x, "x"),
}

LISTS: dict[str, Case] = {
    "of tensors": (
        lambda x, v, p: (
            *torch._foreach_add([x, v], [x, v], alpha=2),
            *torch._foreach_add([x, v], 2),
            *torch._foreach_mul([x, v], [2.0, 3.0]),
            *torch._foreach_mul([x, v], v[0].detach()),
            *torch._foreach_div([x, v], [p, v]),
            *torch._foreach_sub([x, v], 0.5),
            *torch._foreach_sqrt([p, p + 1]),
            *torch._foreach_neg([x, v]),
            *torch._foreach_norm([x, v]),
            *torch._foreach_norm([x, v], 1),
            *torch._foreach_pow([p, p], 2),
            *torch._foreach_pow(2.0, [x, v]),
            *torch._foreach_lerp([x, v], [p, v * 2], 0.3),
            *torch._foreach_lerp([x, v], [p, v * 2], [p, v]),
            *torch._foreach_addcmul([x, v], [x, v], [p, v], 0.3),
            *torch._foreach_addcdiv([x, x], [x, x], [p, p], [0.3, 0.4]),
            *torch._foreach_maximum([x, v], 0.1),
            *torch._foreach_minimum([x, v], [p, v * 2]),
            *torch._foreach_clamp_min([x, v], 0.1),
        ),
        "xvp",
    ),
    "in place": (lambda x, v, p: _moved(x, v, p), "xvp"),
}


def _moved(x: Tensor, v: Tensor, p: Tensor) -> list[Tensor]:
    mine = [x.clone(), v.clone()]
    torch._foreach_mul_(mine, 0.9)
    torch._foreach_add_(mine, [p, v], alpha=0.1)
    torch._foreach_lerp_(mine, [p, v], 0.2)
    torch._foreach_addcmul_(mine, [x, v], [x, v], 0.1)
    torch._foreach_addcdiv_(mine, [x, v], [p, p[0]], -0.1)
    torch._foreach_sub_(mine, [x, v])
    torch._foreach_clamp_max_(mine, 1.0)
    torch._foreach_copy_([mine[1]], [mine[1] * 2])
    torch._foreach_zero_(mine[:1])
    return mine


PICTURES: dict[str, Case] = {
    "convolved": (
        lambda a, k, v: (
            F.conv2d(a, k, torch.cat([v, v[:2]]), 2, 1, groups=2),
            F.conv2d(a, k, None, (1, 2), (2, 0), (2, 1), groups=2),
        ),
        "akv",
    ),
    "convolved lines": (lambda o, x: F.conv1d(o, x[:, :3, None] * o[0, :3, :2], x[:, 0]), "ox"),
    "convolved backwards": (
        lambda a, k, v: F.conv_transpose2d(a, k[:4], v, 2, 1, 1, groups=2, dilation=1),
        "akv",
    ),
    "greatest of windows": (
        lambda a: (
            F.max_pool2d(a, 2),
            F.max_pool2d(a, 3, 2, 1, return_indices=True),
            F.max_pool2d(a, (2, 3), (3, 2), (1, 0), (2, 1), ceil_mode=True),
            F.max_pool1d(a[0], 2),
        ),
        "a",
    ),
    "means of windows": (
        lambda a: (
            F.avg_pool2d(a, 2),
            F.avg_pool2d(a, 3, 2, 1),
            F.avg_pool2d(a, 3, 2, 1, ceil_mode=True),
            F.avg_pool2d(a, 3, 2, 1, ceil_mode=True, count_include_pad=False),
            F.avg_pool2d(a, 3, 2, divisor_override=2),
            F.avg_pool1d(a[0], 3, 2, 1),
            F.adaptive_avg_pool2d(a, 1),
            F.adaptive_avg_pool2d(a, (3, 4)),
            F.adaptive_avg_pool1d(a[0], 4),
        ),
        "a",
    ),
    "padded": (
        lambda a: (
            F.pad(a, (1, 2)),
            F.pad(a, (1, -2, -1, 3), value=2.0),
            F.pad(a, (1, 2, 2, 1), "reflect"),
        ),
        "a",
    ),
    "larger": (lambda a: F.pixel_shuffle(a, 2), "a"),
    "normalised": (
        lambda a, v: (
            F.layer_norm(a, a.shape[1:]),
            F.layer_norm(a[..., :4], (4,), v, v * 2),
            F.group_norm(a, 2, v, v * 2),
            F.batch_norm(a, None, None, v, v * 2, training=True),
            F.batch_norm(a, v.detach(), v.detach().square(), v, v * 2),
            F.rms_norm(a[..., :4], (4,), v),
        ),
        "av",
    ),
}

WITHOUT_GRADIENT = ("of tensors", "in place")
"""Cases whose gradient other cases have, or not even torch."""

GROUPS: dict[str, dict[str, Case]] = {
    "arithmetic": ARITHMETIC,
    "comparisons": COMPARISONS,
    "functions": FUNCTIONS,
    "reductions": REDUCTIONS,
    "orders": ORDERS,
    "products": PRODUCTS,
    "shapes": SHAPES,
    "parts": PARTS,
    "replacements": REPLACEMENTS,
    "creation": CREATION,
    "lists": LISTS,
    "pictures": PICTURES,
}
CASES: dict[str, Case] = {name: case for group in GROUPS.values() for name, case in group.items()}


def arguments(name: str) -> list[Tensor]:
    """Return the arguments of a case."""
    return [INPUTS[letter] for letter in CASES[name][1]]


def whole(name: str) -> Callable[..., tuple[Any, ...]]:
    """Return what gives a case's result, and the gradient of a weighted sum of it if it has one."""
    function, letters = CASES[name]
    floats = [i for i, letter in enumerate(letters) if INPUTS[letter].is_floating_point()]
    leaves = [INPUTS[x].clone().requires_grad_(INPUTS[x].is_floating_point()) for x in letters]
    has_gradient = name not in WITHOUT_GRADIENT and bool(_weighted(function(*leaves)))

    def both(*inputs: Tensor) -> tuple[Any, ...]:
        if not has_gradient:
            return (function(*inputs),)
        leaves = list(inputs)
        for i in floats:
            leaves[i] = inputs[i].detach().requires_grad_()
        with torch.enable_grad():
            result = function(*leaves)
            gradients = torch.autograd.grad(
                sum(_weighted(result)),  # type: ignore[arg-type]
                [leaves[i] for i in floats],
                allow_unused=True,
                materialize_grads=True,
            )
        return result, gradients

    return both


def _weighted(result: Any) -> list[Tensor]:
    """Return a sum of each result that has a gradient, with exact weights that differ."""
    return [
        (one.reshape(-1) * (torch.arange(one.numel(), dtype=one.dtype) % 7 - 2.5)).sum()
        for one in _tensors(result)
        if one.is_floating_point() and one.requires_grad
    ]


def _tensors(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    return [tensor for one in result for tensor in _tensors(one)]
