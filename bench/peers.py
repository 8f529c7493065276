#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What PyTorch does with the same shapes, densities and graphs: reference numbers beside bench_cuda's.

Prints one JSON object a line, with the fields of bench_cuda (bench/README.md). What this machine or this PyTorch does not have is a
line with "error". Needs PyTorch only; nothing of Stipple needs this file.

  python3 bench/peers.py [--jsonl FILE] [--seconds N] [--dense] [--smoke]
"""
import argparse
import json
import math
import sys
import time

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    print("peers.py: not available: PyTorch is not installed", file=sys.stderr)
    sys.exit(4)

ROUNDS = 5
CALLS = 5


class OutOfTime(Exception):
    """The budget of --seconds is spent."""


class Output:
    """Writes results, and turns what cannot run into results."""

    def __init__(self, path, seconds):
        self.path = path
        self.end = time.monotonic() + seconds

    def write(self, **fields):
        line = json.dumps({"source": "torch", **fields})
        print(line, flush=True)
        if self.path:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(line + "\n")

    def attempt(self, body, **fields):
        if time.monotonic() > self.end:
            raise OutOfTime
        try:
            fields.update(body())
        except Exception as error:  # whatever a missing backend throws
            fields["error"] = "not available: " + str(error).split("\n", maxsplit=1)[0][:200]
        self.write(**fields)
        if DEVICE == "cuda":
            torch.cuda.empty_cache()


def milliseconds(body):
    """Median over rounds of the mean over calls, after three calls that do not count."""
    for _ in range(3):
        body()
    times = []
    for _ in range(ROUNDS):
        if DEVICE == "cuda":
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
        else:
            begin = time.perf_counter()
        for _ in range(CALLS):
            body()
        if DEVICE == "cuda":
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) / CALLS)
        else:
            times.append((time.perf_counter() - begin) * 1e3 / CALLS)
    return sorted(times)[ROUNDS // 2]


def rates(ms, op, shape, percent):
    """The derived fields of bench_cuda for dense arithmetic."""
    bh, n, d = shape
    pairs = bh * n * n
    flop = {"forward": 4, "backward": 10}.get(op, 0) * d * pairs
    result = {"ms": ms, "ps_per_pair": ms * 1e9 / pairs, "gedge_s": pairs * percent / 100 / ms * 1e-6}
    if flop:
        result["tflop_s"] = flop / ms * 1e-9
    return result


def inputs(shape, dtype, grad=True):
    bh, n, d = shape
    return [torch.randn(1, bh, n, d, device=DEVICE, dtype=dtype).requires_grad_(grad) for _ in range(3)]


def measure_attention(out, attend, shape, percent, dtype, implementation):
    """Forward and backward of attend(q, k, v)."""
    bh, n, d = shape
    fields = {"implementation": implementation, "bh": bh, "n": n, "d": d, "percent": percent,
              "precision": str(dtype).rsplit(".", maxsplit=1)[-1].replace("bfloat16", "bf16").replace("float32", "fp32")}

    def forward():
        q, k, v = inputs(shape, dtype, grad=False)
        with torch.no_grad():
            return rates(milliseconds(lambda: attend(q, k, v)), "forward", shape, percent)

    def backward():
        q, k, v = inputs(shape, dtype)
        o = attend(q, k, v)
        do = torch.randn_like(o)
        return rates(milliseconds(lambda: torch.autograd.grad(o, (q, k, v), do, retain_graph=True)), "backward", shape, percent)

    for op, body in (("forward", forward), ("backward", backward)):
        out.attempt(body, name=f"{op}/{implementation}/BH:{bh}/N:{n}/d:{d}/percent:{percent:g}", op=op, **fields)


# --- dense and masked attention of PyTorch ---

def sdpa(backend, mask=None):
    from torch.nn.attention import sdpa_kernel

    def attend(q, k, v):
        with sdpa_kernel([backend]):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    return attend


def missing(error):
    def attend(*_):
        raise RuntimeError(error)

    return attend


def backend_named(name):
    from torch.nn.attention import SDPBackend

    return getattr(SDPBackend, name)


def dense_backends(out, shape):
    for name in ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION"):
        implementation = "sdpa_" + name.split("_", maxsplit=1)[0].lower()
        try:
            attend = sdpa(backend_named(name))
        except Exception as error:
            attend = missing(str(error))
        measure_attention(out, attend, shape, 100.0, torch.bfloat16, implementation)


def additive_masks(out, shape, percent):
    bh, n, _ = shape
    for name in ("EFFICIENT_ATTENTION", "CUDNN_ATTENTION"):
        implementation = "sdpa_" + name.split("_", maxsplit=1)[0].lower() + "_mask"
        try:
            keep = torch.empty(1, bh, n, n, device=DEVICE, dtype=torch.bool).bernoulli_(percent / 100)
            mask = torch.zeros_like(keep, dtype=torch.bfloat16).masked_fill_(~keep, float("-inf"))
            del keep
            attend = sdpa(backend_named(name), mask)
        except Exception as error:
            attend = missing(str(error))
        measure_attention(out, attend, shape, percent, torch.bfloat16, implementation)


# --- FlexAttention over packed bits ---

def packed_graph(bh, n, percent):
    """int32 words [bh, n, n / 32]; bit j % 32 of word j / 32 is pair (i, j)."""
    words = torch.zeros(bh, n, n // 32, dtype=torch.int32, device=DEVICE)
    for bit in range(32):
        on = torch.rand(bh, n, n // 32, device=DEVICE) < percent / 100
        words |= on.to(torch.int32) << bit
    return words


def flex(out, shape, percent):
    bh, n, _ = shape
    try:
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        torch._dynamo.reset()  # it gives up compiling after some shapes
        words = packed_graph(bh, n, percent)

        def has_edge(_, head, query, key):
            return (words[head, query, key // 32] >> (key % 32)) & 1 == 1

        compiled = torch.compile(flex_attention, dynamic=False)
        build = torch.compile(create_block_mask, dynamic=False) if DEVICE == "cuda" else create_block_mask

        def make_mask():
            return build(has_edge, 1, bh, n, n, device=DEVICE)

        once = make_mask()

        def attend(q, k, v):
            return compiled(q, k, v, block_mask=once)
    except Exception as error:
        attend, make_mask = missing(str(error)), missing(str(error))
    measure_attention(out, attend, shape, percent, torch.bfloat16, "flex")
    out.attempt(lambda: {"ms": milliseconds(make_mask)}, name=f"prepare/flex/BH:{bh}/N:{n}/percent:{percent:g}", op="prepare",
                implementation="flex", bh=bh, n=n, percent=percent)


# --- torch.sparse: a loop over heads, fp32 ---

def sparse_csr(out, shape, percent):
    bh, n, d = shape

    def forward():
        q, k, v = (t[0] for t in inputs(shape, torch.float32, grad=False))
        graphs = [(torch.rand(n, n, device=DEVICE) < percent / 100).float().to_sparse_csr() for _ in range(bh)]

        def attend():
            for h in range(bh):
                scores = torch.sparse.sampled_addmm(graphs[h], q[h], k[h].T, beta=0.0, alpha=1 / math.sqrt(d))
                rows, columns, values = scores.crow_indices(), scores.col_indices(), scores.values().exp()
                weights = torch.sparse_csr_tensor(rows, columns, values, (n, n))
                total = weights @ torch.ones(n, 1, device=DEVICE)
                (weights @ v[h]) / total.clamp_min(1e-30)

        return rates(milliseconds(attend), "forward", shape, percent)

    out.attempt(forward, name=f"forward/sparse_csr/BH:{bh}/N:{n}/d:{d}/percent:{percent:g}", op="forward", implementation="sparse_csr",
                bh=bh, n=n, d=d, percent=percent, precision="fp32")


# --- the official dense SBM layer's arithmetic, eager ---

class SampleStraightThrough(torch.autograd.Function):
    """Bernoulli(clamp(p + 0.01)); its gradient is that of the mask on edges, clipped to 1."""

    @staticmethod
    def forward(ctx, p):
        mask = torch.bernoulli((p + 0.01).clamp(0, 1))
        ctx.save_for_backward(mask)
        return mask

    @staticmethod
    def backward(ctx, grad):
        (mask,) = ctx.saved_tensors
        return F.hardtanh(mask * grad)


class DenseSbm(torch.nn.Module):
    def __init__(self, heads, d, clusters, dropout):
        super().__init__()
        self.phi = torch.nn.Sequential(torch.nn.Linear(d, d), torch.nn.ReLU(), torch.nn.Linear(d, d))
        self.clusters = torch.nn.Parameter(torch.randn(heads, clusters, d) * math.sqrt(2 / (clusters * d)))
        self.dropout = dropout

    def forward(self, q, k, v, _=None):
        """[B, H, N, d] in fp32, as in the release, where padding takes part; also the mean density of the graph."""
        c = self.clusters
        y = torch.sigmoid(self.phi(q) @ c.transpose(-1, -2))
        z = torch.sigmoid(self.phi(k) @ c.transpose(-1, -2))
        r = c @ c.transpose(-1, -2)
        s = F.softmax(r.flatten(-2), dim=-1).view_as(r)
        mask = SampleStraightThrough.apply(y @ s @ z.transpose(-1, -2))
        weights = F.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), dim=-1)
        weights = F.normalize(weights * mask, p=1, dim=-1)
        return F.dropout(weights, self.dropout) @ v, mask.mean()


def sbm_layer(out, shape, clusters):
    """Sampling, forward and backward of one layer."""
    bh, n, d = shape

    def run():
        heads = 2
        layer = DenseSbm(heads, d, clusters, 0.0).to(DEVICE)
        q, k, v = (t.view(bh // heads, heads, n, d).detach().requires_grad_() for t in inputs(shape, torch.float32))
        do = torch.randn_like(q)
        if DEVICE == "cuda":
            torch.cuda.reset_peak_memory_stats()

        def both():
            o, _ = layer(q, k, v)
            torch.autograd.grad(o, [q, k, v, *layer.parameters()], do)

        result = rates(milliseconds(both), "layer", shape, 25)
        if DEVICE == "cuda":
            result["peak_mb"] = torch.cuda.max_memory_allocated() * 1e-6
        return result

    out.attempt(run, name=f"layer/eager_dense/BH:{bh}/N:{n}/d:{d}/k:{clusters}", op="layer", implementation="eager_dense", bh=bh, n=n, d=d,
                k=clusters, percent=25, precision="fp32")


class Block(torch.nn.Module):
    """attention(q, k, v [B, H, N, d], keep [B, N]) gives o and a density."""

    def __init__(self, width, heads, feedforward, attention):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.qkv, self.out = torch.nn.Linear(width, 3 * width), torch.nn.Linear(width, width)
        self.attention = attention
        self.feedforward = torch.nn.Sequential(
            torch.nn.Linear(width, feedforward), torch.nn.GELU(), torch.nn.Dropout(0.1), torch.nn.Linear(feedforward, width))

    def forward(self, x, keep=None):
        b, n, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, n, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        with torch.autocast(DEVICE, enabled=False):
            a, density = self.attention(q.float(), k.float(), v.float(), keep)
        x = x + F.dropout(self.out(a.transpose(1, 2).reshape(b, n, width)), 0.1)
        return x + F.dropout(self.feedforward(self.norm2(x)), 0.1), density


class ListOpsModel(torch.nn.Module):
    def __init__(self, n, width=64, heads=2, feedforward=128, layers=2, make_attention=None):
        super().__init__()
        make_attention = make_attention or (lambda heads, d: DenseSbm(heads, d, 128, 0.1))
        self.tokens, self.positions = torch.nn.Embedding(32, width), torch.nn.Embedding(n, width)
        self.blocks = torch.nn.ModuleList(Block(width, heads, feedforward, make_attention(heads, width // heads)) for _ in range(layers))
        self.norm = torch.nn.LayerNorm(width)
        self.head = torch.nn.Sequential(torch.nn.Linear(width, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))

    def forward(self, ids, labels, keep=None):
        x = F.dropout(self.tokens(ids) + self.positions.weight[:ids.shape[1]], 0.1)
        densities = []
        for block in self.blocks:
            x, density = block(x, keep)
            densities.append(density)
        loss = F.cross_entropy(self.head(self.norm(x).mean(1)), labels)
        return loss + 1e-4 * torch.stack(densities).mean()


def listops_step(out, n, batch, micro_batch, name):
    def run():
        model = ListOpsModel(n).to(DEVICE)
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, eps=1e-6, weight_decay=0)
        ids = torch.randint(1, 16, (batch, n), device=DEVICE)
        labels = torch.randint(0, 10, (batch,), device=DEVICE)
        if DEVICE == "cuda":
            torch.cuda.reset_peak_memory_stats()

        def step():
            optimizer.zero_grad(set_to_none=True)
            for i in range(0, batch, micro_batch):
                with torch.autocast(DEVICE, dtype=torch.bfloat16):
                    loss = model(ids[i:i + micro_batch], labels[i:i + micro_batch]) * (micro_batch / batch)
                loss.backward()
            optimizer.step()

        result = {"ms": milliseconds(step)}
        if DEVICE == "cuda":
            result["peak_mb"] = torch.cuda.max_memory_allocated() * 1e-6
        return result

    out.attempt(run, name="step/" + name, op="step", implementation="eager_dense", n=n, batch=batch, k=128, percent=25, precision="bf16")


# --- selections ---

def all_of_shape(out, shape, percents):
    dense_backends(out, shape)
    for percent in percents:
        additive_masks(out, shape, percent)
        flex(out, shape, percent)


def run_all(out):
    listops_step(out, 2048, 128, 32, "lra_listops/eager_dense/micro_batch:32")
    for d in (64, 32):
        all_of_shape(out, (256, 4096, d), (25.0, 2.0))
    for n in (4096, 8192, 16384, 32768):
        listops_step(out, n, 1, 1, f"one_sequence/eager_dense/N:{n}")
    for bh, n in ((64, 1024), (64, 2048), (256, 2048), (256, 4096)):
        sbm_layer(out, (bh, n, 32), 128)
    for percent in (1.0, 5.0, 25.0):
        sparse_csr(out, (16, 4096, 64), percent)
    for bh, n in ((256, 2048), (256, 1024), (64, 4096), (16, 16384)):
        for d in (64, 32):
            all_of_shape(out, (bh, n, d), (25.0, 2.0))


def run_dense(out):
    for d in (64, 32):
        dense_backends(out, (256, 4096, d))


def run_smoke(out):
    all_of_shape(out, (2, 128, 32), (25.0,))
    sparse_csr(out, (2, 64, 32), 25.0)
    sbm_layer(out, (4, 64, 32), 16)
    listops_step(out, 64, 2, 1, "smoke")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jsonl", default="", help="file that results are appended to")
    parser.add_argument("--seconds", type=float, default=1e9, help="start nothing new after this time")
    parser.add_argument("--dense", action="store_true", help="dense attention only, in the shape of bench_cuda's targets")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, on the CPU where there is no GPU")
    options = parser.parse_args()
    if DEVICE == "cpu" and not options.smoke:
        print("peers.py: not available: PyTorch sees no GPU", file=sys.stderr)
        return 4
    out = Output(options.jsonl, options.seconds)
    try:
        (run_smoke if options.smoke else run_dense if options.dense else run_all)(out)
    except OutOfTime:
        print("peers.py: stopped after --seconds", file=sys.stderr)
    return 0


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if __name__ == "__main__":
    sys.exit(main())
